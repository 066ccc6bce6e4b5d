"""A run that ends with fewer steps than asked says so; one that is done takes no more."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf
from verl.trainer.ppo.v1 import PPOTrainerSync
from verl.trainer.sft_trainer import SFTTrainer
from verl.utils import tracking

from recipe.run.folder import EndedEarly
from recipe.run.series import FILE
from recipe.sft.trainer import ResumedSampler, ThinkVGSFTTrainer
from recipe.train.trainer import ThinkVGTrainer

ASKED = 10


@pytest.fixture(autouse=True)
def no_loggers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tracking, "FileLogger", tracking.FileLogger)


def train(done: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GRPO whose loop, verl's, ends behind `done` steps."""

    def loop(self: Any, manager: Any) -> None:
        self.global_steps = done + 1

    trainer = object.__new__(ThinkVGTrainer)
    trainer.global_steps, trainer.total_training_steps, trainer._unmarked = 0, ASKED, 0
    settings = {"val_only": False, "default_local_dir": str(tmp_path)}
    trainer.config = OmegaConf.create({"run_dir": str(tmp_path), "trainer": settings})
    monkeypatch.setattr(PPOTrainerSync, "fit", loop)
    trainer.fit(None)


def start_cold(
    loaded: int, done: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str = "auto"
) -> bool:
    """SFT that loads step `loaded`, and whose loop ends behind `done`; whether it was entered."""
    entered = []

    def loop(self: Any) -> None:
        entered.append(True)
        self._steps_begun = done

    trainer = object.__new__(ThinkVGSFTTrainer)
    settings = {"default_local_dir": str(tmp_path / "checkpoints"), "resume_mode": mode}
    trainer.config = OmegaConf.create(
        {"run_dir": str(tmp_path), "stop_file": str(tmp_path / "stop"), "trainer": settings}
    )
    trainer.rank, trainer.resume_global_step, trainer.total_training_steps = 0, loaded, ASKED
    trainer.steps_per_epoch, trainer.train_batch_size_per_dp = 5, 4
    trainer.train_sampler = ResumedSampler(SimpleNamespace())  # type: ignore[arg-type]
    trainer.train_dataloader = SimpleNamespace(next_iter_state={"past": "the end"})
    monkeypatch.setattr(SFTTrainer, "fit", loop)
    trainer.fit()
    assert not entered or trainer.train_dataloader.next_iter_state is None
    return bool(entered)


def test_all_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(ASKED, tmp_path, monkeypatch)
    assert start_cold(5, ASKED, tmp_path, monkeypatch)


@pytest.mark.parametrize("done", [0, ASKED - 1])
def test_fewer_steps(done: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = f"only {done} of {ASKED} steps are done.*raise trainer.total_epochs"
    with pytest.raises(EndedEarly, match=told):
        train(done, tmp_path, monkeypatch)
    with pytest.raises(EndedEarly, match=told):
        start_cold(0, done, tmp_path, monkeypatch)


@pytest.mark.parametrize("loaded", [ASKED, ASKED + 5])
def test_a_cold_start_that_is_done_takes_no_more_steps(
    loaded: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert not start_cold(loaded, loaded + 1, tmp_path, monkeypatch)
    assert f"nothing to do: step {loaded} of {ASKED} is done" in capsys.readouterr().out


def test_a_cold_start_notes_how_it_began_until_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EndedEarly):
        start_cold(0, ASKED - 1, tmp_path, monkeypatch, "disable")
    assert (tmp_path / FILE).is_file()
    start_cold(5, ASKED, tmp_path, monkeypatch)
    assert not (tmp_path / FILE).exists()
