"""Advantages by reward component in a run of the real engine."""

from pathlib import Path
from typing import Any


def test_a_run_with_gdpo_trains(tmp_path: Path, run: Any, training: Any, metrics: Any) -> None:
    finished = run(
        *training(
            tmp_path,
            "ablation=gdpo",
            "trainer.total_training_steps=2",
            # An untrained model's rewards hardly differ; the estimator must bear that.
            "actor_rollout_ref.actor.entropy_coeff=0.1",
        )
    )
    assert finished.returncode == 0, finished.stdout[-8000:]
    logged = metrics(tmp_path)
    assert sorted(logged) == [1, 2]
    for values in logged.values():
        # verl whitens the sum over the batch's tokens.
        assert abs(values["critic/advantages/mean"]) < 0.1
        assert values["actor/grad_norm"] > 0
