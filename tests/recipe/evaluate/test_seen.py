"""Patients that a model was trained on are counted among those it is asked about."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipe.evaluate.seen import patients_seen, training_files

STEP = "checkpoints/global_step_4"


def run(folder: Path, checkpoint: str, **settings: str) -> Path:
    """A run's folder with a checkpoint, as `recipe.sft` and `recipe.train` leave it."""
    model = folder / checkpoint / "huggingface"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").touch()
    (folder / "run.json").write_text(json.dumps(settings))
    return model


def rows(path: Path, *patients: str) -> str:
    pq.write_table(pa.table({"extra_info": [{"patient": name} for name in patients]}), path)
    return str(path)


@pytest.fixture
def grpo(tmp_path: Path) -> Path:
    """The run of GRPO on patients 2 and 3, from SFT on 1 and 2, from a model of elsewhere."""
    base = tmp_path / "base"
    base.mkdir()
    sft_rows = rows(tmp_path / "sft_train.parquet", "p1", "p2")
    sft = {"data.train_files": sft_rows, "model.path": str(base)}
    model = run(tmp_path / "sft", STEP, **sft)
    grpo_rows = rows(tmp_path / "train.parquet", "p2", "p3")
    settings = {"data.train_files": grpo_rows, "actor_rollout_ref.model.path": str(model)}
    run(tmp_path / "grpo", f"{STEP}/actor", **settings)
    return tmp_path / "grpo"


def test_patients_of_all_stages_count(grpo: Path) -> None:
    assert [file.name for file in training_files(grpo)] == ["train.parquet", "sft_train.parquet"]
    assert patients_seen(grpo, {"p1", "p3", "p4", ""}) == 2
    assert patients_seen(grpo.parent / "sft", {"p1", "p3", "p4"}) == 1
    assert patients_seen(grpo, {"p4"}) == 0


def test_nothing_is_said_where_the_data_is_not_known(grpo: Path) -> None:
    assert patients_seen(grpo.parent / "base", {"p1"}) is None
    assert patients_seen("", {"p1"}) is None
    (grpo.parent / "sft_train.parquet").unlink()
    assert patients_seen(grpo, {"p1"}) is None
