"""A small phantom set with the tiny model, and ways to break them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

PIXELS = ("--min-pixels", "12544", "--max-pixels", "15680")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``data`` (a prepared phantom set) and ``model`` (tiny, untrained)."""
    root = tmp_path_factory.mktemp("prepared")
    phantom = str(root / "phantom")
    for command in (
        ("phantom.draw", "--out", phantom, "--images", "70", "--seed", "3"),
        (
            *("data_prep.thinkvg", "--source", phantom, "--images", f"{phantom}/files"),
            *("--out", str(root / "data"), *PIXELS, "--val", "0.2", "--test", "0.1"),
        ),
        ("phantom.tiny", "--data", str(root / "data"), "--out", str(root / "model")),
    ):
        subprocess.run([sys.executable, "-m", *command], check=True, timeout=120)
    return root


Rewrite = Callable[[Callable[[dict[str, object]], None]], Path]


@pytest.fixture
def rewritten(prepared: Path, tmp_path: Path) -> Rewrite:
    """Copy the rollout files with every row changed in place; returns the new folder."""

    def copy(change: Callable[[dict[str, object]], None]) -> Path:
        for name in ("train", "val"):
            table = pq.read_table(prepared / "data" / f"{name}.parquet")
            rows = table.to_pylist()
            for row in rows:
                change(row)
            changed = pa.Table.from_pylist(rows, schema=table.schema)
            pq.write_table(changed, tmp_path / f"{name}.parquet")
        return tmp_path

    return copy
