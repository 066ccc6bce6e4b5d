"""A saved position of torchdata's loader is read by a loader with other worker processes."""

from typing import Any

import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import RandomSampler

from recipe.data.loader_state import for_workers

ROWS, BATCH = 26, 4
PER_EPOCH = ROWS // BATCH


class Reader:
    """A loader as verl's trainer builds it, and its reading of one batch after the other."""

    def __init__(self, workers: int) -> None:
        rows = list(range(ROWS))
        sampler = RandomSampler(rows, generator=torch.Generator().manual_seed(0))
        self.loader: Any = StatefulDataLoader(
            rows, batch_size=BATCH, num_workers=workers, drop_last=True, sampler=sampler
        )
        self._batches: Any = None

    def read(self, count: int) -> list[list[int]]:
        return [self._next() for _ in range(count)]

    def _next(self) -> list[int]:
        try:
            if self._batches is None:
                self._batches = iter(self.loader)
            return list(map(int, next(self._batches)))
        except StopIteration:
            self._batches = iter(self.loader)
            return list(map(int, next(self._batches)))

    def resume(self, state: dict[str, Any]) -> None:
        self.loader.load_state_dict(for_workers(state, self.loader.num_workers))


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 1)])
def test_an_epoch_is_read_on_with_other_workers(before: int, after: int) -> None:
    epoch = Reader(before).read(PER_EPOCH)
    first, second, third = Reader(before), Reader(after), Reader(before)
    assert first.read(2) == epoch[:2]
    second.resume(first.loader.state_dict())
    assert second.read(2) == epoch[2:4]
    # what such a start saves is whole as well
    third.resume(second.loader.state_dict())
    assert third.read(PER_EPOCH - 4) == epoch[4:]
    following = third.read(PER_EPOCH)
    assert following != epoch
    assert len({row for batch in following for row in batch}) == PER_EPOCH * BATCH


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 0)])
@pytest.mark.parametrize("done", [0, PER_EPOCH])
def test_a_whole_epoch_follows_where_one_ends(before: int, after: int, done: int) -> None:
    first, second = Reader(before), Reader(after)
    first.read(done)
    second.resume(first.loader.state_dict())
    assert len({row for batch in second.read(PER_EPOCH) for row in batch}) == PER_EPOCH * BATCH


def test_the_same_workers_get_what_was_saved() -> None:
    for workers in (0, 1):
        reader = Reader(workers)
        reader.read(1)
        state = reader.loader.state_dict()
        assert for_workers(state, workers) is state
