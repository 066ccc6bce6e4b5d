"""Faults of input: one line that names them, code 2, before anything is started."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.program import InputError
from recipe.program import compose_config, require

HUB_NAME = "model.path=Qwen/Qwen2.5-VL-7B-Instruct"
BASE = ["cluster=cpu", "model=tiny"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder of another model family, with the right columns."""
    from data_prep.program import encode_metadata

    folder = tmp_path / "data"
    folder.mkdir()
    names = ["data_source", "prompt", "images", "ability", "reward_model", "extra_info", "messages"]
    table = pa.table({name: ["x"] for name in names}).replace_schema_metadata(
        encode_metadata({"model_family": "qwen3_vl"})
    )
    for name in ("train", "val", "test", "sft_train", "sft_val"):
        pq.write_table(table, folder / f"{name}.parquet")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder, as far as the checks look."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    for name in ("model.safetensors", "tokenizer_config.json", "preprocessor_config.json"):
        (folder / name).touch()
    return folder


def ends_with_one_line(program: str, *overrides: str) -> str:
    """Run a program that must fail; its single line on standard error."""
    finished = subprocess.run(
        [sys.executable, "-m", f"recipe.{program}", *BASE, *overrides],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 2, finished.stderr
    lines = finished.stderr.strip().splitlines()
    assert len(lines) == 1, finished.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def test_unknown_preset() -> None:
    line = ends_with_one_line("train", "reward=nonsense", "data.dir=x", "model.path=y")
    assert "reward/nonsense" in line
    assert "dense" in line  # what there is


def test_unknown_key() -> None:
    assert "trainer.stepz" in ends_with_one_line("sft", "trainer.stepz=1")


def test_key_without_value() -> None:
    assert "data.dir is not set" in ends_with_one_line("evaluate", "model.path=x")


def test_missing_model_folder(data: Path) -> None:
    line = ends_with_one_line("train", f"data.dir={data}", "model.path=./nowhere")
    assert "model.path=./nowhere" in line


def test_model_without_processor(data: Path, model: Path) -> None:
    (model / "preprocessor_config.json").unlink()
    line = ends_with_one_line("train", f"data.dir={data}", f"model.path={model}")
    assert "preprocessor_config.json" in line


def test_missing_data_file(tmp_path: Path, model: Path) -> None:
    line = ends_with_one_line("train", f"data.dir={tmp_path}", f"model.path={model}")
    assert f"{tmp_path}/train.parquet" in line


def test_missing_column(data: Path, model: Path) -> None:
    table = pq.read_table(data / "train.parquet").drop_columns(["reward_model"])
    pq.write_table(table, data / "train.parquet")
    line = ends_with_one_line("train", f"data.dir={data}", f"model.path={model}")
    assert "reward_model" in line
    assert "train.parquet" in line


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("preset=nonsense", "choose one of answer_only, dense"),
        ("sampling.samples=abc", "sampling.samples=abc: give a whole number"),
        ("sampling.temperature=warm", "sampling.temperature=warm: give a number"),
        ("data.max_questions=some", "data.max_questions=some: give a whole number"),
    ],
)
def test_settings_of_the_evaluation(override: str, said: str) -> None:
    assert said in ends_with_one_line("evaluate", "data.dir=x", "model.path=y", override)


def test_soft_targets_need_a_token_for_each_coordinate(data: Path, model: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from data_prep.program import encode_metadata

    digits = Tokenizer(models.WordLevel({str(digit): digit for digit in range(10)}, unk_token="0"))
    digits.pre_tokenizer = pre_tokenizers.Digits(individual_digits=True)
    PreTrainedTokenizerFast(tokenizer_object=digits).save_pretrained(model)
    for name in ("sft_train", "sft_val"):
        table = pq.read_table(data / f"{name}.parquet")
        metadata = encode_metadata({"model_family": "qwen2_5_vl"})
        pq.write_table(table.replace_schema_metadata(metadata), data / f"{name}.parquet")
    line = ends_with_one_line(
        "sft", f"data.dir={data}", f"model.path={model}", "coordinate_smoothing=2"
    )
    assert "no token of its own for the number 10" in line
    assert "coordinate_smoothing=0" in line
    line = ends_with_one_line(
        "sft", f"data.dir={data}", f"model.path={model}", "coordinate_smoothing=wide"
    )
    assert "coordinate_smoothing=wide: give a width" in line


@pytest.mark.parametrize("program", ["train", "sft", "evaluate"])
def test_data_for_another_family(program: str, data: Path, model: Path) -> None:
    line = ends_with_one_line(program, f"data.dir={data}", f"model.path={model}")
    assert "prepared for qwen3_vl, the model is qwen2_5_vl" in line


@pytest.mark.parametrize("program", ["train", "sft", "evaluate"])
def test_data_for_another_family_than_a_hub_name_has(program: str, data: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", f"recipe.{program}", *BASE, f"data.dir={data}", HUB_NAME],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 2, finished.stderr
    *notes, line = finished.stderr.splitlines()
    assert all(note.startswith("note: ") for note in notes)
    assert "prepared for qwen3_vl, the model is qwen2_5_vl" in line


def test_every_problem_of_an_evaluation_is_on_the_line(tmp_path: Path) -> None:
    overrides = ["data.split=late", "sampling.temperature=0", "model.path=./nowhere"]
    line = ends_with_one_line("evaluate", *overrides, f"data.dir={tmp_path}")
    assert re.match(r"error: \d+ problems: \(1\) ", line)
    for told in ("data.split=late", "sampling.temperature=0", "./nowhere: no such folder"):
        assert told in line


@pytest.mark.parametrize("program", ["train", "sft"])
def test_every_problem_is_on_the_line(program: str, data: Path, model: Path) -> None:
    overrides = ["trainer.resume_mode=maybe", "model.path=./nowhere", f"data.dir={data}"]
    line = ends_with_one_line(program, *overrides)
    assert re.match(r"error: \d+ problems: \(1\) ", line)
    for told in ("no such folder", "choose auto, disable", "do not fill one batch"):
        assert told in line


def test_gpus_where_there_are_none(data: Path, model: Path) -> None:
    line = ends_with_one_line("train", "cluster=h100x8", f"data.dir={data}", f"model.path={model}")
    assert "cluster=cpu" in line


def test_too_few_ray_resources(data: Path, model: Path) -> None:
    for path in data.glob("*.parquet"):
        schema = pq.read_schema(path)
        changed = {b"thinkvg": schema.metadata[b"thinkvg"].replace(b"qwen3_vl", b"qwen2_5_vl")}
        pq.write_table(pq.read_table(path).replace_schema_metadata(changed), path)
    line = ends_with_one_line(
        "train", f"data.dir={data}", f"model.path={model}", "cluster.ray.num_cpus=2"
    )
    assert "cluster.ray.num_cpus" in line


def test_require_names_the_first_missing_key() -> None:
    config = compose_config("train", BASE)
    with pytest.raises(InputError, match=r"model\.path is not set"):
        require(config, "model.path", "data.dir")


@pytest.mark.parametrize("override", ["ablation=gdpoo", "experiment=nosuch"])
def test_an_unknown_entry_of_an_optional_group_is_refused(override: str) -> None:
    with pytest.raises(InputError, match=f"{override}: no such entry; choose one of .*"):
        compose_config("train", ["data.dir=DIR", override])
