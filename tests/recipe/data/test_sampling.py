"""The rows that validation looks at."""

import pytest

from recipe.data.datasets import sample_of_all_kinds

# sorted by kind, as a file may be, and one kind is rare
KINDS = ["closed"] * 600 + ["open"] * 395 + ["multi"] * 5


def test_every_kind_is_there_in_every_draw() -> None:
    for seed in range(50):
        rows = sample_of_all_kinds(KINDS, 16, seed)
        assert len(set(rows)) == 16
        assert {KINDS[row] for row in rows} == {"closed", "open", "multi"}


def test_the_same_seed_draws_the_same_rows_in_the_order_of_the_file() -> None:
    rows = sample_of_all_kinds(KINDS, 100, 3)
    assert rows == sorted(rows) == sample_of_all_kinds(KINDS, 100, 3)
    assert rows != sample_of_all_kinds(KINDS, 100, 4)


def test_rows_come_from_the_whole_file_in_their_shares() -> None:
    rows = sample_of_all_kinds(KINDS, 500, 0)
    assert max(rows) > 900
    assert sum(KINDS[row] == "closed" for row in rows) == pytest.approx(300, abs=40)


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_rows_than_kinds(count: int) -> None:
    assert len({KINDS[row] for row in sample_of_all_kinds(KINDS, count, 0)}) == count


def test_no_more_rows_than_there_are() -> None:
    assert sample_of_all_kinds(["a", "b"], 5, 0) == [0, 1]
