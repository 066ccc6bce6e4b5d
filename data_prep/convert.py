"""A batch of source rows to a part: accepted rows ready to be written, and rejected ones."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.answers import answer_text
from data_prep.boxes import agreement
from data_prep.exclusion import Exclusion
from data_prep.files import whole_file
from data_prep.findings_table import findings_of
from data_prep.pictures import Picture
from data_prep.prompts import PromptTemplates
from data_prep.rows import Example, Mapper, ParsedRow, RowFault, parse_row
from data_prep.sources.gemex import UnknownForm, as_thinkvg
from data_prep.tokens import Lengths, load_lengths

# An accepted row of a part, flat; `tables.py` makes verl's columns of it.
FLAT = pa.schema(
    [
        ("index", pa.int64()),
        ("patient", pa.string()),
        ("study", pa.string()),
        ("image_path", pa.string()),
        ("image", pa.string()),
        ("question_type", pa.string()),
        ("question", pa.string()),
        ("prompt", pa.string()),
        ("ground_truth", pa.string()),
        ("response", pa.string()),
        ("findings", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("response_tokens", pa.int32()),
        # For the audit only.
        ("answer", pa.string()),
        ("regions", pa.list_(pa.string())),
        ("think_boxes", pa.int32()),
        ("cited_boxes", pa.int32()),
        ("cited_iou", pa.float32()),
        ("reasoning_words", pa.int32()),
        ("response_chars", pa.int32()),
        ("question_key", pa.uint64()),
        ("answer_key", pa.uint64()),
    ]
)
STATS = b"thinkvg_stats"
ASKING = ("single", "multi")  # question types that come with choices


@dataclass(frozen=True)
class Context:
    """What every batch of a run is converted with."""

    mapper: Mapper
    pictures: Mapping[str, Picture | str]
    templates: PromptTemplates
    captions: Mapping[str, str] | None
    exclusion: Exclusion
    tokenizer: Path | None
    work: Path


@dataclass
class PartStats:
    """The counts of a part; parts add up to those of a run."""

    kept: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    # Rows by patient and question type.
    patients: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    images: dict[str, str] = field(default_factory=dict)  # accepted image path to patient
    excluded_patients: set[str] = field(default_factory=set)
    clipped_boxes: int = 0
    media_tags: int = 0
    without_choices: int = 0
    # In each third of a part, of each question type the row with the most boxes, as (boxes, source
    # index) under "TYPE/THIRD".
    most_boxes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def note(self, example: Example) -> None:
        """Counts what an accepted row's columns do not tell."""
        parsed = example.parsed
        self.clipped_boxes += example.clipped_boxes
        self.media_tags += parsed.media_tags
        self.without_choices += parsed.choices is None and parsed.question_type in ASKING

    def count(self, columns: Mapping[str, Sequence[Any]], start: int, rows: int) -> None:
        """Counts a part's accepted rows by their columns (`FLAT`).

        The part is of `rows` source rows, of which the first has the index `start`.
        """
        patients, kinds = columns["patient"], columns["question_type"]
        for (patient, kind), count in Counter(zip(patients, kinds, strict=True)).items():
            self.patients[patient][kind] += count
        self.images |= zip(columns["image_path"], patients, strict=True)
        for index, kind, regions in zip(columns["index"], kinds, columns["regions"], strict=True):
            third = f"{kind}/{3 * (index - start) // rows}"
            if third not in self.most_boxes or len(regions) > self.most_boxes[third][0]:
                self.most_boxes[third] = (len(regions), index)

    def add(self, other: PartStats) -> None:
        """Adds another part's counts, all but `most_boxes`."""
        self.kept += other.kept
        self.rejects += other.rejects
        for patient, counts in other.patients.items():
            self.patients[patient].update(counts)
        self.images |= other.images
        self.excluded_patients |= other.excluded_patients
        self.clipped_boxes += other.clipped_boxes
        self.media_tags += other.media_tags
        self.without_choices += other.without_choices

    def to_json(self) -> str:
        return json.dumps(vars(self) | {"excluded_patients": sorted(self.excluded_patients)})

    @classmethod
    def from_json(cls, text: str | bytes) -> PartStats:
        values = json.loads(text)
        values["rejects"] = Counter(values["rejects"])
        patients = {name: Counter(counts) for name, counts in values["patients"].items()}
        values["patients"] = defaultdict(Counter, patients)
        values["excluded_patients"] = set(values["excluded_patients"])
        values["most_boxes"] = {kind: tuple(pair) for kind, pair in values["most_boxes"].items()}
        return cls(**values)


@dataclass(frozen=True)
class Batch:
    """Source rows to convert: `rows` is an IPC stream of one record batch.

    `kept` are the positions in it that a limit keeps, None for all.
    """

    number: int
    start: int
    rows: bytes
    kept: np.ndarray | None


class Converter:
    """Converts batches, one after another, in one process."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lengths: Lengths | None = (
            load_lengths(context.tokenizer, context.mapper.family.factor)
            if context.tokenizer
            else None
        )

    def __call__(self, batch: Batch) -> None:
        """Writes the batch's two files: the rejects first, so that the other tells of both."""
        with pa.ipc.open_stream(batch.rows) as reader:
            table = reader.read_all()
        positions = range(table.num_rows) if batch.kept is None else batch.kept.tolist()
        accepted: list[tuple[Any, ...]] = []
        stats, rejected = PartStats(), []
        stats.kept = len(positions)
        for position, record in zip(positions, read_records(table, positions), strict=True):
            try:
                example, values = self._example(record, batch.start + position, stats)
            except RowFault as fault:
                stats.rejects[str(fault)] += 1
                rejected.append((position, str(fault)))
            else:
                accepted.append(values)
                stats.note(example)
        by_column = map(list, zip(*accepted, strict=True)) if accepted else ([] for _ in FLAT)
        columns = dict(zip(FLAT.names, by_column, strict=True))
        stats.count(columns, batch.start, table.num_rows)
        self._measure(columns)
        self._write(batch, table, columns, stats, rejected)

    def _example(
        self, record: Mapping[str, Any] | None, index: int, stats: PartStats
    ) -> tuple[Example, tuple[Any, ...]]:
        """A row's example and its values in the order of `FLAT`; RowFault where it is rejected."""
        try:
            parsed = self._parse(record, index, stats)
            picture = self._context.pictures.get(parsed.image_path, "missing_image")
            if isinstance(picture, str):
                raise RowFault(picture)
            example = self._context.mapper.example(parsed, picture)
            return example, self._values(example)
        except RowFault:
            raise
        except Exception as error:
            # One row must not end the run; the code says that it is this program's fault.
            print(f"row {index}: {type(error).__name__}: {error}", file=sys.stderr)
            raise RowFault("internal_error") from error

    def _parse(self, record: Mapping[str, Any] | None, index: int, stats: PartStats) -> ParsedRow:
        if record is None:
            raise RowFault("bad_text")
        try:
            parsed = parse_row(as_thinkvg(record), index)
        except UnknownForm as fault:
            raise RowFault(str(fault)) from None
        if self._context.exclusion.has(parsed.image_path, parsed.patient, parsed.study):
            stats.excluded_patients.add(parsed.patient)
            raise RowFault("excluded")
        return parsed

    def _values(self, example: Example) -> tuple[Any, ...]:
        """In the order of `FLAT`."""
        parsed, truth, context = example.parsed, example.ground_truth, self._context
        kind, answer = parsed.question_type, answer_text(truth.answer)
        coordinates = context.mapper.family.coordinates
        captions = context.captions
        cited, overlap = agreement(truth.regions, truth.think_regions)
        return (
            parsed.source_index,
            parsed.patient,
            parsed.study,
            parsed.image_path,
            example.picture.path,
            kind,
            example.question,
            context.templates.render(example.question, kind, coordinates),
            truth.to_json(),
            example.response,
            findings_of(captions, parsed.image_path, parsed.study) if captions else None,
            None,
            None,
            answer if kind != "open" else None,
            [region.ref for region in truth.regions],
            len(truth.think_regions),
            cited,
            overlap,
            parsed.reasoning.count(" ")
            + bool(parsed.reasoning),  # its words have one space between
            len(example.response or ""),
            *_keys(parsed.image_path, parsed.question, answer),
        )

    def _measure(self, columns: dict[str, list[Any]]) -> None:
        """Fills in the lengths in tokens, where they are asked for."""
        if self._lengths is None or not columns["index"]:
            return
        sizes = [json.loads(truth)["image_size"] for truth in columns["ground_truth"]]
        columns["prompt_tokens"] = self._lengths.prompts(columns["prompt"], sizes)
        columns["response_tokens"] = self._lengths.responses(columns["response"])

    def _write(
        self,
        batch: Batch,
        table: pa.Table,
        columns: dict[str, list[Any]],
        stats: PartStats,
        rejected: Sequence[tuple[int, str]],
    ) -> None:
        positions = [position for position, _ in rejected]
        faulty = with_reasons(
            table.take(pa.array(positions, pa.int64())),
            [batch.start + position for position in positions],
            [reason for _, reason in rejected],
        )
        write_stream(rejects_file(self._context.work, batch.number), faulty)
        arrays = [pa.array(columns[field.name], field.type) for field in FLAT]
        flat = pa.Table.from_arrays(arrays, schema=FLAT.with_metadata({STATS: stats.to_json()}))
        write_stream(part_file(self._context.work, batch.number), flat)


def _keys(image_path: str, question: str, answer: str) -> tuple[int, int]:
    """Hashes of image and question, and of these and the answer."""
    asked = _hash(f"{image_path}\0{question}")
    return asked, asked ^ _answer_hash(answer)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


_answer_hash = lru_cache(maxsize=1024)(_hash)  # most answers are a word or a letter


def read_records(table: pa.Table, positions: Sequence[int]) -> list[Mapping[str, Any] | None]:
    """The rows at `positions` as objects, None for one with a text that is not valid UTF-8."""
    chosen = table if len(positions) == table.num_rows else table.take(pa.array(positions))
    try:
        records: list[Mapping[str, Any] | None] = chosen.to_pylist()
    except UnicodeDecodeError:
        records = [_one_record(chosen, position) for position in range(chosen.num_rows)]
    return records


def _one_record(table: pa.Table, position: int) -> Mapping[str, Any] | None:
    try:
        (record,) = table.slice(position, 1).to_pylist()
    except UnicodeDecodeError:
        return None
    return dict(record)


def with_reasons(table: pa.Table, indices: list[int], reasons: list[str]) -> pa.Table:
    """Rejected rows as they came, with `source_index` and `reason`.

    Columns of these names, such as GEMeX's `reason`, become `source_reason` and the like.
    """
    taken = ("source_index", "reason")
    names = list(table.column_names)
    for place, name in enumerate(table.column_names):
        if name in taken:
            other = f"source_{name}"
            while other in names:
                other += "_"
            names[place] = other
    table = table.rename_columns(names)
    for name, column in (
        ("source_index", pa.array(indices, pa.int64())),
        ("reason", pa.array(reasons, pa.string())),
    ):
        table = table.append_column(name, column)
    return table


def part_file(work: Path, number: int) -> Path:
    return work / f"part-{number:06d}.arrow"


def rejects_file(work: Path, number: int) -> Path:
    return work / f"rejects-{number:06d}.arrow"


def write_stream(path: Path, table: pa.Table) -> None:
    """Writes an Arrow file of one batch, compressed, under its name when it is whole."""
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with (
        whole_file(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, table.schema, options=options) as writer,
    ):
        writer.write_table(table)


def read_stream(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a file of `write_stream`, with all columns of `FLAT` or those named."""
    fields = None if columns is None else [FLAT.get_field_index(name) for name in columns]
    options = pa.ipc.IpcReadOptions(included_fields=fields)
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_file(file, options=options) as reader:
        return reader.read_all()


def read_stats(path: Path) -> PartStats:
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_file(file) as reader:
        return PartStats.from_json(reader.schema.metadata[STATS])
