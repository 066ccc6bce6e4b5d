"""The bound of the prompts that a step draws in the place of groups without a signal."""

import pytest
from omegaconf import OmegaConf

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
