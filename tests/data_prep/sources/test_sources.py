import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.program import SYNTHETIC, InputError
from data_prep.sources.files import COLUMNS, hub_name, list_items, open_source
from data_prep.sources.gemex import UnknownForm, as_thinkvg
from data_prep.thinkvg import main
from phantom.draw.__main__ import main as phantom_main

SAMPLE = {
    "question": "Which regions are abnormal?",
    "choices": ["A: right lung", "B: spine", "C: left lung", "D: abdomen"],
    "type": "location",
    "answer": ["A", "C"],
    "reason": "Both lungs show opacities.",
    "visual_regions": ["right lung", "left lung"],
    "visual_locations": [[43, 38, 117, 147], [121, 9, 179, 192]],
    "image_path": "p10/p10000001/s50000001/a.jpg",
}
CONVERSATION = {
    "conversations": [
        {"from": "human", "value": "<image>\nIs the heart enlarged?"},
        {
            "from": "gpt",
            "value": "<answer> No. <reason> The heart is normal. <location> [[36, 82, 180, 187]]",
        },
    ],
    "q_type": "closed_ended_questions",
    "image": "p10/p10000001/s50000001/a.jpg",
}


def rows_of(path):
    return pq.read_table(path).to_pylist()


def truths(out):
    """Each accepted row's ground truth, without the names of regions."""
    found = {}
    for split in ("train", "val", "test"):
        for row in rows_of(out / f"{split}.parquet"):
            truth = json.loads(row["reward_model"]["ground_truth"])
            truth["regions"] = [region["box"] for region in truth["regions"]]
            found[row["extra_info"]["index"]] = (truth, row["prompt"][0]["content"])
    return found


@pytest.mark.parametrize("second", [SYNTHETIC, {}], ids=["drawn", "of patients"])
def test_a_source_is_synthetic_if_all_of_its_files_are(tmp_path, second):
    rows = pa.table({name: ["text"] for name in COLUMNS})
    for name, metadata in (("a", SYNTHETIC), ("b", second)):
        pq.write_table(rows.replace_schema_metadata(metadata), tmp_path / f"{name}.parquet")
    source = open_source(str(tmp_path))
    assert source.synthetic == bool(second)
    assert (source.schema.metadata or {}) == second


def test_a_sample_becomes_a_row():
    row = as_thinkvg(SAMPLE)
    assert row["question"] == (
        "Which regions are abnormal? <choices>: [A: right lung, B: spine, C: left lung, D: abdomen]"
    )
    assert row["question_type"] == "multi_choice_questions"
    assert row["thinkVG"] == SAMPLE["reason"]
    assert row["response"] == (
        "<answer>A, C</answer><location><ref>right lung</ref><box>[43, 38, 117, 147]</box>"
        "<ref>left lung</ref><box>[121, 9, 179, 192]</box></location>"
    )


def test_a_conversation_becomes_a_row():
    assert as_thinkvg(CONVERSATION) == {
        "image_path": CONVERSATION["image"],
        "question": "Is the heart enlarged?",
        "question_type": "closed_ended_questions",
        "thinkVG": "The heart is normal.",
        "response": "<answer>No.</answer><location><box>[[36, 82, 180, 187]]</box></location>",
    }


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"choices": None, "answer": "Yes."}, "closed_ended_questions"),
        ({"choices": [], "answer": "no"}, "closed_ended_questions"),
        ({"choices": None, "answer": "No cardiomegaly."}, "open_ended_questions"),
        ({"answer": "B"}, "single_choice_questions"),
        ({"answer": "C: left lung"}, "multi_choice_questions"),
        ({"answer": ["A"]}, "multi_choice_questions"),
        ({"question_type": "single_choice_questions"}, "single_choice_questions"),
    ],
)
def test_the_type_of_a_sample_follows_from_its_answer(changes, kind):
    assert as_thinkvg(SAMPLE | changes)["question_type"] == kind


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({"row": "{no json"}, "bad_json"),
        ({"row": None}, "bad_json"),
        ({"row": "[1, 2]"}, "unknown_form"),
        ({"row": '{"a": 1}'}, "unknown_form"),
        ({"row": '{"question": "\ufffd", "visual_regions": []}'}, "bad_text"),
        ({"question": "What?", "answer": "Nothing."}, "unknown_form"),
        ({"conversations": "hello"}, "unknown_form"),
        ({"conversations": [1]}, "unknown_form"),
        # Two questions in one row: one of them would be lost.
        ({"conversations": [*CONVERSATION["conversations"]] * 2}, "unknown_form"),
        (SAMPLE | {"visual_regions": 5}, "unknown_form"),
        (SAMPLE | {"visual_regions": {"lung": 1}}, "unknown_form"),
    ],
)
def test_other_forms_are_named(record, code):
    with pytest.raises(UnknownForm, match=f"^{code}$"):
        as_thinkvg(record)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(JSON_VALUES, max_size=8), st.integers(1, 40), st.sampled_from([None, 1]))
def test_a_list_is_read_whole_wherever_it_is_cut(values, size, indent):
    text = json.dumps(values, indent=indent)
    assert [json.loads(item) for item in list_items(io.StringIO(text), "a.json", size)] == values


@pytest.mark.parametrize("text", ["[1, 2", "[1, {]", "[1 2 x]", "[", '["open'])
def test_a_list_that_is_no_json_is_a_fault_of_the_file(text):
    with pytest.raises(InputError, match=r"a\.json is no JSON list after its value number"):
        list(list_items(io.StringIO(text), "a.json"))


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2] [3]",
        "[1, 2]\n[3, 4]\n",  # JSON lines that are lists
        "[1, 2]" + " " * 100 + "{}",
        "[1], 2]",
    ],
)
@pytest.mark.parametrize("size", [3, 1000])
def test_what_follows_a_list_is_refused(text, size):
    with pytest.raises(InputError, match=r"a\.json goes on after its list"):
        list(list_items(io.StringIO(text), "a.json", size))


@pytest.mark.parametrize("other", ["b.json", "c.parquet"])
def test_files_of_two_kinds_are_refused(tmp_path, other):
    for name in ("a.jsonl", other):
        (tmp_path / name).write_text("[]")
    with pytest.raises(InputError, match=rf"two kinds, such as {other} and a\.jsonl: name one"):
        open_source(str(tmp_path))


def test_a_conversation_without_marks_has_no_answer(make_dataset, paths, tmp_path):
    """It must not end the run, nor take other rows with it."""
    talk = [{"from": "human", "value": "Is it?"}, {"from": "gpt", "value": "It is normal."}]
    dataset = make_dataset({})
    rows = [CONVERSATION, CONVERSATION | {"conversations": talk}, SAMPLE | {"visual_regions": 5}]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--source", str(source), "--images", str(dataset), "--frame", "224"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert audit["rejects"] == {"unknown_form": 1, "no_answer": 1}
    assert audit["rows"]["train"] == 1


def test_choices_may_be_an_object():
    choices = {"A": "right lung", "B": "spine"}
    row = as_thinkvg(SAMPLE | {"choices": choices})
    assert row["question"].endswith("<choices>: [A: right lung, B: spine]")


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """The same phantom set in each form."""
    made = {}
    for form in ("thinkvg", "gemex", "conversations"):
        made[form] = tmp_path_factory.mktemp(form)
        options = ["--images", "40", "--workers", "1", "--form", form]
        assert phantom_main(["--out", str(made[form]), *options]) == 0
    return made


@pytest.mark.parametrize("form", ["gemex", "conversations"])
def test_every_form_gives_the_same_rows(forms, paths, tmp_path, form):
    for name in ("thinkvg", form):
        assert main([*paths(forms[name], tmp_path / name), "--workers", "1"]) == 0
    assert truths(tmp_path / form) == truths(tmp_path / "thinkvg")
    assert len(truths(tmp_path / form)) > 100


def test_lines_at_fault_are_rejected_as_they_are(forms, paths, tmp_path):
    lines = (forms["gemex"] / "data" / "train.jsonl").read_text().splitlines()
    bad = [
        '{"question": "half',
        '{"a": 1}',
        "null",
        '{"question": "\\ud800", "visual_locations": []}',
    ]
    source = tmp_path / "rows.jsonl"
    source.write_text("\ufeff" + "\n".join([*lines, "", *bad]) + "\n")
    arguments = ["--source", str(source), "--images", str(forms["gemex"])]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    rejects = rows_of(tmp_path / "out" / "rejects.parquet")
    assert [row["row"] for row in rejects] == bad
    assert [row["reason"] for row in rejects] == [
        "bad_json",
        "unknown_form",
        "unknown_form",
        "bad_text",
    ]
    assert [row["source_index"] for row in rejects] == list(range(len(lines), len(lines) + 4))


def test_gemex_rows_may_be_in_parquet(make_dataset, tmp_path):
    dataset = make_dataset({})
    for name, row in (("sample", SAMPLE), ("conversation", CONVERSATION)):
        source = tmp_path / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist([row]), source)
        arguments = ["--source", str(source), "--images", str(dataset), "--frame", "224"]
        assert main([*arguments, "--out", str(tmp_path / name)]) == 0
        assert len(rows_of(tmp_path / name / "train.parquet")) == 1


def test_several_files_are_one_source(tmp_path):
    table = pa.table(
        {name: [name] for name in ("image_path", "question", "question_type", "thinkVG")}
    )
    (tmp_path / "data").mkdir()
    for number in range(3):
        more = table.append_column("response", [[str(number)]])
        pq.write_table(more, tmp_path / "data" / f"{number}.parquet")
    source = open_source(str(tmp_path))
    assert source.rows == 3
    (batch,) = source.batches(10)
    assert batch.column("response").to_pylist() == ["0", "1", "2"]
    assert [len(part) for part in source.batches(2)] == [2, 1]


@pytest.mark.parametrize("size", [1, 7, 100, 5000])
def test_batches_have_the_size_asked_for(phantom, size):
    source = open_source(str(phantom))
    lengths = [batch.num_rows for batch in source.batches(size)]
    assert sum(lengths) == source.rows
    assert set(lengths[:-1]) <= {size}


@pytest.mark.parametrize(
    ("name", "text"), [("question", b"Is it?"), ("image_path", b"/p10/p10000001/s50000001/a.jpg")]
)
def test_text_that_is_no_utf8_is_rejected_alone(make_dataset, paths, tmp_path, name, text):
    dataset = make_dataset({}, {}, {})
    file = dataset / "data" / "train.parquet"
    table = pq.read_table(file)
    raw = pa.array([text, b"a \xff b", text], pa.binary())
    column = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(table.set_column(table.schema.get_field_index(name), name, column), file)
    assert main(paths(dataset, tmp_path / "out")) == 0
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert audit["rejects"] == {"bad_text": 1}
    assert audit["rows"]["train"] == 2


def test_a_hub_name_takes_its_revision_from_the_config(tmp_path):
    config = tmp_path / "hub.yaml"
    config.write_text("owner/name:\n  revision: abc123\n  split: test\n")
    assert hub_name("owner/name", config).revision == "abc123"
    assert hub_name("owner/name", config).split == "test"
    assert hub_name("owner/name@other", config).revision == "other"
    with pytest.raises(InputError, match="no revision"):
        hub_name("owner/unknown", config)
    with pytest.raises(InputError, match="OWNER/NAME"):
        hub_name("name@1", config)
    assert hub_name("BoKelvin/GEMeX-ThinkVG").revision


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("nowhere", "nowhere does not exist"),
        ("owner/name", "for the hub write hub:owner/name"),
        (".", "holds no data"),
    ],
)
def test_a_source_that_is_none_is_named(tmp_path, monkeypatch, source, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=named):
        open_source(source)


@pytest.mark.parametrize("kind", [pa.dictionary(pa.int32(), pa.string()), pa.string_view()])
def test_text_is_read_however_it_is_kept(make_dataset, paths, tmp_path, kind):
    dataset = make_dataset({}, {})
    file = dataset / "data" / "train.parquet"
    table = pq.read_table(file)
    plain = tmp_path / "plain"
    assert main(paths(dataset, plain)) == 0
    table = table.cast(pa.schema([(name, kind) for name in table.column_names]))
    pq.write_table(table, file)
    assert pq.read_schema(file).types == [kind] * table.num_columns
    assert main(paths(dataset, tmp_path / "out")) == 0
    assert rows_of(tmp_path / "out" / "train.parquet") == rows_of(plain / "train.parquet")


def test_a_column_may_be_empty(make_dataset, paths, tmp_path):
    dataset = make_dataset({"thinkVG": None})
    file = dataset / "data" / "train.parquet"
    assert pa.types.is_null(pq.read_schema(file).field("thinkVG").type)
    assert main(paths(dataset, tmp_path / "out")) == 0
    assert len(rows_of(tmp_path / "out" / "train.parquet")) == 1


@pytest.mark.parametrize("name", ["question", "more"])
def test_a_column_that_is_there_twice_is_named(make_dataset, paths, tmp_path, capsys, name):
    dataset = make_dataset({})
    file = dataset / "data" / "train.parquet"
    table = pq.read_table(file)
    for _ in range(2 - (name in table.column_names)):
        table = table.append_column(name, pa.array(["a"]))
    pq.write_table(table, file)
    assert main(paths(dataset, tmp_path / "out")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"{file} has the column {name} twice: rename or drop one"


def test_rejects_keep_columns_that_are_called_like_theirs(make_dataset, tmp_path):
    dataset = make_dataset({})
    rows = [SAMPLE, SAMPLE | {"visual_locations": [[9, 9, 1, 1]], "visual_regions": ["lung"]}]
    source = tmp_path / "rows.parquet"
    pq.write_table(
        pa.Table.from_pylist([row | {"source_index": 7, "source_reason": "x"} for row in rows]),
        source,
    )
    arguments = ["--source", str(source), "--images", str(dataset), "--frame", "224"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    (row,) = rows_of(tmp_path / "out" / "rejects.parquet")
    assert row["reason"] == "degenerate_box"
    assert row["source_reason_"] == SAMPLE["reason"]
    assert row["source_reason"] == "x"
    assert (row["source_index"], row["source_source_index"]) == (1, 7)
