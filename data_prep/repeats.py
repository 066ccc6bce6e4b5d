"""Counts repeated questions in a memory that does not grow with the number of rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

KEYS = ("question_key", "answer_key")  # columns of `convert.FLAT`
ROWS_AT_ONCE = 1 << 17  # held in memory while they are counted, about


class Repeats:
    """The rows' hashes, in a file until they are counted.

    A row has two, of 64 bits each: of its image and question, and of these and its answer.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._rows = 0

    def add(self, flat: pa.Table) -> None:
        """Adds rows by their columns `KEYS`."""
        self._file.write(np.column_stack([flat[name].to_numpy() for name in KEYS]).tobytes())
        self._rows += flat.num_rows

    def count(self) -> dict[str, int]:
        """How many rows repeat an earlier one's image and question, and how many answer otherwise.

        Hashes of questions are spread evenly, so those with the same remainder are looked at
        together, and the file is read once for each remainder.
        """
        self._file.close()
        shares = -(-self._rows // ROWS_AT_ONCE)
        questions = answers = 0
        for share in range(shares):
            chosen = [keys[keys[:, 0] % shares == share] for keys in self._blocks()]
            together = np.concatenate(chosen)
            questions += len(np.unique(together[:, 0]))
            answers += len(np.unique(together[:, 1]))
        self._path.unlink()
        return {"rows": self._rows - questions, "other_answers": answers - questions}

    def _blocks(self) -> Iterator[np.ndarray]:
        with self._path.open("rb") as file:
            while block := file.read(16 * ROWS_AT_ONCE):
                yield np.frombuffer(block, np.uint64).reshape(-1, 2)
