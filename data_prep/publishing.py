"""The files of a run take their final names, all of them or none."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import InputError
from data_prep.pictures import MISSING
from data_prep.writing import file_names

AUDIT = "audit.json"
REJECTS = "rejects.parquet"


def output_names() -> list[str]:
    """Every file that a run may leave in its folder."""
    training = [f"{name}.parquet" for name in file_names()]
    return [*training, REJECTS, "audit.html", MISSING, AUDIT]


def refuse_own_source(sources: Sequence[str], out: Path) -> None:
    """Raises InputError where a file to read would be overwritten or removed."""
    for name in sources:
        path = Path(name).resolve()
        if path.parent == out and path.name in output_names():
            raise InputError(f"--out {out} would overwrite the source {path}: name another folder")


def check_whole(folder: Path, rows: Mapping[str, int]) -> None:
    """Raises InputError where a file does not hold the rows that were written into it."""
    for name, count in rows.items():
        try:
            found = pq.read_metadata(folder / name).num_rows
        except (OSError, pa.ArrowInvalid):
            found = None
        if found != count:
            raise InputError(
                f"{folder / name} does not hold the {count} rows that were written: another "
                "program changes files there; start again"
            )


def publish(out: Path, folder: Path) -> None:
    """Moves a run's files into `out`, the audit's last: where it is, the others are of its run.

    What an earlier run left is removed first, so that files of two runs never stand together.
    """
    names = sorted(path.name for path in folder.iterdir())
    for name in reversed(output_names()):
        (out / name).unlink(missing_ok=True)
    for name in sorted(names, key=lambda name: (name == AUDIT, name)):
        os.replace(folder / name, out / name)
