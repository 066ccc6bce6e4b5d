"""Deals the rows of all parts out to the training files, in source order and little memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.metadata import encode_metadata
from data_prep.splits import FRACTIONS, SPLITS, fraction_levels
from data_prep.tables import Layout

ROW_GROUP = 4096
EMBEDDED_ROW_GROUP = 256  # an image is some hundred kilobytes
SFT_PREFIX = "sft_"
# Columns of texts that hardly repeat: looking for repeats would take half of the time of writing.
UNIQUE_TEXTS = ("content", "ground_truth", "question", "findings", "bytes", "index")


class RowFile:
    """A parquet file that is filled table by table, in row groups of the same length."""

    def __init__(
        self, path: Path, schema: pa.Schema, metadata: Mapping[str, Any] | None, group: int
    ) -> None:
        if metadata is not None:
            schema = schema.with_metadata(encode_metadata(dict(metadata)))
        self._schema, self._group = schema, group
        self._held: list[pa.Table] = []
        self._count = 0
        self.rows = 0
        repeating = _repeating(schema)
        self._writer = pq.ParquetWriter(
            path, schema, use_dictionary=repeating, write_statistics=repeating
        )

    def add(self, table: pa.Table) -> None:
        if not table.num_rows:
            return
        self._held.append(table.replace_schema_metadata(self._schema.metadata))
        self._count += table.num_rows
        self.rows += table.num_rows
        if self._count >= self._group:
            whole = pa.concat_tables(self._held)
            full = self._count - self._count % self._group
            self._writer.write_table(whole.slice(0, full), row_group_size=self._group)
            # A copy, so that the rows written can be freed.
            rest = whole.slice(full)
            self._held = [rest.take(pa.array(np.arange(rest.num_rows)))]
            self._count = rest.num_rows

    def close(self) -> None:
        if self._count:
            self._writer.write_table(pa.concat_tables(self._held), row_group_size=self._group)
        self._held = []
        self._writer.close()


def _repeating(schema: pa.Schema) -> list[str]:
    """The parquet paths of columns worth a dictionary."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema) as writer:
        writer.write_table(schema.empty_table())
    columns = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    paths = [columns.column(place).path for place in range(len(columns))]
    return [path for path in paths if path.split(".")[-1] not in UNIQUE_TEXTS]


class Splitter:
    """Tells for each row of a part its split, and for each training row its fraction."""

    def __init__(self, split_of: Mapping[str, str], train_rows: int, seed: int) -> None:
        names = sorted(split_of)
        self._patients = pa.array(names, pa.string())
        self._codes = np.array([SPLITS.index(split_of[name]) for name in names], dtype=np.int8)
        self._levels = fraction_levels(train_rows, seed)
        self._seen = 0

    def deal(self, flat: pa.Table) -> Iterator[tuple[str, pa.Table, np.ndarray]]:
        """Each split with its rows and, of training rows, the levels of `fraction_levels`."""
        places = pc.index_in(flat["patient"], value_set=self._patients).to_numpy()
        codes = self._codes[places.astype(np.int64)] if len(places) else places.astype(np.int8)
        for code, split in enumerate(SPLITS):
            positions = np.flatnonzero(codes == code)
            rows = flat.take(pa.array(positions, pa.int64()))
            levels = np.ones(len(positions), dtype=np.uint8)
            if split == "train":
                levels = self._levels[self._seen : self._seen + len(positions)]
                self._seen += len(positions)
            yield split, rows, levels


class TrainingFiles:
    """The rollout files of a run, or its SFT files, filled part by part."""

    def __init__(self, folder: Path, layout: Layout, values: Mapping[str, Any], kind: str) -> None:
        """`kind` is "rollout" or "sft"."""
        is_sft = kind == "sft"
        schema = layout.sft_schema if is_sft else layout.rollout_schema
        self._prefix = SFT_PREFIX if is_sft else ""
        self._make = layout.sft if is_sft else layout.rollout
        group = EMBEDDED_ROW_GROUP if layout.embed_images else ROW_GROUP
        self._slice = group if layout.embed_images else 1 << 30
        self._files: dict[str, RowFile] = {}
        self._filling: dict[str, Future[None]] = {}  # the last job of each file
        for name in file_names():
            if name.startswith(SFT_PREFIX) != is_sft:
                continue
            split, _, fraction = name.removeprefix(self._prefix).partition("-")
            described = {**values, "split": split, "fraction": fraction or "full"}
            self._files[name] = RowFile(folder / f"{name}.parquet", schema, described, group)

    def add(self, split: str, flat: pa.Table, levels: np.ndarray, pool: ThreadPoolExecutor) -> None:
        """Adds rows of one split to its files, and training rows to their fractions'.

        The files may still be filled when this returns, until the next rows come for them.
        """
        for begin in range(0, flat.num_rows, self._slice):
            rows = flat.slice(begin, self._slice)
            self._add(split, rows, levels[begin : begin + self._slice], pool)

    def _add(
        self, split: str, flat: pa.Table, levels: np.ndarray, pool: ThreadPoolExecutor
    ) -> None:
        for part in (1, *FRACTIONS) if split == "train" else (1,):
            name = self._prefix + (split if part == 1 else f"{split}-1of{part}")
            if name not in self._files:  # there is no SFT on the test split
                continue
            chosen = None if part == 1 else np.flatnonzero(levels >= part)
            if name in self._filling:
                self._filling[name].result()
            # Each job has a file of its own; Arrow lets go of the interpreter in its work.
            job = pool.submit(_fill, self._files[name], self._make, flat, chosen, split)
            self._filling[name] = job

    def close(self) -> dict[str, int]:
        """Ends the files and returns the number of rows in each."""
        for job in self._filling.values():
            job.result()
        for file in self._files.values():
            file.close()
        return {f"{name}.parquet": file.rows for name, file in self._files.items()}


def _fill(
    file: RowFile,
    make: Callable[[pa.Table, str], pa.Table],
    flat: pa.Table,
    chosen: np.ndarray | None,
    split: str,
) -> None:
    """Adds rows of a part to a file: all, or those at the positions `chosen`."""
    file.add(make(flat if chosen is None else flat.take(pa.array(chosen)), split))


def file_names() -> list[str]:
    """The training files of a run, without their ending."""
    names = []
    for split in (*SPLITS, *(f"train-1of{part}" for part in FRACTIONS)):
        names.append(split)
        if split != "test":
            names.append(f"{SFT_PREFIX}{split}")
    return names
