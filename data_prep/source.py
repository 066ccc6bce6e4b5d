"""Reads a ThinkVG dataset: its rows, and the pictures that they name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from data_prep.coordinates import Size

COLUMNS = ("image_path", "question", "question_type", "thinkVG", "response")
_SUBJECT = re.compile(r"(?:^|/)(p\d{6,})/(?:(s\d+)/)?")


class InputError(Exception):
    """A fault of the input as a whole, in one line that says what to do."""


@dataclass(frozen=True)
class Picture:
    """An original picture: its absolute path and its (width, height) in pixels."""

    path: str
    size: Size


def source_files(source: Path) -> list[Path]:
    """The parquet files of `--source`: the file itself, or a folder's `data/*.parquet`."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"--source {source} does not exist")
    files = sorted((source / "data").glob("*.parquet")) or sorted(source.glob("*.parquet"))
    if not files:
        raise InputError(f"--source {source} holds no data/*.parquet: name a file or such a folder")
    return files


def read_source(files: list[Path]) -> pa.Table:
    """All rows of the files, with every column they have, in order.

    The schema metadata is that of the first file.
    """
    tables = []
    for file in files:
        try:
            table = pq.read_table(file)
        except (pa.ArrowInvalid, OSError) as error:
            first = str(error).splitlines()[0]
            raise InputError(f"{file} is not a readable parquet file: {first}") from None
        missing = [name for name in COLUMNS if name not in table.column_names]
        if missing:
            raise InputError(
                f"{file} lacks the column {', '.join(missing)}: it has "
                f"{', '.join(table.column_names)}"
            )
        for name in COLUMNS:
            kind = table.schema.field(name).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise InputError(f"{file}: the column {name} holds {kind}, not text")
        tables.append(table)
    try:
        joined = pa.concat_tables(tables, promote_options="default")
    except pa.ArrowInvalid as error:
        raise InputError(f"the parquet files differ in their columns: {error}") from None
    return joined.replace_schema_metadata(tables[0].schema.metadata)


def patient_and_study(image_path: str) -> tuple[str, str] | None:
    """`("p10000032", "s50414267")` from MIMIC-CXR's layout; None in any other."""
    match = _SUBJECT.search(image_path)
    return (match[1], match[2] or "") if match else None


def find_pictures(
    image_paths: Iterable[str], folder: Path, workers: int
) -> dict[str, Picture | str]:
    """Each named picture once: found and measured, or the reject code that says why not.

    Sizes come from the files' headers; no pixels are decoded.
    """
    names = sorted(set(image_paths))
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        found = pool.map(lambda name: _measure(folder, name), names)
        progress = tqdm(found, total=len(names), desc="reading image headers", unit="image")
        return dict(zip(names, progress, strict=True))


def _measure(folder: Path, name: str) -> Picture | str:
    path = _locate(folder, name)
    if path is None:
        return "missing_image"
    try:
        with Image.open(path) as picture:
            return Picture(str(path), picture.size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        # PIL raises each of these for files that are not pictures.
        return "unreadable_image"


def _locate(folder: Path, name: str) -> Path | None:
    relative = name.strip().lstrip("/")
    if not relative or ".." in Path(relative).parts:
        return None
    options = [folder / relative, folder / "files" / relative]
    if relative.startswith("files/"):
        options.append(folder / relative.removeprefix("files/"))
    return next((path for path in options if path.is_file()), None)
