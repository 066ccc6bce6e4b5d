"""What every source of rows offers: its number of rows, and its rows in batches, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

# The columns of ThinkVG's parquet.
COLUMNS = ("image_path", "question", "question_type", "thinkVG", "response")
# Either of these tells a table of GEMeX rows.
GEMEX_COLUMNS = ("visual_locations", "conversations")
# The one column of a source of JSON rows: each row's text as it stands in its file.
RAW = "row"


class Source(Protocol):
    """Rows to prepare. Row number i of all batches in order is the row of source index i."""

    @property
    def label(self) -> str:
        """What it is, for messages."""

    @property
    def files(self) -> list[str]:
        """What it was read from, for the audit."""

    @property
    def rows(self) -> int:
        """The number of rows."""

    @property
    def schema(self) -> pa.Schema:
        """The columns of every batch."""

    def identity(self) -> str:
        """Changes when the rows do: what parts of an earlier run are checked against."""

    def batches(self, size: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All rows, `size` in every batch but the last.

        With `columns` a source that can do so leaves out the others.
        """


class LocalFiles:
    """What sources of local files have in common."""

    def __init__(self, files: list[Path]) -> None:
        self._paths = files

    @property
    def label(self) -> str:
        return str(self._paths[0] if len(self._paths) == 1 else self._paths[0].parent)

    @property
    def files(self) -> list[str]:
        return [str(path) for path in self._paths]

    def identity(self) -> str:
        return stamps(self._paths)


def stamps(paths: list[Path]) -> str:
    """Names, sizes and times of files, which tell whether they are the ones seen before."""
    return ";".join(
        f"{path.resolve()}|{path.stat().st_size}|{path.stat().st_mtime_ns}" for path in paths
    )


def stamp(path: Path) -> str:
    """The same of a file, or of the files in a folder, whose own time does not change with them."""
    return stamps(sorted(path.iterdir()) if path.is_dir() else [path])


def rebatch(pieces: Iterator[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    """Batches of exactly `size` rows, the last one excepted, from pieces of any length."""
    held: list[pa.RecordBatch] = []
    count = 0
    for piece in pieces:
        while piece.num_rows:
            taken = piece.slice(0, size - count)
            piece = piece.slice(taken.num_rows)
            held.append(taken)
            count += taken.num_rows
            if count == size:
                yield _joined(held)
                held, count = [], 0
    if held:
        yield _joined(held)


def _joined(pieces: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pieces[0] if len(pieces) == 1 else pa.concat_batches(pieces)
