"""Metrics that the trainer adds, and its place in verl's registry."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torchdata.stateful_dataloader import StatefulDataLoader
from verl.trainer.ppo.v1 import PPOTrainerSync
from verl.utils import tracking

from recipe.run.checkpoints import last_step, mark_step
from recipe.train.metrics import component_metrics, group_metrics
from recipe.train.trainer import TRAINER_NAME, ThinkVGTrainer, log_prob_gap


def test_mean_and_std_of_each_component() -> None:
    rows = [{"score": 1.0, "format": 1.0}, {"score": 0.0, "format": 1.0}]
    assert component_metrics(rows) == {
        "reward/score/mean": 0.5,
        "reward/score/std": 0.5,
        "reward/format/mean": 1.0,
        "reward/format/std": 0.0,
    }


def test_components_must_agree_between_rollouts() -> None:
    with pytest.raises(ValueError, match="different reward components"):
        component_metrics([{"score": 1.0}, {"score": 1.0, "format": 1.0}])


def test_groups_without_signal_are_counted() -> None:
    # a: spread 0.5; b: all the same
    metrics = group_metrics([1.0, 0.0, 0.3, 0.3], ["a", "a", "b", "b"])
    assert metrics["reward/group_std/mean"] == pytest.approx(0.25)
    assert metrics["reward/group_std/zero"] == 0.5


def test_gap_is_averaged_over_tokens() -> None:
    rollout = torch.nested.as_nested_tensor(
        [torch.tensor([0.0, -1.0]), torch.tensor([-2.0])], layout=torch.jagged
    )
    actor = torch.nested.as_nested_tensor(
        [torch.tensor([0.0, -1.3]), torch.tensor([-2.6])], layout=torch.jagged
    )
    assert log_prob_gap(rollout, actor) == pytest.approx(0.3)


def test_verl_knows_the_trainer() -> None:
    from verl.trainer.ppo.v1 import get_trainer_cls

    assert get_trainer_cls(TRAINER_NAME) is ThinkVGTrainer


@pytest.mark.parametrize(
    ("step", "only", "validates"), [(0, False, True), (5, False, False), (5, True, True)]
)
def test_a_resumed_run_does_not_log_its_step_again(
    step: int, only: bool, validates: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = object.__new__(ThinkVGTrainer)
    trainer.global_steps, trainer._unmarked = step, 0
    trainer.total_training_steps = step - 1
    settings = {"val_before_train": True, "val_only": only, "default_local_dir": str(tmp_path)}
    trainer.config = OmegaConf.create({"run_dir": str(tmp_path), "trainer": settings})
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tracking, "FileLogger", tracking.FileLogger)
    monkeypatch.setattr(PPOTrainerSync, "fit", lambda self, manager: None)
    trainer.fit(None)
    assert trainer.config.trainer.val_before_train is validates


@pytest.mark.parametrize(("only", "steps"), [(True, [49, 50, 51]), (False, [49, 50])])
def test_a_validation_of_an_earlier_step_leaves_the_later_ones(
    only: bool, steps: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = object.__new__(ThinkVGTrainer)
    trainer.global_steps, trainer._unmarked, trainer.total_training_steps = 50, 0, 49
    settings = {
        "val_before_train": True,
        "val_only": only,
        "default_local_dir": str(tmp_path / "checkpoints"),
        "resume_mode": "resume_path",
        "resume_from_path": str(tmp_path / "checkpoints" / "global_step_50"),
    }
    trainer.config = OmegaConf.create({"run_dir": str(tmp_path), "trainer": settings})
    mark_step(tmp_path / "checkpoints", 51)
    metrics = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "data": {}}) + "\n" for step in (49, 50, 51)]
    metrics.write_text("".join(lines))
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(metrics))
    monkeypatch.setenv("TENSORBOARD_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("FileLogger", "_TensorboardAdapter"):
        monkeypatch.setattr(tracking, name, getattr(tracking, name))
    monkeypatch.setattr(PPOTrainerSync, "fit", lambda self, manager: None)
    trainer.fit(None)
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == steps
    # what a later start resumes from
    assert last_step(tmp_path / "checkpoints") == steps[-1]


@pytest.mark.parametrize(("kept", "marked"), [(2, 5), (1, 10)])
def test_a_checkpoint_is_marked_once_its_step_is_logged(
    kept: int, marked: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is marked at once where verl keeps one checkpoint, and so has removed the one before."""
    before = tmp_path / "global_step_5" / "actor"
    before.mkdir(parents=True)
    mark_step(tmp_path, 5)

    def save(self: ThinkVGTrainer) -> None:
        (tmp_path / "global_step_10" / "actor").mkdir(parents=True)
        if kept == 1:
            shutil.rmtree(before)
        mark_step(tmp_path, 10)

    monkeypatch.setattr(PPOTrainerSync, "_save_checkpoint", save)
    trainer = object.__new__(ThinkVGTrainer)
    trainer.global_steps, trainer._unmarked = 10, 0
    trainer.config = OmegaConf.create({"trainer": {"default_local_dir": str(tmp_path)}})
    trainer._save_checkpoint()
    assert last_step(tmp_path) == marked
    trainer._mark_logged()
    assert last_step(tmp_path) == 10


def test_the_number_of_checkpoints_is_held_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """verl does not know of those that an earlier start has saved."""
    for step in (5, 10):
        (tmp_path / f"global_step_{step}" / "actor").mkdir(parents=True)
    mark_step(tmp_path, 10)

    def save(self: ThinkVGTrainer) -> None:
        (tmp_path / "global_step_15" / "actor").mkdir(parents=True)
        mark_step(tmp_path, 15)

    monkeypatch.setattr(PPOTrainerSync, "_save_checkpoint", save)
    trainer = object.__new__(ThinkVGTrainer)
    trainer.global_steps, trainer._unmarked = 15, 0
    settings = {"default_local_dir": str(tmp_path), "max_actor_ckpt_to_keep": 2}
    trainer.config = OmegaConf.create({"trainer": settings})
    trainer._save_checkpoint()
    trainer._mark_logged()
    assert sorted(path.name for path in tmp_path.glob("global_*")) == [
        "global_step_10",
        "global_step_15",
    ]


def test_rows_are_read_on_with_another_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(range(8))
    saved = StatefulDataLoader(rows, batch_size=2, num_workers=1)
    next(iter(saved))
    state = saved.state_dict()

    def load(self: ThinkVGTrainer) -> None:
        self.train_dataloader.load_state_dict(state)

    monkeypatch.setattr(PPOTrainerSync, "_load_checkpoint", load)
    trainer = object.__new__(ThinkVGTrainer)
    trainer.train_dataloader = StatefulDataLoader(rows, batch_size=2, num_workers=0)
    trainer._load_checkpoint()
    assert next(iter(trainer.train_dataloader)).tolist() == [2, 3]


def test_rollouts_are_served_by_servers_that_end_with_their_engine() -> None:
    # In a process of its own: verl's server and vLLM change the logging of the one they are in.
    program = (
        "import recipe.train.trainer;"
        "from verl.workers.rollout.replica import get_rollout_replica_class;"
        "print(get_rollout_replica_class('vllm').__module__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-1:] == ["recipe.verl_fixes.rollout_server"], done.stderr
