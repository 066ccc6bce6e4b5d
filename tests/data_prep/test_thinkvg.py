import json
import re
import subprocess
import sys
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.program import is_synthetic, read_metadata
from data_prep.thinkvg import main
from phantom.draw.rows import FAULTS
from reward.ground_truth import GroundTruth
from reward.response import parse_response
from reward.settings import load_preset
from reward.thinkvg import compute_score

SPLITS = ("train", "val", "test")
COLUMNS = ("image_path", "question", "question_type", "thinkVG", "response")
FRACTIONS = ("1of2", "1of4", "1of8", "1of16")
FILES = {
    *(f"{split}.parquet" for split in SPLITS),
    "sft_train.parquet",
    "sft_val.parquet",
    *(f"{prefix}train-{part}.parquet" for prefix in ("", "sft_") for part in FRACTIONS),
    "rejects.parquet",
    "missing_images.txt",
    "audit.json",
    "audit.html",
}


def read(path):
    return pq.read_table(path).to_pylist()


def indices(path):
    return [row["extra_info"]["index"] for row in read(path)]


def audit_of(out):
    return json.loads((out / "audit.json").read_text())


def source_rows(dataset):
    return read(dataset / "data" / "train-00000-of-00001.parquet")


def test_every_file_is_written_and_no_other(prepared):
    assert {file.name for file in prepared.iterdir()} == FILES


def test_every_row_ends_in_one_place(prepared, dirty_phantom):
    found = [index for split in SPLITS for index in indices(prepared / f"{split}.parquet")]
    found += [row["source_index"] for row in read(prepared / "rejects.parquet")]
    assert sorted(found) == list(range(len(source_rows(dirty_phantom))))
    rows = audit_of(prepared)["rows"]
    assert rows["conserved"] is True
    assert rows["source"] == len(found)
    for split in SPLITS:
        assert rows[split] == len(read(prepared / f"{split}.parquet")) > 0


def test_every_fault_is_rejected_under_its_name_and_nothing_else(prepared, dirty_phantom):
    source = source_rows(dirty_phantom)
    rejects = read(prepared / "rejects.parquet")
    reasons = Counter(row["reason"] for row in rejects)
    assert set(reasons) == set(FAULTS)
    assert audit_of(prepared)["rejects"] == reasons
    # The generator appends the faulty rows, kind after kind.
    first = rejects[0]["source_index"]
    assert [row["source_index"] for row in rejects] == list(range(first, len(source)))
    for row in rejects:
        assert {name: row[name] for name in source[0]} == source[row["source_index"]]


def test_no_patient_is_in_two_splits(prepared):
    patients = {
        split: {row["extra_info"]["patient"] for row in read(prepared / f"{split}.parquet")}
        for split in SPLITS
    }
    assert not patients["train"] & patients["val"]
    assert not patients["train"] & patients["test"]
    assert not patients["val"] & patients["test"]


def test_fractions_are_nested_in_both_sets(prepared):
    for prefix in ("", "sft_"):
        larger = indices(prepared / f"{prefix}train.parquet")
        for part in FRACTIONS:
            smaller = indices(prepared / f"{prefix}train-{part}.parquet")
            assert set(smaller) < set(larger)
            assert len(smaller) == pytest.approx(len(larger) / 2, abs=1)
            larger = smaller
    for part in FRACTIONS:
        assert indices(prepared / f"train-{part}.parquet") == indices(
            prepared / f"sft_train-{part}.parquet"
        )


def test_rollout_rows_have_verls_columns(prepared, dirty_phantom):
    row = read(prepared / "train.parquet")[0]
    assert list(row) == [
        "data_source",
        "prompt",
        "images",
        "ability",
        "reward_model",
        "extra_info",
    ]
    assert row["data_source"] == "thinkvg"
    (message,) = row["prompt"]
    assert message["role"] == "user"
    assert message["content"].count("<image>") == 1
    assert row["extra_info"]["question"] in message["content"]
    (image,) = row["images"]
    assert image["min_pixels"] == 12544
    assert image["max_pixels"] == 15680
    assert image["image"].startswith(str(dirty_phantom.resolve()))
    assert row["reward_model"]["style"] == "rule"
    assert GroundTruth.parse(row["reward_model"]["ground_truth"]).image_size == (112, 112)
    assert set(row["extra_info"]) == {
        "index",
        "split",
        "question",
        "patient",
        "study",
        "image_path",
    }
    source = source_rows(dirty_phantom)[row["extra_info"]["index"]]
    assert row["extra_info"]["image_path"] == source["image_path"]


def test_boxes_go_from_the_frame_to_the_models_pixels(prepared, dirty_phantom):
    source = source_rows(dirty_phantom)
    for row in read(prepared / "train.parquet"):
        truth = GroundTruth.parse(row["reward_model"]["ground_truth"])
        before = parse_response(source[row["extra_info"]["index"]]["response"]).regions
        assert [region.ref for region in before] == [region.ref for region in truth.regions]
        for old, new in zip(before, truth.regions, strict=True):
            # 112 of 336: a third.
            assert new.box == pytest.approx([side / 3 for side in old.box], abs=0.51)


def test_the_text_to_imitate_earns_the_whole_reward(prepared):
    settings = load_preset("dense")
    truths = {
        row["extra_info"]["index"]: row["reward_model"]["ground_truth"]
        for row in read(prepared / "train.parquet")
    }
    for row in read(prepared / "sft_train.parquet"):
        user, assistant = row["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        truth = truths[row["extra_info"]["index"]]
        scores = compute_score(
            "thinkvg", assistant["content"], truth, row["extra_info"], **settings
        )
        assert scores["score"] == pytest.approx(1), assistant["content"]


def test_prompts_of_both_stages_are_the_same(prepared):
    rollout = {row["extra_info"]["index"]: row for row in read(prepared / "val.parquet")}
    for row in read(prepared / "sft_val.parquet"):
        twin = rollout[row["extra_info"]["index"]]
        assert row["messages"][0] == twin["prompt"][0]
        assert row["images"] == twin["images"]


def test_verls_image_loader_gives_the_size_that_was_assumed(prepared):
    from qwen_vl_utils import fetch_image

    for row in read(prepared / "val.parquet"):
        size = GroundTruth.parse(row["reward_model"]["ground_truth"]).image_size
        assert fetch_image(row["images"][0], image_patch_size=14).size == size


@pytest.mark.parametrize("name", ["train", "test", "sft_train-1of8"])
def test_metadata_says_what_the_files_are_for(prepared, name):
    values = read_metadata(prepared / f"{name}.parquet")
    assert values["model_family"] == "qwen2_5_vl"
    assert values["coordinates"] == "absolute"
    assert (values["min_pixels"], values["max_pixels"]) == (12544, 15680)
    assert values["prompt_version"].startswith("thinkvg-")
    assert values["split"] == name.removeprefix("sft_").split("-")[0]
    assert values["fraction"] == ("1of8" if "1of8" in name else "full")
    assert "Synthetic" in values["notice"]


def test_every_file_of_drawn_data_says_that_it_is_synthetic(prepared):
    files = list(prepared.glob("*.parquet"))
    assert len(files) > 10
    assert all(map(is_synthetic, files))


def test_data_that_says_nothing_is_not_synthetic(make_dataset, paths, tmp_path):
    assert main([*paths(make_dataset({}), tmp_path / "out"), "--val", "0", "--test", "0"]) == 0
    assert not is_synthetic(tmp_path / "out" / "train.parquet")
    assert not is_synthetic(tmp_path / "nothing.parquet")


def test_metadata_of_another_file_is_refused(phantom, tmp_path):
    with pytest.raises(ValueError, match="train-00000"):
        read_metadata(phantom / "data" / "train-00000-of-00001.parquet")
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match=r"text\.parquet"):
        read_metadata(tmp_path / "text.parquet")
    with pytest.raises(FileNotFoundError, match=r"none\.parquet"):
        read_metadata(tmp_path / "none.parquet")


def test_the_audit_names_its_parameters_and_shows_pictures(prepared):
    parameters = audit_of(prepared)["parameters"]
    assert parameters["frame"] == "336x336"
    assert parameters["fit"] == "stretch"
    assert parameters["seed"] == 0
    assert parameters["source"][0].endswith(".parquet")
    assert audit_of(prepared)["image_sizes"] == {"112x112": 80}
    page = (prepared / "audit.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 12
    assert "Synthetic" in page
    for reason in FAULTS:
        assert reason in page


def test_the_bytes_depend_on_the_input_alone(prepared, dirty_phantom, paths, tmp_path):
    options = ["--min-pixels", "12544", "--max-pixels", "15680", "--val", "0.1", "--test", "0.2"]
    assert main([*paths(dirty_phantom, tmp_path), *options, "--workers", "1"]) == 0
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (prepared / name).read_bytes(), name


def test_another_seed_splits_otherwise(prepared, dirty_phantom, paths, tmp_path):
    options = ["--val", "0.1", "--test", "0.2", "--seed", "1"]
    assert main([*paths(dirty_phantom, tmp_path), *options]) == 0
    assert indices(tmp_path / "test.parquet") != indices(prepared / "test.parquet")


def test_a_limit_leaves_rows_out_and_counts_them(dirty_phantom, paths, tmp_path):
    assert main([*paths(dirty_phantom, tmp_path), "--limit", "50"]) == 0
    rows = audit_of(tmp_path)["rows"]
    assert rows["left_out"] == rows["source"] - 50
    assert sum(rows[name] for name in (*SPLITS, "rejects")) == 50


def test_qwen3_files_say_so(dirty_phantom, paths, tmp_path):
    assert main([*paths(dirty_phantom, tmp_path), "--model-family", "qwen3_vl"]) == 0
    values = read_metadata(tmp_path / "train.parquet")
    assert (values["model_family"], values["coordinates"]) == ("qwen3_vl", "norm1000")
    row = read(tmp_path / "train.parquet")[0]
    truth = GroundTruth.parse(row["reward_model"]["ground_truth"])
    assert truth.coordinates == "norm1000"
    assert all(side % 32 == 0 for side in truth.image_size)
    assert "from 0 to 1000" in row["prompt"][0]["content"]


def test_the_frame_is_inferred_from_the_boxes(make_dataset, paths, tmp_path):
    boxes = [f"[10, 20, {side}, {side}]" for side in range(120, 334)]
    rows = [{"thinkVG": f"The lung {box} is clear."} for box in boxes]
    dataset = make_dataset(*rows, size=(2544, 3056))
    assert main([*paths(dataset, tmp_path / "out"), "--frame", "auto"]) == 0
    parameters = audit_of(tmp_path / "out")["parameters"]
    assert parameters["frame"] == "336x336"
    assert "largest coordinate 333" in parameters["frame_evidence"]


def test_a_frame_without_evidence_is_refused(make_dataset, paths, tmp_path, capsys):
    assert main([*paths(make_dataset({}), tmp_path / "out"), "--frame", "auto"]) == 2
    assert "--frame auto needs 200 boxes, found 2: name the frame" in capsys.readouterr().err


def test_padded_boxes_are_moved_back(make_dataset, paths, tmp_path):
    dataset = make_dataset({"response": "<answer>No</answer><location><ref>a</ref>"
                            "<box>[84, 84, 168, 252]</box></location>",
                            "thinkVG": "Nothing is seen."})  # fmt: skip
    assert main([*paths(dataset, tmp_path / "out"), "--fit", "pad"]) == 0
    truth = GroundTruth.parse(
        read(tmp_path / "out/train.parquet")[0]["reward_model"]["ground_truth"]
    )
    assert truth.regions[0].box == (168, 0, 336, 336)


@pytest.mark.parametrize("below", ["", "files"])
@pytest.mark.parametrize("prefix", ["/", "", "/files/"])
def test_pictures_are_found_with_or_without_files(make_dataset, tmp_path, below, prefix):
    dataset = make_dataset({"image_path": f"{prefix}p10/p10000001/s50000001/a.jpg"})
    arguments = ["--source", str(dataset / "data" / "train.parquet")]
    arguments += ["--images", str(dataset / below), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    (row,) = read(tmp_path / "out" / "train.parquet")
    with Image.open(row["images"][0]["image"]) as picture:
        assert picture.size == (672, 336)


def test_a_path_cannot_leave_the_image_folder(make_dataset, paths, tmp_path):
    dataset = make_dataset({}, {"image_path": "/../files/p10/p10000001/s50000001/a.jpg"})
    assert main(paths(dataset, tmp_path / "out")) == 0
    assert audit_of(tmp_path / "out")["rejects"] == {"missing_image": 1}


def test_rows_without_reasoning_are_kept_for_rollouts_only(make_dataset, paths, tmp_path):
    dataset = make_dataset({}, {"thinkVG": None})
    assert main(paths(dataset, tmp_path / "out")) == 0
    assert indices(tmp_path / "out" / "train.parquet") == [0, 1]
    assert indices(tmp_path / "out" / "sft_train.parquet") == [0]
    assert audit_of(tmp_path / "out")["rows_without_reasoning"] == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("findings.csv", 'study,findings\ns50000001,"Clear, both sides."\n'),
        ("findings.jsonl", '{"study": "s50000001", "findings": "Clear, both sides."}\n'),
        (
            "findings.csv",
            'image_path,findings\n/p10/p10000001/s50000001/a.jpg,"Clear, both sides."\n',
        ),
    ],
)
def test_findings_reach_the_judge(make_dataset, paths, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    arguments = paths(make_dataset({}), tmp_path / "out")
    assert main([*arguments, "--findings", str(tmp_path / name)]) == 0
    (row,) = read(tmp_path / "out" / "train.parquet")
    assert row["extra_info"]["findings"] == "Clear, both sides."


def test_tokens_are_counted_with_the_image(make_dataset, paths, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    arguments = paths(make_dataset({}), tmp_path / "out")
    assert main([*arguments, "--tokenizer", str(tmp_path / "tokenizer")]) == 0
    tokens = audit_of(tmp_path / "out")["tokens"]
    (row,) = read(tmp_path / "out" / "sft_train.parquet")
    user, assistant = (message["content"] for message in row["messages"])
    assert tokens["image"]["max"] == 24 * 12
    assert tokens["prompt"]["max"] == 24 * 12 + len(user.split()) - 1
    assert tokens["response"]["max"] == len(assistant.split())
    info, longest = row["extra_info"], tokens["prompt"]["max"]
    assert (info["prompt_tokens"], info["response_tokens"]) == (longest, tokens["response"]["max"])


def test_lengths_are_not_known_where_they_were_not_asked_for(prepared):
    (row, *_) = read(prepared / "train.parquet")
    assert "prompt_tokens" not in row["extra_info"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--source", "nowhere"),
        ("--images", "nowhere"),
        ("--frame", "large"),
        ("--min-pixels", "0"),
        ("--max-pixels", "100"),
        ("--val", "1.5"),
        ("--test", "0.99"),
        ("--limit", "0"),
        ("--seed", "-1"),
        ("--workers", "0"),
        ("--tokenizer", "nowhere"),
        ("--findings", "nowhere.csv"),
    ],
)
def test_an_option_at_fault_is_named_in_one_line(
    make_dataset, paths, tmp_path, capsys, option, value
):
    assert main([*paths(make_dataset({}), tmp_path / "out"), option, value]) == 2
    error = capsys.readouterr().err.strip()
    assert option in error
    assert value in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"image_path": ["a"], "question": ["b"], "question_type": ["c"]}, "thinkVG, response"),
        (
            {name: ["a"] for name in COLUMNS[:-1]} | {"response": [3]},
            "response holds int64",
        ),
        (
            {name: pa.array([], pa.string()) for name in COLUMNS},
            "no rows",
        ),
        (
            {name: ["a"] for name in COLUMNS}
            | {"sizes": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8()))},
            "a column to drop or convert: Arrow type map<string, int8>",
        ),
    ],
)
def test_a_source_at_fault_is_named(tmp_path, capsys, columns, named):
    source = tmp_path / "broken.parquet"
    pq.write_table(pa.table(columns), source)
    arguments = ["--source", str(source), "--images", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "broken.parquet" in error
    assert named in error


def test_a_source_that_is_no_parquet_is_named(tmp_path, capsys):
    (tmp_path / "broken.parquet").write_text("text")
    arguments = ["--source", str(tmp_path), "--images", str(tmp_path), "--out", str(tmp_path / "o")]
    assert main(arguments) == 2
    assert re.search(r"broken\.parquet is not a readable", capsys.readouterr().err)


def test_no_usable_row_is_an_error_with_its_reason(make_dataset, paths, tmp_path, capsys):
    dataset = make_dataset({"image_path": "/p10/p10000001/s50000001/none.jpg"})
    assert main(paths(dataset, tmp_path / "out")) == 2
    assert "rejected as missing_image" in capsys.readouterr().err.splitlines()[-1]
    assert len(read(tmp_path / "out" / "rejects.parquet")) == 1
    assert audit_of(tmp_path / "out")["rows"]["conserved"] is True


def test_a_folder_that_cannot_be_made_is_named(make_dataset, paths, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(paths(make_dataset({}), tmp_path / "file" / "out")) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err.splitlines()[-1]


def test_bounds_too_close_are_pointed_out(dirty_phantom, paths, tmp_path, capsys):
    options = ["--min-pixels", "12544", "--max-pixels", "12544"]
    assert main([*paths(dirty_phantom, tmp_path), *options]) == 0
    assert "below --min-pixels 12544" in capsys.readouterr().err


def test_neither_torch_nor_verl_is_imported(make_dataset, paths, tmp_path):
    program = (
        "import sys; from data_prep.thinkvg import main; main(sys.argv[1:]); "
        "print({'torch', 'verl', 'datasets'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", program, *paths(make_dataset({}), tmp_path / "out")]
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert output.splitlines()[-1] == "{'datasets'}"


def test_nothing_half_written_is_left(prepared):
    assert not [file for file in prepared.iterdir() if file.name.endswith(".part")]
