"""No row is lost and none is let through that does not belong, whatever is in it."""

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.convert.examples import Converter, with_reasons
from data_prep.coordinates import MODEL_FAMILIES, Frame
from data_prep.pictures import Picture
from data_prep.rows.example import REJECT_CODES, Mapper
from data_prep.rows.prompts import load_templates
from data_prep.sources.files import COLUMNS
from data_prep.sources.side_tables import Exclusion
from data_prep.thinkvg import main
from phantom.draw.__main__ import main as phantom_main
from phantom.draw.rows import ODDITIES, Dirt
from reward.ground_truth import GroundTruth
from reward.response import parse_response

PATH = "/p10/p10000001/s50000001/a.jpg"
GOOD = {
    "image_path": PATH,
    "question": "Which is it? <choices>: [A: one, B: two, C: [1, 2, 3, 4], D: four]",
    "question_type": "single_choice_questions",
    "thinkVG": "The left lung ([84, 42, 168, 210]) and the spine [90, 4, 120, 300] are clear.",
    "response": "<response><answer>B</answer><location><ref>left lung</ref>"
    "<box>[84, 42, 168, 210]</box><ref>spine</ref><box>[90, 4, 120, 300]</box></location>"
    "</response>",
}
PIECES = st.sampled_from(
    [
        *("<answer>", "</answer>", "<location>", "</location>", "<ref>", "</ref>", "<box>"),
        *("</box>", "<think>", "</think>", "<response>", "<image>", "<video>", "[", "]", "(", ")"),
        *("[1, 2, 3, 4]", "[1, 2, 3]", "[84, 42, 168, 210]", "[9, 9, 9, 9]", "[1e9, 0, 2e9, 1]"),
        *("[inf, 0, 1, 1]", "[nan, 1, 2, 3]", "{1, 2, 30, 40}", "[[1, 2, 30, 40], [5, 6, 70, 80]]"),
        *("Yes", "No", "B", "['A', 'C']", ", ", "\n", "\0", "é", "🫁", "{question}", "-", "1e400"),
        *(
            "[-1, -1, 20, 20]",
            "(1, 2), (30, 40)",
            "(nan, inf, nan, inf)",
            "[0.1, 0.2, 0.3, 0.4]",
            "<choices>: [A: x]",
        ),
    ]
)


@st.composite
def mutations(draw):
    """A good row with something cut out, put in, repeated or replaced in some of its columns."""
    row = dict(GOOD)
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(COLUMNS))
        text = row[name] or ""
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        row[name] = draw(
            st.one_of(
                PIECES.map(lambda piece, a=text[:start], b=text[end:]: a + piece + b),
                st.just(text[:start] + text[end:]),
                st.just(text[:end] + text[start:]),
                st.text(max_size=30),
                st.lists(PIECES, max_size=8).map("".join),
                st.none(),
                st.sampled_from(list(GOOD.values())),
            )
        )
    return row


@pytest.fixture(scope="module")
def converter():
    pictures = {PATH: Picture("/pictures/a.jpg", (672, 336), (672, 336)), "/b": "unreadable_image"}
    mapper = Mapper(Frame((336, 336), "stretch"), MODEL_FAMILIES["qwen2_5_vl"], 3136, 1003520)
    indices = np.arange(100, 110)
    return Converter(indices, mapper, pictures, load_templates(), {}, Exclusion(), None, ())


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(mutations(), min_size=1, max_size=6))
def test_a_mutated_row_is_accepted_whole_or_rejected_with_a_reason(converter, rows):
    rows = [
        {
            name: value.encode("utf-8", "replace").decode() if value is not None else None
            for name, value in row.items()
        }
        for row in rows
    ]
    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    table = pa.Table.from_pylist(rows, schema)
    converted = converter(table, list(range(len(rows))))
    examples = converted.to_pylist()
    assert [example["index"] for example in examples] == list(range(100, 100 + len(rows)))
    for example in examples:
        if example["reason"] is None:
            check_accepted(example)
        else:
            assert example["reason"] in REJECT_CODES
            assert example["reason"] != "internal_error"
    rejects = with_reasons(
        table, converted["index"].to_pylist(), converted["reason"].to_pylist()
    ).to_pylist()
    for reject, row in zip(rejects, rows, strict=True):
        assert {name: reject[name] for name in COLUMNS} == row


def check_accepted(row):
    """What training and reward rely on in a row."""
    truth = GroundTruth.parse(row["reward_model"]["ground_truth"])
    (user,) = row["prompt"]
    assert user["content"].count("<image>") == 1
    assert "<video>" not in user["content"]
    assert row["patient"] == "p10000001"
    if row["messages"] is None:
        return
    response = row["messages"][1]["content"]
    assert "<image>" not in response
    read = parse_response(response)
    assert read.think_regions == truth.think_regions
    assert [region.box for region in read.regions] == [region.box for region in truth.regions]
    assert read.answer
    assert read.well_formed


def truths(out):
    found = {}
    for split in ("train", "val", "test"):
        for row in pq.read_table(out / f"{split}.parquet").to_pylist():
            found[row["extra_info"]["index"]] = (row["prompt"], row["reward_model"], row["images"])
    return found


@pytest.fixture(scope="module")
def filthy(tmp_path_factory):
    """A phantom set with every kind of faulty row."""
    out = tmp_path_factory.mktemp("filthy")
    options = ["--images", "60", "--workers", "1", "--dirty", "0.5", "--faults", "all"]
    assert phantom_main(["--out", str(out), *options]) == 0
    return out


def test_every_kind_of_fault_gets_its_code(filthy, paths, tmp_path):
    assert main(paths(filthy, tmp_path)) == 0
    audit = json.loads((tmp_path / "audit.json").read_text())
    faults = Dirt(0.5, all_kinds=True).faults()
    rejects = pq.read_table(tmp_path / "rejects.parquet").to_pylist()
    first = audit["rows"]["source"] - len(rejects)
    assert len(rejects) > len(faults)
    for row in rejects:
        code, _ = faults[(row["source_index"] - first) % len(faults)]
        assert row["reason"] == code
    assert sorted(truths(tmp_path)) == list(range(first))
    assert audit["rows"]["conserved"] is True
    assert audit["rejects"] == Counter(row["reason"] for row in rejects)


def test_odd_ways_of_writing_change_nothing(tmp_path, paths):
    options = ["--images", "150", "--workers", "1"]
    for name, odd in (("plain", "0"), ("odd", "1")):
        assert phantom_main(["--out", str(tmp_path / name), *options, "--odd", odd]) == 0
    for name in ("plain", "odd"):
        # The pictures are the same; one folder for both, so that the paths are.
        arguments = paths(tmp_path / name, tmp_path / f"{name}-out")
        arguments[3] = str(tmp_path / "plain" / "files")
        assert main(arguments) == 0
    plain, odd = truths(tmp_path / "plain-out"), truths(tmp_path / "odd-out")
    assert odd == plain
    assert len(plain) > 10 * len(ODDITIES)


@pytest.mark.parametrize("limit", [None, 30])
@pytest.mark.parametrize("kind", ["path", "name", "study", "patient"])
def test_excluded_images_are_rejected_and_counted(phantom, paths, tmp_path, kind, limit):
    table = pq.read_table(phantom / "data" / "train-00000-of-00001.parquet")
    path = table["image_path"][0].as_py()
    patient, study, name = path.strip("/").split("/")[1:]
    entry = {"path": path, "name": name, "study": study, "patient": patient}[kind]
    (tmp_path / "list.txt").write_text(f"# test images\n\n{entry}\nnone.jpg\n")
    options = ["--exclude", str(tmp_path / "list.txt"), *(["--limit", "30"] if limit else [])]
    assert main([*paths(phantom, tmp_path / "out"), *options, "--workers", "1"]) == 0
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    rejects = pq.read_table(tmp_path / "out" / "rejects.parquet")
    paths_left = {row["image_path"] for row in rejects.to_pylist()}
    if limit is None:
        assert path in paths_left
        assert audit["rejects"] == {"excluded": rejects.num_rows}
    assert all(path.split("/")[2] == patient for path in paths_left)
    assert audit["rows"]["conserved"] is True


def test_an_exclusion_list_at_fault_is_named(phantom, paths, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("\n# nothing\n")
    for name, words in (("empty.txt", "holds no entry"), ("none.txt", "does not read")):
        arguments = [*paths(phantom, tmp_path / "out"), "--exclude", str(tmp_path / name)]
        assert main(arguments) == 2
        error = capsys.readouterr().err.strip()
        assert f"--exclude {tmp_path / name} {words}" in error
        assert len(error.splitlines()) == 1


def test_repeated_questions_are_counted(make_dataset, paths, tmp_path, capsys):
    other = {"response": "<answer>No</answer>"}
    dataset = make_dataset({}, {}, other, {"question": "Is there an effusion?"}, other)
    assert main(paths(dataset, tmp_path / "out")) == 0
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert audit["repeats"] == {"rows": 3, "other_answers": 1}
    assert audit["patients_in_two_splits"] == 0
    assert "1 questions are asked again" in capsys.readouterr().err


def test_an_empty_split_is_pointed_out(make_dataset, paths, tmp_path, capsys):
    assert main(paths(make_dataset({}), tmp_path / "out")) == 0
    error = capsys.readouterr().err
    for split in ("val", "test"):
        assert f"{split}.parquet is empty: too few patients for --{split} 0.05" in error
    assert main([*paths(tmp_path / "set", tmp_path / "out"), "--val", "0", "--test", "0"]) == 0
    assert "is empty" not in capsys.readouterr().err


@pytest.mark.parametrize("workers", [1, 2])
def test_embedded_images_are_the_files(phantom, paths, tmp_path, workers):
    options = ["--embed-images", "--limit", "40", "--workers", str(workers)]
    assert main([*paths(phantom, tmp_path), *options]) == 0
    for row in pq.read_table(tmp_path / "train.parquet").to_pylist():
        (image,) = row["images"]
        assert set(image) == {"bytes", "min_pixels", "max_pixels"}
        path = phantom / "files" / row["extra_info"]["image_path"].lstrip("/")
        assert image["bytes"] == path.read_bytes()


def test_a_limit_is_spread_over_the_source(phantom, paths, tmp_path):
    assert main([*paths(phantom, tmp_path), "--limit", "200", "--workers", "1"]) == 0
    indices = np.array(sorted(truths(tmp_path)))
    assert len(indices) == 200
    assert indices.max() - indices.min() > 1200
