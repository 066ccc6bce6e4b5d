"""A start whose settings say where to begin does so once, and then continues what it has begun."""

import os
import shutil
from pathlib import Path

import pytest
from omegaconf import DictConfig

from recipe.program import compose_config
from recipe.run.checkpoints import LAST, last_step, mark_step
from recipe.run.folder import PASSED_ON, WANDB_ID, check_same_run, differences, take_run
from recipe.run.series import FILE, begin_series, continue_series, end_series

DISABLE = ("trainer.resume_mode=disable",)


def run(folder: Path, *overrides: str, program: str = "train") -> DictConfig:
    """The configuration of a run in `folder`."""
    fixed = ["data.dir=DIR", "cluster=cpu", "model.path=MODEL", f"run_dir={folder}"]
    return compose_config(program, [*fixed, *overrides])


def resume_path(path: Path) -> tuple[str, str]:
    return ("trainer.resume_mode=resume_path", f"trainer.resume_from_path={path}")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take back the variables that a start sets."""
    for name in PASSED_ON:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def load(folder: Path, *overrides: str, program: str = "train") -> DictConfig:
    """What a start does to the folder before the engine is loaded; its configuration."""
    config = run(folder, *overrides, program=program)
    continue_series(config, program)
    os.environ.pop("WANDB_RUN_ID", None)  # each start is a process
    take_run(config, program)
    return config


def start(folder: Path, *overrides: str, loaded: int = 0, program: str = "train") -> DictConfig:
    """What a start does to the folder up to its first step; the configuration of the engine."""
    config = load(folder, *overrides, program=program)
    begin_series(config, program, loaded)
    return config


@pytest.mark.parametrize("program", ["train", "sft"])
def test_a_run_that_began_anew_keeps_its_steps_when_it_is_requeued(
    tmp_path: Path, program: str
) -> None:
    holder = tmp_path / "checkpoints"
    mark_step(holder, 200)  # of an earlier run in the folder
    assert start(tmp_path, *DISABLE, program=program).trainer.resume_mode == "disable"
    # killed before its first checkpoint: it must not resume from the earlier run's
    assert start(tmp_path, *DISABLE, program=program).trainer.resume_mode == "disable"
    mark_step(holder, 300)
    config = run(tmp_path, *DISABLE, program=program)
    assert continue_series(config, program) == 300
    assert config.trainer.resume_mode == "auto"
    begin_series(config, program, 300)
    assert continue_series(run(tmp_path, *DISABLE, program=program), program) == 300


@pytest.mark.parametrize("is_inside", [True, False])
def test_a_run_that_began_at_a_checkpoint_does_not_return_to_it(
    tmp_path: Path, is_inside: bool
) -> None:
    folder = tmp_path / "run"
    holder = folder / "checkpoints"
    path = (holder if is_inside else tmp_path / "other") / "global_step_50"
    mark_step(holder, 200)
    config = start(folder, *resume_path(path), loaded=50)
    assert config.trainer.resume_mode == "resume_path"
    assert last_step(holder) == (50 if is_inside else 0)
    mark_step(holder, 100)
    config = run(folder, *resume_path(path))
    assert continue_series(config, "train") == 100
    assert config.trainer.resume_from_path is None
    assert continue_series(run(folder, *resume_path(tmp_path / "global_step_7")), "train") == 0


def test_the_cold_start_takes_a_path_without_a_mode(tmp_path: Path) -> None:
    path = f"trainer.resume_from_path={tmp_path}/global_step_50"
    start(tmp_path / "run", path, loaded=50, program="sft")
    mark_step(tmp_path / "run" / "checkpoints", 60)
    config = run(tmp_path / "run", path, program="sft")
    assert continue_series(config, "sft") == 60
    assert config.trainer.resume_from_path is None


def test_a_finished_run_another_one_or_a_removed_file_begins_anew(tmp_path: Path) -> None:
    holder = tmp_path / "checkpoints"
    config = start(tmp_path, *DISABLE)
    mark_step(holder, 300)
    assert continue_series(run(tmp_path, *DISABLE, "seed=1"), "train") == 0
    assert continue_series(run(tmp_path, *DISABLE, "trainer.val_only=true"), "train") == 0
    end_series(run(tmp_path, "trainer.val_only=true"))
    assert continue_series(run(tmp_path, *DISABLE), "train") == 300
    end_series(config)
    assert continue_series(run(tmp_path, *DISABLE), "train") == 0


def test_a_plain_start_continues_a_series_or_ends_it_at_step_0(tmp_path: Path) -> None:
    holder = tmp_path / "checkpoints"
    start(tmp_path, *DISABLE)
    mark_step(holder, 5)
    start(tmp_path, loaded=5)
    assert (tmp_path / FILE).is_file()
    assert (holder / LAST).read_text() == "5"
    shutil.rmtree(holder)
    start(tmp_path)
    assert not (tmp_path / FILE).exists()


def test_a_start_that_fails_before_its_first_step_leaves_the_folder_to_its_run(
    tmp_path: Path,
) -> None:
    start(tmp_path)
    mark_step(tmp_path / "checkpoints", 300)
    run_id = (tmp_path / WANDB_ID).read_text()
    load(tmp_path, *DISABLE, "seed=7")  # and then there is no memory for its engine
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    check_same_run(run(tmp_path), "train")
    assert continue_series(run(tmp_path, *DISABLE, "seed=7"), "train") == 0
    assert differences(run(tmp_path, "seed=7"), "train")
    assert (tmp_path / WANDB_ID).read_text() == run_id


def test_a_run_that_begins_anew_is_another_run_for_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(tmp_path)
    first = (tmp_path / WANDB_ID).read_text()
    start(tmp_path, *DISABLE, "seed=7")
    second = (tmp_path / WANDB_ID).read_text()
    assert second != first
    assert differences(run(tmp_path, "seed=7"), "train") == []
    mark_step(tmp_path / "checkpoints", 100)
    start(tmp_path, *DISABLE, "seed=7", loaded=100)  # requeued
    assert (tmp_path / WANDB_ID).read_text() == second
    start(tmp_path, "trainer.val_only=true", *DISABLE)
    assert (tmp_path / WANDB_ID).read_text() == second
