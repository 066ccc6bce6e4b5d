"""Checkpoints of a cold start beside those that an earlier start of it has saved."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from verl.trainer.sft_trainer import SFTTrainer

from recipe.run.checkpoints import mark_step
from recipe.sft import trainer as sft


class Handler:
    """Leaves what verl's handler leaves of a step, and knows of no earlier start."""

    def __init__(self, holder: Path) -> None:
        self._holder = holder

    def save_checkpoint(self, step: int) -> None:
        (self._holder / f"global_step_{step}").mkdir(parents=True)
        mark_step(self._holder, step)


def test_the_number_of_checkpoints_is_held_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(self: sft.ThinkVGSFTTrainer) -> None:
        self.ckpt_handler = Handler(tmp_path)

    monkeypatch.setattr(SFTTrainer, "_build_ckpt_handler", build)
    monkeypatch.setattr(sft, "add_older_forms", lambda folder: None)
    for step in (5, 10):
        Handler(tmp_path).save_checkpoint(step)
    trainer = object.__new__(sft.ThinkVGSFTTrainer)
    trainer.rank = 0
    settings = {"default_local_dir": str(tmp_path), "max_ckpt_to_keep": 2}
    trainer.config = OmegaConf.create({"trainer": settings})
    trainer._build_ckpt_handler()
    trainer.ckpt_handler.save_checkpoint(15)
    left = sorted(path.name for path in tmp_path.glob("global_*"))
    assert left == ["global_step_10", "global_step_15"]
