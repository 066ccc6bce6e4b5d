"""Advantages by reward component in a run of the real engine, under a thinking model's template."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from phantom.tiny.model import CHAT_TEMPLATE

ASSISTANT = "<|im_start|>assistant\n"


@pytest.fixture
def thinking(workspace: Path, tmp_path: Path) -> Path:
    """The tiny model with a chat template that opens the reasoning in the prompt."""
    folder = shutil.copytree(workspace / "model", tmp_path / "thinking")
    opened = CHAT_TEMPLATE.replace(ASSISTANT, f"{ASSISTANT}<think>\n")
    (folder / "chat_template.jinja").write_text(opened)
    return folder


def test_a_run_with_gdpo_trains(
    tmp_path: Path, thinking: Path, run: Any, training: Any, metrics: Any
) -> None:
    finished = run(
        *training(
            tmp_path / "run",
            "ablation=gdpo",
            f"model.path={thinking}",
            "trainer.total_training_steps=2",
            # An untrained model's rewards hardly differ; the estimator must bear that.
            "actor_rollout_ref.actor.entropy_coeff=0.1",
        )
    )
    assert finished.returncode == 0, finished.stdout[-8000:]
    logged = metrics(tmp_path / "run")
    assert sorted(logged) == [1, 2]
    for values in logged.values():
        # verl whitens the sum over the batch's tokens.
        assert abs(values["critic/advantages/mean"]) < 0.1
        assert values["actor/grad_norm"] > 0
        # What an untrained model says is a reasoning, since the prompt opened one.
        assert values["reasoning_length/none"] < 0.5
        assert values["reward/response_chars/mean"] > len("<think>\n")
