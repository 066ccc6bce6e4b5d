"""Source rows to examples: the columns for training and audit, or a reject code.

A first pass over the rows (`scan`) finds the images that they name, and a parsed sample of them.
"""

import json
import pickle
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import multiprocess
import numpy as np
import pyarrow as pa
from tqdm import tqdm

from data_prep.coordinates import Size
from data_prep.pictures import Picture
from data_prep.program import InputError
from data_prep.rows.answers import answer_text
from data_prep.rows.example import Example, Mapper, ParsedRow, RowFault, agreement, parse_row
from data_prep.rows.prompts import Lengths, PromptTemplates, load_tokenizer
from data_prep.sources.files import GEMEX_COLUMNS, Source
from data_prep.sources.gemex import as_thinkvg
from data_prep.sources.side_tables import Exclusion, findings_of
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


_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_IMAGE = pa.struct([("image", pa.string()), ("min_pixels", pa.int64()), ("max_pixels", pa.int64())])
_VERL = [
    ("data_source", pa.string()),
    ("prompt", _MESSAGES),
    ("messages", _MESSAGES),  # for SFT; null in a row without reasoning
    ("images", pa.list_(_IMAGE)),
    ("ability", pa.string()),
    ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
]
_ABOUT = [
    ("index", pa.int64()),  # of the source row
    ("reason", pa.string()),  # why it is rejected; most of the other columns are then null
    ("patient", pa.string()),
    ("study", pa.string()),
    ("image_path", pa.string()),
    ("question", pa.string()),
    ("question_type", pa.string()),
    ("answer", pa.string()),
    ("findings", pa.string()),
    ("prompt_tokens", pa.int32()),
    ("response_tokens", pa.int32()),
    ("regions", pa.list_(pa.string())),
    ("think_boxes", pa.int32()),
    ("cited_boxes", pa.int32()),
    ("cited_iou", pa.float32()),
    ("clipped_boxes", pa.int32()),
    ("reasoning_words", pa.int32()),
    ("response_chars", pa.int32()),
    ("media_tags", pa.int32()),
    ("lacks_choices", pa.bool_()),
    ("beyond", pa.list_(pa.string())),  # why one image cannot give the answer
]
EXAMPLES = pa.schema([*_VERL, *_ABOUT])
ABOUT = tuple(name for name, _ in _ABOUT)
_WITH_CHOICES = ("single", "multi")


@dataclass(frozen=True)
class Converter:
    """Converts batches of source rows: the function that `Dataset.map` applies."""

    indices: np.ndarray  # the source index of each row of the dataset
    mapper: Mapper
    pictures: dict[str, Picture | str]  # by image path, the picture or its reject code
    templates: PromptTemplates
    findings: Mapping[str, str]  # by image path or study, for the judge
    exclusion: Exclusion
    tokenizer: Path | None  # folder of the tokenizer that measures lengths
    leave_out: tuple[str, ...]  # codes in `beyond` whose rows are rejected

    def __reduce__(self) -> tuple[Any, ...]:
        # With the pickler in C: `datasets` pickles in Python, which takes seconds for all pictures.
        return _unpickle, (pickle.dumps(vars(self)),)

    @cached_property
    def _lengths(self) -> Lengths | None:
        """The tokenizer's lengths, loaded once in each worker."""
        if self.tokenizer is None:
            return None
        return Lengths(load_tokenizer(self.tokenizer), self.mapper.family.factor)

    def __call__(self, rows: pa.Table, positions: Sequence[int]) -> pa.Table:
        """Return the examples of source rows; `positions` are their indices in the dataset."""
        examples = [
            self._convert(record, index)
            for record, index in zip(
                read_records(rows), self.indices[positions].tolist(), strict=True
            )
        ]
        if self._lengths is not None:
            _add_lengths([row for row in examples if "reason" not in row], self._lengths)
        return pa.Table.from_pylist(examples, EXAMPLES)

    def _convert(self, record: Mapping[str, Any] | None, index: int) -> dict[str, Any]:
        row: dict[str, Any] = {"index": index}
        try:
            if record is None:
                raise RowFault("bad_text")
            parsed = parse_row(as_thinkvg(record), index)
            row |= {"patient": parsed.patient, "question_type": parsed.question_type}
            if self.exclusion.has(parsed.image_path, parsed.patient, parsed.study):
                raise RowFault("excluded")
            picture = self.pictures.get(parsed.image_path, "missing_image")
            if isinstance(picture, str):
                raise RowFault(picture)
            example = self.mapper.example(parsed, picture)
            row |= verl_columns(example, self.mapper, self.templates) | about(example)
            row["findings"] = findings_of(self.findings, parsed.image_path, parsed.study)
            # Last, since the audit also counts such rows where they are left out.
            for code in parsed.beyond:
                if code in self.leave_out:
                    raise RowFault(code)
        except RowFault as fault:
            row["reason"] = str(fault)
        except Exception as error:
            # One row must not end the run; the reject code names a fault of the program.
            print(f"row {index}: {type(error).__name__}: {error}", file=sys.stderr)
            row["reason"] = "internal_error"
        return row


def _unpickle(state: bytes) -> Converter:
    return Converter(**pickle.loads(state))


def verl_columns(
    example: Example, mapper: Mapper, templates: PromptTemplates, data_source: str = "thinkvg"
) -> dict[str, Any]:
    """Return the columns that verl reads."""
    kind, coordinates = example.parsed.question_type, mapper.family.coordinates
    user = {"role": "user", "content": templates.render(example.question, kind, coordinates)}
    assistant = {"role": "assistant", "content": example.response}
    image = {
        "image": example.picture.path,
        "min_pixels": mapper.min_pixels,
        "max_pixels": mapper.max_pixels,
    }
    return {
        "data_source": data_source,
        "prompt": [user],
        "messages": None if example.response is None else [user, assistant],
        "images": [image],
        "ability": "grounded_vqa",
        "reward_model": {"style": "rule", "ground_truth": example.ground_truth.to_json()},
    }


def about(example: Example) -> dict[str, Any]:
    """Return the columns of the audit and of `extra_info`, but the index and the patient."""
    parsed, truth = example.parsed, example.ground_truth
    cited_boxes, cited_iou = agreement(truth.regions, truth.think_regions)
    return {
        "study": parsed.study,
        "image_path": parsed.image_path,
        "question": example.question,
        "answer": answer_text(truth.answer),
        "regions": [region.ref for region in truth.regions],
        "think_boxes": len(truth.think_regions),
        "cited_boxes": cited_boxes,
        "cited_iou": cited_iou,
        "clipped_boxes": example.clipped_boxes,
        "reasoning_words": len(parsed.reasoning.split()),
        "response_chars": len(example.response or ""),
        "media_tags": parsed.media_tags,
        "lacks_choices": parsed.choices is None and parsed.question_type in _WITH_CHOICES,
        "beyond": list(parsed.beyond),
    }


def _add_lengths(examples: Sequence[dict[str, Any]], lengths: Lengths) -> None:
    truths = [json.loads(row["reward_model"]["ground_truth"]) for row in examples]
    prompts = lengths.prompts(
        [row["prompt"][0]["content"] for row in examples],
        [truth["image_size"] for truth in truths],
    )
    responses = lengths.responses(
        [row["messages"] and row["messages"][1]["content"] for row in examples]
    )
    for row, prompt, response in zip(examples, prompts, responses, strict=True):
        row |= {"prompt_tokens": prompt, "response_tokens": response}


def convert_rows(
    source: Source, converter: Converter, workers: int, folder: Path
) -> tuple[pa.Table, pa.Table]:
    """Convert the rows of the converter's indices; return them, and an example for each.

    If there are more than a few rows, `workers` processes convert them. Both tables are
    memory-mapped from files in `folder`.
    """
    from datasets import Dataset, Features  # slow to import

    path = folder / "rows.arrow"
    with pa.ipc.new_stream(path, source.schema.remove_metadata()) as file:
        for rows, _ in chosen_rows(source, converter.indices):
            file.write_table(rows)
    try:
        dataset = Dataset.from_file(str(path))
    except ValueError as error:
        raise InputError(f"{source.label} has a column to drop or convert: {error}") from None
    with _ended_workers():
        examples = dataset.with_format("arrow").map(
            converter,
            with_indices=True,
            batched=True,
            remove_columns=dataset.column_names,
            features=Features.from_arrow_schema(EXAMPLES),
            num_proc=workers if workers > 1 and len(dataset) > BATCH else None,
            cache_file_name=str(folder / "examples.arrow"),
            new_fingerprint="examples",  # without one, all pictures would be hashed
            desc="converting rows",
        )
    return dataset.data.table, examples.data.table


@contextmanager
def _ended_workers() -> Iterator[None]:
    """End the workers of `datasets` after an error, and raise a killed worker as InputError."""
    try:
        yield
    except BaseException as error:
        for process in multiprocess.active_children():
            process.terminate()
        if isinstance(error.__context__, KeyboardInterrupt):
            # While `datasets` waits for its workers after Ctrl-C, another error occurs.
            raise KeyboardInterrupt from None
        if "abruptly died" in str(error):
            raise InputError(
                "a worker process was killed, as happens when memory runs out: start again, with "
                "fewer --workers"
            ) from None
        raise
