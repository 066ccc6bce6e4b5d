"""The bound of the prompts that a step draws in the place of groups without a signal."""

import inspect

import pytest
from omegaconf import OmegaConf
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from recipe.train.failures import NoSignal, Redraws


@pytest.fixture
def redraws() -> Redraws:
    own = {"v1": {"thinkvg": {"max_drawn_batches": 3}}}
    return Redraws(OmegaConf.create({"data": {"train_batch_size": 4}, "trainer": own}))


def test_redraws_are_counted_by_step(redraws: Redraws) -> None:
    assert redraws.metrics() == {"training/redrawn_groups": 0}
    for prompts in (4, 2, 2):
        redraws.add(prompts, differing=0, step=1)
    assert redraws.metrics() == {"training/redrawn_groups": 8}
    redraws.begin_step()
    redraws.add(1, differing=3, step=2)
    assert redraws.metrics() == {"training/redrawn_groups": 1}


def test_one_batch_too_many_ends_the_run_with_one_line(redraws: Redraws) -> None:
    redraws.add(8, differing=0, step=5)
    with pytest.raises(NoSignal) as failure:
        redraws.add(1, differing=2, step=5)
    line = str(failure.value)
    assert "\n" not in line
    assert line.startswith(
        "step 5 drew 12 groups of rollouts, only 2 of the 4 that it needs differ"
    )
    assert "trainer.v1.thinkvg.max_drawn_batches=3" in line


def test_the_line_names_metrics_that_are_logged_with_filtered_groups(redraws: Redraws) -> None:
    """Filtered groups are not in the batch: its reward/group_std/zero is always 0."""
    with pytest.raises(NoSignal, match="training/redrawn_groups") as failure:
        redraws.add(9, differing=0, step=2)
    assert "group_std" not in str(failure.value)
    (verls,) = [name for name in str(failure.value).split() if name.endswith("evicted_samples")]
    assert verls == f"{ReplayBuffer._metrics_prefix('train')}/filter_groups/evicted_samples"
    assert verls.partition("/")[2] in inspect.getsource(ReplayBuffer._evict_terminal_groups)
