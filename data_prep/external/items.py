"""What an importer reads: rows of the published files, and the questions made of them.

An importer registers every row of its files with a `Reading`. In the end, each row is in a question
of the output, is rejected with a code of `REJECT_CODES`, or is left out for a reason of `LEFT_OUT`.
"""

import csv
import gzip
import io
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.coordinates import Size
from data_prep.program import InputError
from data_prep.rows.answers import Answer
from data_prep.rows.example import REJECT_CODES
from reward.boxes_in_text import Box
from reward.ground_truth import QuestionType

LEFT_OUT = {
    "other_split": "the row is not in the part of the set that --split or --mimic-split chooses",
    "shared_patient": "the patient is in the training data",
    "limit": "--limit chose other questions",
    "repeat": "the row says again what an earlier row says",
    "incomplete": "another box of the same question is rejected: the truth would lack it",
    "no_box": "the row has no box to ask for",
    "no_label": "the row has no label to ask for",
    "asks_nothing": "the label names no finding, so a question would not say what it asks",
    "stated_elsewhere": "another sentence about the image says that the label is there",
    "not_chest": "the image is no chest X-ray",
    "no_frontal": "the study has no frontal image",
    "other_language": "the question is not in English",
}

Scored = Literal["answer", "boxes", "both"]
"""Which part of a response the set has a truth for."""


class SourceRow(NamedTuple):
    """A row of a published file; `number` counts from 0."""

    file: str
    number: int
    record: Mapping[str, Any]

    @property
    def key(self) -> tuple[str, int]:
        return self.file, self.number


class TrueBox(NamedTuple):
    """A true box: the source row that states it, its name, its corners in the set's frame."""

    row: SourceRow
    ref: str
    box: Box


@dataclass(frozen=True)
class Item:
    """A question of a set, before its picture is measured; boxes are in the set's frame."""

    rows: Sequence[SourceRow]
    images: Sequence[str]  # names that its picture may have below --images, the likeliest first
    patient: str
    question: str
    question_type: QuestionType
    answer: Answer
    scored: Scored
    study: str = ""
    choices: dict[str, str] | None = None
    boxes: Sequence[TrueBox] = ()
    size: Size | None = None  # (width, height) that the set states for the picture
    label: str = ""  # the finding or task, for tables
    answer_type: str = ""  # "OPEN" or "CLOSED", as published
    subset: str = ""  # part of the set that is reported by itself
    second_reader: Sequence[Box] = ()

    def is_whole(self, reading: "Reading") -> bool:
        """Return whether none of its rows is rejected; if one is, leave the others out."""
        if not any(row.key in reading.rejects for row in self.rows):
            return True
        for row in self.rows:
            reading.leave_out(row, "incomplete")
        return False


@dataclass
class Reading:
    """Rows and questions of a set, and what happened to each row."""

    rows: dict[tuple[str, int], SourceRow] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)
    rejects: dict[tuple[str, int], str] = field(default_factory=dict)
    left_out: dict[tuple[str, int], str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def register(self, file: str, number: int, record: Mapping[str, Any]) -> SourceRow:
        row = SourceRow(file, number, record)
        self.rows[row.key] = row
        return row

    def reject(self, row: SourceRow, code: str) -> None:
        self.rejects.setdefault(row.key, code)

    def leave_out(self, row: SourceRow, reason: str) -> None:
        self.left_out.setdefault(row.key, reason)


def reject_bad_texts(reading: Reading) -> None:
    """Reject rows with half of a surrogate pair, which is no UTF-8, and their questions."""
    for row in reading.rows.values():
        try:
            _as_json(row.record).encode()
        except UnicodeEncodeError:
            reading.reject(row, "bad_text")
    reading.items = [item for item in reading.items if item.is_whole(reading)]


def _as_json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, default=str)


def write_rejects(path: Path, reading: Reading) -> None:
    """Write the rejected rows of all files as JSON, each with its file, number and reason."""
    rows = [
        {
            "source_file": row.file,
            "source_index": row.number,
            "reason": reading.rejects[key],
            "row": _as_json(row.record).encode(errors="backslashreplace").decode(),
        }
        for key, row in reading.rows.items()
        if key in reading.rejects
    ]
    columns = ("source_file", "source_index", "reason", "row")
    kinds = (pa.string(), pa.int64(), pa.string(), pa.string())
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(zip(columns, kinds, strict=True))), path)


def account(reading: Reading, used: set[tuple[str, int]]) -> dict[str, Any]:
    """Count the fates of all rows; `used` are the keys of those in questions of the output.

    Raises:
        RuntimeError: A row has no fate, which is a fault of the importer.
    """
    left_out = {
        key: reason
        for key, reason in reading.left_out.items()
        if key not in used and key not in reading.rejects
    }
    if lost := reading.rows.keys() - used - reading.rejects.keys() - left_out.keys():
        raise RuntimeError(f"{len(lost)} rows are not accounted for, such as {min(lost)}")
    counts = {"in_questions": len(used), "rejects": len(reading.rejects), "left_out": len(left_out)}
    reasons, rejects = Counter(left_out.values()), Counter(reading.rejects.values())
    source = len(reading.rows)
    return {
        "rows": {"source": source, **counts, "conserved": source == sum(counts.values())},
        "rejects": {code: rejects[code] for code in REJECT_CODES if rejects[code]},
        "left_out": {reason: reasons[reason] for reason in LEFT_OUT if reasons[reason]},
    }


@dataclass(frozen=True)
class SetFiles:
    """The files of a set, and which part of it is wanted."""

    source: Path
    split: str  # "test", "val", "train" or "all"
    mimic_split: Path | None  # MIMIC-CXR's table of splits

    def find(self, *patterns: str) -> Path:
        """Return the newest file that fits the first pattern that has any, of `--source`.

        Raises:
            InputError: No file fits.
        """
        for pattern in patterns:
            if self.source.is_file() and self.source.match(pattern):
                return self.source
            for depth in ("", "*/", "*/*/"):
                if files := sorted(self.source.glob(depth + pattern)):
                    return files[-1]
        raise InputError(f"--source {self.source} holds no {' or '.join(patterns)}")

    def wants(self, split: str) -> bool:
        names = {"validation": "val", "valid": "val"}
        name = split.strip().lower()
        return self.split in ("all", names.get(name, name))


def read_table(
    path: Path, reading: Reading, columns: Sequence[str], known: Sequence[str] | None = ()
) -> list[dict[str, str]]:
    """Read a CSV file with a header, all values as texts: ids may have more than 64 bits.

    Args:
        path: The file, which may be compressed with gzip.
        reading: Gets a note on columns that are neither in `columns` nor in `known`.
        columns: Columns that must be there.
        known: Columns that may be there, None for any.

    Raises:
        InputError: The file does not read, or lacks a column.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = io.StringIO(content.decode("utf-8-sig"), newline="")
        table = csv.DictReader(text, strict=True)
        names = [name for name in table.fieldnames or () if name]
        rows = []
        for row in table:
            if None in row:
                raise csv.Error(
                    f"line {table.line_num} has more values than columns: put commas in quotes"
                )
            rows.append({key: value or "" for key, value in row.items() if key})
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise InputError(f"{path} does not read: {error}") from None
    if missing := [name for name in columns if name not in names]:
        raise InputError(
            f"{path} lacks the column {', '.join(missing)} of the published file; it has "
            f"{', '.join(names) or 'none'}"
        )
    if known is not None:
        check_known(path, reading, names, [*columns, *known])
    return rows


def check_known(path: Path, reading: Reading, names: Sequence[str], known: Sequence[str]) -> None:
    """Note the columns or keys that the published file does not have, as far as is known."""
    if unknown := [name for name in names if name not in known]:
        reading.notes.append(f"{path.name} has {', '.join(unknown)}, which this program ignores")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} does not read as JSON: {error}") from None


def read_records(
    path: Path, reading: Reading, keys: Sequence[str], known: Sequence[str] = ()
) -> Iterator[SourceRow]:
    """Register and yield the objects of a JSON list or dict; those without `keys` are rejected.

    Raises:
        InputError: The file holds anything else, or no object has all keys.
    """
    content = read_json(path)
    if isinstance(content, dict):
        content = [
            {"id": key, **(value if isinstance(value, dict) else {"value": value})}
            for key, value in content.items()
        ]
    if not isinstance(content, list) or not content:
        raise InputError(f"{path} holds no list of objects")
    names = {name for record in content if isinstance(record, dict) for name in record}
    if missing := [key for key in keys if key not in names]:
        raise InputError(
            f"{path} lacks the key {', '.join(missing)} of the published file; it has "
            f"{', '.join(sorted(names)) or 'none'}"
        )
    check_known(path, reading, sorted(names), [*keys, *known, "id"])
    for number, record in enumerate(content):
        is_object = isinstance(record, dict)
        row = reading.register(path.name, number, record if is_object else {"value": record})
        if is_object and all(key in record for key in keys):
            yield row
        else:
            reading.reject(row, "unknown_form")


def text_of(value: Any) -> str:
    """Return a value as a text: some sets write answers as numbers."""
    return "" if value is None else str(value).strip()


def numbers_of(record: Mapping[str, Any], names: Sequence[str]) -> list[float] | None:
    """Return the values of some columns as numbers, None if one is not a finite number."""
    try:
        numbers = [float(record[name]) for name in names]
    except (KeyError, OverflowError, TypeError, ValueError):
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def size_of(record: Mapping[str, Any], width: str, height: str) -> Size | None:
    """Return the size that a row states for its picture, None if it states none."""
    sides = numbers_of(record, (width, height))
    return (round(sides[0]), round(sides[1])) if sides and min(sides) >= 1 else None
