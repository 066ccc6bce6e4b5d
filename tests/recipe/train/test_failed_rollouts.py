"""Rollouts that are missing from a step, or from a validation."""

import pytest

from recipe.console import notes
from recipe.program import compose_config
from recipe.train.failures import JudgeWatch, RolloutsFailing, failed_rollouts
from recipe.train.trainer import ThinkVGTrainer


@pytest.mark.parametrize(("came", "missing"), [(20, 0), (19, 1), (18, 2), (24, 0)])
def test_a_few_are_counted(came: int, missing: int) -> None:
    metrics = failed_rollouts(came, asked=20, most=0.1, step=3)
    assert metrics == {"training/failed_rollouts": missing}


def test_many_end_the_run_with_one_line() -> None:
    with pytest.raises(RolloutsFailing) as failure:
        failed_rollouts(17, asked=20, most=0.1, step=3)
    assert "\n" not in str(failure.value)
    assert "3 of 20 rollouts of step 3 failed" in str(failure.value)
    assert "trainer.v1.thinkvg.max_failed_rollouts=0.1" in str(failure.value)


def test_a_whole_group_may_be_missing() -> None:
    """One failed rollout takes its group with it, in a small batch more than the share."""
    assert failed_rollouts(24, asked=32, most=0.1, step=1, group=8)
    with pytest.raises(RolloutsFailing):
        failed_rollouts(16, asked=32, most=0.1, step=1, group=8)


def test_none_may_be_missing_where_that_is_asked_for() -> None:
    with pytest.raises(RolloutsFailing):
        failed_rollouts(19, asked=20, most=0.0, step=1, group=8)


def validated(came: int) -> dict[str, float]:
    """Metrics of a validation of 20 prompts, as verl's trainer asks for them."""
    trainer = object.__new__(ThinkVGTrainer)
    trainer.config = compose_config("train", ["data.dir=DIR", "reward=dense"])
    trainer.global_steps, trainer._judge = 50, JudgeWatch(trainer.config)
    trainer._most_failed = trainer.config.trainer.v1.thinkvg.max_failed_rollouts
    names = [f"prompt {number}" for number in range(20)]
    rewards = {"reward": [1.0] * came, "score": [1.0] * came}
    asked = {("set", name): 1 for name in names}
    return trainer._val_metrics_update(
        ["set"] * came, names[:came], rewards, [2] * came, expected_acc_counts=asked
    )


def test_failed_rollouts_of_a_validation_are_counted() -> None:
    metrics = validated(18)
    assert metrics["validation/failed_rollouts"] == 2
    assert metrics["val-aux/set/score/mean@1"] == 1.0
    assert notes(metrics, 50) == ["step 50: 2 rollouts of the validation failed"]
    assert notes(validated(20), 50) == []


def test_many_failed_rollouts_of_a_validation_end_the_run() -> None:
    line = "^3 of 20 rollouts of the validation at step 50 failed, more than .*_rollouts=0.1 "
    with pytest.raises(RolloutsFailing, match=line):
        validated(17)
