"""Source rows before conversion: reading them, the images they name, and a parsed sample."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from data_prep.coordinates import Size
from data_prep.pictures import Picture
from data_prep.rows.example import ParsedRow, parse_row
from data_prep.sources.files import GEMEX_COLUMNS, Source
from data_prep.sources.gemex import as_thinkvg
from reward.boxes_in_text import Box

BATCH = 2048
SAMPLE = 1500


@dataclass(frozen=True)
class Scan:
    """Every image path that the rows name, and a sample of the rows."""

    names: set[str]
    sample: list[ParsedRow]


def chosen_rows(
    source: Source, indices: np.ndarray, columns: tuple[str, ...] | None = None
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Yield the rows with these sorted source indices in batches, each with its indices.

    `columns` are the columns needed, None for all; a source may read more.
    """
    start = 0
    for batch in source.batches(BATCH, columns):
        first, last = np.searchsorted(indices, [start, start + batch.num_rows])
        chosen = indices[first:last]
        yield pa.Table.from_batches([batch]).take(pa.array(chosen - start)), chosen
        start += batch.num_rows


def read_records(rows: pa.Table | pa.RecordBatch) -> list[Mapping[str, Any] | None]:
    """Return rows as dicts, None for a row with a text that is not valid UTF-8."""
    try:
        records: list[Mapping[str, Any] | None] = rows.to_pylist()
    except UnicodeDecodeError:
        if rows.num_rows == 1:
            return [None]
        single_rows = [rows.slice(position, 1) for position in range(rows.num_rows)]
        return [read_records(row)[0] for row in single_rows]
    return records


def with_reasons(rows: pa.Table, indices: Sequence[int], reasons: Sequence[str | None]) -> pa.Table:
    """Add the columns `source_index` and `reason` to rejected rows.

    Columns of the source with these names, such as GEMeX's `reason`, are renamed to
    `source_reason` and the like.
    """
    added = {
        "source_index": pa.array(indices, pa.int64()),
        "reason": pa.array(reasons, pa.string()),
    }
    names = list(rows.column_names)
    for position, name in enumerate(rows.column_names):
        if name in added:
            renamed = f"source_{name}"
            while renamed in names:
                renamed += "_"
            names[position] = renamed
    rows = rows.rename_columns(names)
    for name, column in added.items():
        rows = rows.append_column(name, column)
    return rows


def scan(source: Source, indices: np.ndarray, is_spread: bool) -> Scan:
    """Collect the image paths of the rows with these sorted indices, and parse a sample of them.

    With `is_spread` the sample is from the whole source, otherwise from its beginning.
    """
    count = min(len(indices), SAMPLE)
    positions = np.arange(count)
    if is_spread:
        positions = np.unique(np.linspace(0, len(indices) - 1, count).round().astype(np.int64))
    return Scan(image_names(source, indices), _parse_sample(source, indices[positions]))


def image_names(source: Source, indices: np.ndarray) -> set[str]:
    columns = source.schema.names
    has_paths = "image_path" in columns and not set(GEMEX_COLUMNS) & set(columns)
    names: set[str] = set()
    with tqdm(total=len(indices), desc="looking through rows", unit="row", mininterval=1) as bar:
        for rows, _ in chosen_rows(source, indices, ("image_path",) if has_paths else None):
            for record in read_records(rows):
                names.add(_image_name(record or {}, has_paths))
            bar.update(rows.num_rows)
    return names - {""}


def _image_name(record: Mapping[str, Any], has_path: bool) -> str:
    try:
        path = (record if has_path else as_thinkvg(record)).get("image_path")
    except Exception:  # the conversion rejects the row with its reason
        return ""
    return path.strip() if isinstance(path, str) else ""


def _parse_sample(source: Source, indices: np.ndarray) -> list[ParsedRow]:
    sample = []
    for rows, chosen in chosen_rows(source, indices):
        for index, record in zip(chosen.tolist(), read_records(rows), strict=True):
            try:
                sample.append(parse_row(as_thinkvg(record or {}), index))
            except Exception:  # as above
                continue
        if indices[-1] in chosen:
            break
    return sample


def sampled_boxes(
    sample: list[ParsedRow], pictures: Mapping[str, Picture | str]
) -> list[tuple[Box, Size]]:
    """Return the boxes of sampled rows, each with its picture's original (width, height)."""
    boxes = []
    for row in sample:
        picture = pictures.get(row.image_path)
        if isinstance(picture, Picture):
            boxes += [(box, picture.original) for box in row.boxes()]
    return boxes
