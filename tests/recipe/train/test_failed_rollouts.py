"""Rollouts that are missing from a step."""

import pytest

from recipe.train.failures import RolloutsFailing, failed_rollouts


@pytest.mark.parametrize(("came", "missing"), [(20, 0), (19, 1), (18, 2), (24, 0)])
def test_a_few_are_counted(came: int, missing: int) -> None:
    keys = [str(number) for number in range(came)]
    found = failed_rollouts(keys, asked=20, most=0.1, step=3)
    assert found == {"training/failed_rollouts": missing}


def test_many_end_the_run_with_one_line() -> None:
    with pytest.raises(RolloutsFailing) as failure:
        failed_rollouts(["a"] * 17, asked=20, most=0.1, step=3)
    assert "\n" not in str(failure.value)
    assert "3 of 20 rollouts of step 3 failed" in str(failure.value)
    assert "trainer.v1.thinkvg.max_failed_rollouts=0.1" in str(failure.value)


def test_a_whole_group_may_be_missing() -> None:
    """One failed rollout takes its group with it, in a small batch more than the share."""
    assert failed_rollouts(["a"] * 24, asked=32, most=0.1, step=1, group=8)
    with pytest.raises(RolloutsFailing):
        failed_rollouts(["a"] * 16, asked=32, most=0.1, step=1, group=8)


def test_none_may_be_missing_where_that_is_asked_for() -> None:
    with pytest.raises(RolloutsFailing):
        failed_rollouts(["a"] * 19, asked=20, most=0.0, step=1, group=8)
