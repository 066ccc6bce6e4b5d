"""A resumed cold start reads on where it was, whatever the loader's saved place says."""

from typing import Any

import pytest
from torch.utils.data import DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader

from recipe.sft.trainer import ResumedSampler

ROWS, BATCH, RANKS, EPOCHS = 26, 3, 2, 3
PER_EPOCH = ROWS // RANKS // BATCH


def loader(rank: int, workers: int, seed: int = 0) -> tuple[ResumedSampler, Any]:
    """A loader as verl builds it, with the sampler of this recipe."""
    rows = list(range(ROWS))
    sampler = DistributedSampler(rows, num_replicas=RANKS, rank=rank, shuffle=True, drop_last=True)
    loaded: Any = StatefulDataLoader(
        rows, batch_size=BATCH, sampler=sampler, num_workers=workers, drop_last=True
    )
    resumed = ResumedSampler(sampler, seed)
    loaded.batch_sampler.sampler = resumed
    return resumed, loaded


def batches(rank: int, done: int, workers: int = 0) -> list[list[int]]:
    """The rows of each step of a run that resumes after `done` steps, read as verl does."""
    sampler, loaded = loader(rank, workers)
    epoch, steps = divmod(done, PER_EPOCH)
    sampler.begin_at(epoch, steps * BATCH)
    read = []
    for number in range(epoch, EPOCHS):
        sampler.set_epoch(number)
        read += [batch.tolist() for batch in loaded]
    return read


def test_each_seed_has_an_order_of_its_own_in_each_epoch() -> None:
    orders = set()
    for seed in range(3):
        sampler, _ = loader(0, 0, seed)
        for epoch in range(EPOCHS):
            sampler.set_epoch(epoch)
            orders.add(tuple(sampler))
    assert len(orders) == 3 * EPOCHS
    plain = DistributedSampler(list(range(ROWS)), num_replicas=RANKS, rank=0, drop_last=True)
    assert list(loader(0, 0)[0]) == list(plain)


@pytest.mark.parametrize("rank", range(RANKS))
@pytest.mark.parametrize("done", range(PER_EPOCH * EPOCHS + 1))
def test_a_run_goes_on_with_the_rows_that_come_next(rank: int, done: int) -> None:
    whole = batches(rank, 0)
    assert len(whole) == PER_EPOCH * EPOCHS
    assert batches(rank, done) == whole[done:]


@pytest.mark.parametrize("done", [0, 2, PER_EPOCH])
def test_workers_of_the_loader_change_nothing(done: int) -> None:
    assert batches(0, done, workers=2) == batches(0, 0)[done:]
