"""When a trainer saves and ends because it was asked; the engines are in tests/slurm."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from torch import distributed

from recipe.run.folder import StopRequest
from recipe.sft.trainer import ThinkVGSFTTrainer, _Stopped
from recipe.train.trainer import ThinkVGTrainer


class Saving(ThinkVGTrainer):
    """The trainer at the end of a step, without an engine."""

    def __init__(self, stop: Path, step: int, save_freq: int) -> None:
        self._stop, self._stops = StopRequest(stop), False
        self._unmarked = 0
        self.global_steps, self.total_training_steps = step, 10
        self.config = OmegaConf.create({"trainer": {"save_freq": save_freq, "test_freq": 2}})
        self.saved: list[int] = []

    def _save_checkpoint(self) -> None:
        self.saved.append(self.global_steps)

    def end_step(self) -> None:
        self._save_on_request()
        if self.global_steps >= self.total_training_steps:
            self.on_train_end()


@pytest.mark.parametrize(("save_freq", "saved"), [(-1, [4]), (3, [4]), (2, [])])
def test_a_step_that_did_not_save_saves_on_request(
    tmp_path: Path, save_freq: int, saved: list[int]
) -> None:
    (tmp_path / "stop").touch()
    trainer = Saving(tmp_path / "stop", 4, save_freq)
    trainer.end_step()
    assert trainer.saved == saved
    assert trainer.total_training_steps == 4
    assert trainer.config.trainer.test_freq == -1  # there may be no time for a validation
    assert StopRequest(tmp_path / "stop").answered() == 4


def test_nobody_asked(tmp_path: Path) -> None:
    trainer = Saving(tmp_path / "stop", 4, -1)
    trainer.end_step()
    assert (trainer.saved, trainer.total_training_steps) == ([], 10)


def test_a_run_that_is_done_is_not_stopped(tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    trainer = Saving(tmp_path / "stop", 10, -1)
    trainer.end_step()
    assert trainer.saved == []
    assert StopRequest(tmp_path / "stop").answered() is None


@pytest.fixture
def one_process() -> Any:
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_the_cold_start_saves_after_its_step_and_ends(tmp_path: Path, one_process: Any) -> None:
    trainer = object.__new__(ThinkVGSFTTrainer)
    trainer._stop, trainer._steps_begun = StopRequest(tmp_path / "stop"), 4
    trainer.rank, trainer.total_training_steps, trainer.save_freq = 0, 10, 100
    trainer._save_on_request()
    assert trainer.save_freq == 100
    (tmp_path / "stop").touch()
    trainer._save_on_request()
    assert (trainer.save_freq, trainer._saves_at) == (1, 6)
    with pytest.raises(_Stopped):
        trainer._save_on_request()
