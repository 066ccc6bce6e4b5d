"""The first pass over the source: which pictures are named, and a sample of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from data_prep.convert import read_records
from data_prep.coordinates import Size
from data_prep.pictures import Picture
from data_prep.rows import ParsedRow, parse_row
from data_prep.sources import Source
from data_prep.sources.base import GEMEX_COLUMNS
from data_prep.sources.gemex import as_thinkvg
from reward.numbers import Box

BATCH = 2048
SAMPLE = 1500


@dataclass(frozen=True)
class Scan:
    """Every image path that the kept rows name, and some of the rows, evenly spread."""

    names: set[str]
    sample: list[ParsedRow]


def numbered_batches(
    source: Source, kept: np.ndarray | None, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, pa.RecordBatch, np.ndarray | None]]:
    """Each batch with its first row's index and the positions in it that are kept (None: all)."""
    start = 0
    for batch in source.batches(BATCH, columns):
        positions = None
        if kept is not None:
            first, last = np.searchsorted(kept, [start, start + batch.num_rows])
            positions = kept[first:last] - start
        yield start, batch, positions
        start += batch.num_rows


def scan(source: Source, kept: np.ndarray | None, is_spread: bool = True) -> Scan:
    """Reads all rows once: for a sample that is not spread over them, their image paths only."""
    count = source.rows if kept is None else len(kept)
    if not is_spread and has_paths(source.schema):
        names, _ = _read(source, kept, count, np.empty(0, np.int64), ("image_path",))
        return Scan(names, _first_rows(source, kept))
    wanted = np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).round().astype(np.int64))
    return Scan(*_read(source, kept, count, wanted, None))


def has_paths(schema: pa.Schema) -> bool:
    """Whether a column tells each row's image path."""
    return "image_path" in schema.names and not set(GEMEX_COLUMNS) & set(schema.names)


def _read(
    source: Source,
    kept: np.ndarray | None,
    count: int,
    wanted: np.ndarray,
    columns: Sequence[str] | None,
) -> tuple[set[str], list[ParsedRow]]:
    """All image paths, and of the kept rows those whose numbers are in `wanted`."""
    names: set[str] = set()
    sample: list[ParsedRow] = []
    seen = 0
    with tqdm(total=count, desc="looking through rows", unit="row", mininterval=1) as bar:
        for start, batch, positions in numbered_batches(source, kept, columns):
            places = np.arange(batch.num_rows) if positions is None else positions
            names.update(_names(batch, positions))
            first, last = np.searchsorted(wanted, [seen, seen + len(places)])
            if last > first:
                sample += _parsed(batch, places[wanted[first:last] - seen], start)
            seen += len(places)
            bar.update(len(places))
    return names, sample


def _first_rows(source: Source, kept: np.ndarray | None) -> list[ParsedRow]:
    """The first of the kept rows."""
    sample: list[ParsedRow] = []
    for start, batch, positions in numbered_batches(source, kept):
        places = np.arange(batch.num_rows) if positions is None else positions
        sample += _parsed(batch, places[: SAMPLE - len(sample)], start)
        if len(sample) >= SAMPLE or start > 20 * SAMPLE:
            break
    return sample


def _names(batch: pa.RecordBatch, positions: np.ndarray | None) -> set[str]:
    """The image paths in a batch."""
    if has_paths(batch.schema):
        column = batch.column("image_path")
        if positions is not None:
            column = column.take(pa.array(positions, pa.int64()))
        try:
            return {name.strip() for name in pc.unique(column).to_pylist() if name}
        except UnicodeDecodeError:
            pass  # row by row, so that only the row at fault is left out
    places = range(batch.num_rows) if positions is None else positions.tolist()
    table = pa.Table.from_batches([batch])
    read = dict if has_paths(batch.schema) else as_thinkvg
    found = (_name(record, read) for record in read_records(table, list(places)))
    return {name for name in found if name}


def _name(
    record: Mapping[str, Any] | None, read: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> str:
    try:
        path = read(record or {}).get("image_path")
    except Exception:
        # The conversion meets the row again and says what is wrong with it.
        return ""
    return path.strip() if isinstance(path, str) else ""


def _parsed(batch: pa.RecordBatch, places: np.ndarray, start: int) -> list[ParsedRow]:
    """The rows at `places` of a batch, but for those at fault."""
    parsed = []
    positions = places.tolist()
    for position, record in zip(
        positions, read_records(pa.Table.from_batches([batch]), positions), strict=True
    ):
        try:
            parsed.append(parse_row(as_thinkvg(record or {}), start + position))
        except Exception:
            continue  # the conversion meets the row again and says what is wrong with it
    return parsed


def sampled_boxes(
    sample: list[ParsedRow], pictures: Mapping[str, Picture | str]
) -> list[tuple[Box, Size]]:
    """The boxes of sampled rows, each with its picture's original (width, height)."""
    boxes = []
    for row in sample:
        picture = pictures.get(row.image_path)
        if isinstance(picture, Picture):
            boxes += [(box, picture.original) for box in row.boxes()]
    return boxes
