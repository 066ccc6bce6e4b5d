"""Counting repeated questions, in one share or in many, against plain sets."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import repeats
from data_prep.repeats import Repeats

BIG = 2**64 - 1
few = st.sampled_from([0, 1, 2, 3, BIG - 1, BIG])


@given(
    blocks=st.lists(st.lists(st.tuples(few, few), max_size=30), max_size=5),
    at_once=st.integers(1, 40),
)
def test_counts_as_sets_do(
    blocks: list[list[tuple[int, int]]], at_once: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("repeats") / "keys"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeats, "ROWS_AT_ONCE", at_once)
        found = Repeats(path)
        for block in blocks:
            rows = np.array(block, np.uint64).reshape(-1, 2)
            # An answer's hash goes with its question's, as those of `convert` do.
            answers = rows[:, 0] ^ (rows[:, 1] << np.uint64(8))
            found.add(pa.table([rows[:, 0], answers], names=repeats.KEYS))
        counted = found.count()
    pairs = [
        (question, question ^ (answer << 8) % 2**64) for rows in blocks for question, answer in rows
    ]
    questions, both = {one for one, _ in pairs}, set(pairs)
    assert counted == {
        "rows": len(pairs) - len(questions),
        "other_answers": len(both) - len(questions),
    }
    assert not path.exists()


def test_no_rows(tmp_path: Path) -> None:
    assert Repeats(tmp_path / "keys").count() == {"rows": 0, "other_answers": 0}
