"""Checks of data against the model: what each row assumes of it, and what it needs of the disk."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from data_prep.coordinates import MODEL_FAMILIES, smart_resize
from recipe.preflight.shape import ModelShape
from recipe.settings import FRACTIONS
from reward.ground_truth import GroundTruth

SAMPLE = 256
"""Rows of a file whose pictures are opened and, without lengths in it, whose texts are measured."""

MOST_DROPPED = 0.02
"""Share of prompts above the limit that is told as a fault; verl leaves those rows out."""


@dataclass(frozen=True)
class DataFile:
    """One parquet file of a run; `limits` are tokens of a prompt and of a response."""

    key: str
    path: str
    metadata: Mapping[str, Any]
    rows: int
    prompt_limit: int
    response_limit: int | None


def rows_of(path: str) -> int:
    """Rows of a parquet file."""
    return int(pq.read_metadata(path).num_rows)


def data_faults(file: DataFile, shape: ModelShape | None, processor: Any) -> Iterator[str]:
    """Faults of one file, one line each.

    Args:
        shape: of the model; None where it is not known.
        processor: of the model; None where it is not on this machine.
    """
    yield from _patch_faults(file, shape)
    table = pq.read_table(file.path, columns=_columns(file.path))
    chosen = sorted(random.Random(0).sample(range(len(table)), min(SAMPLE, len(table))))
    rows = table.take(chosen).to_pylist()
    yield from _picture_faults(file, table["images"].combine_chunks().flatten())
    sound = [row for row in rows if _row_fault(row) is None]
    yield from _row_faults(file, rows)
    yield from _size_faults(file, sound)
    yield from _length_faults(file, table, sound, processor)


def _columns(path: str) -> list[str]:
    names = pq.read_schema(path).names
    wanted = ("images", "extra_info", "reward_model", "prompt", "messages")
    return [name for name in wanted if name in names]


def _row_fault(row: Mapping[str, Any]) -> str | None:
    """What is wrong with a row by itself; None where nothing is."""
    images = row.get("images") or []
    if not images:
        return "has no picture"
    if any(not (image.get("image") or image.get("bytes")) for image in images):
        return "has a picture without path or bytes"
    messages = row.get("prompt") or row.get("messages") or []
    marks = sum(str(message.get("content")).count("<image>") for message in messages)
    if marks != len(images):
        return f"has {len(images)} pictures and {marks} <image> in its text"
    if "reward_model" in row:
        try:
            GroundTruth.parse(row["reward_model"]["ground_truth"])
        except (KeyError, TypeError, ValueError) as error:
            return f"has a broken ground_truth ({error})"
    return None


def _row_faults(file: DataFile, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    faults = [fault for fault in map(_row_fault, rows) if fault]
    if faults:
        yield (
            f"data.{file.key}={file.path}: {len(faults)} of {len(rows)} rows looked at are broken, "
            f"the first {faults[0]}: make the file anew with python -m data_prep.thinkvg"
        )


def _patch_faults(file: DataFile, shape: ModelShape | None) -> Iterator[str]:
    family = MODEL_FAMILIES.get(file.metadata.get("model_family", ""))
    if family and shape and shape.factor and family.factor != shape.factor:
        yield (
            f"data.{file.key}={file.path}: its pictures are resized to multiples of "
            f"{family.factor} pixels, an image token of {shape.name} covers {shape.factor}: choose "
            "the model it was made for, or run data_prep.thinkvg with the right --model-family"
        )


def _picture_faults(file: DataFile, images: Any) -> Iterator[str]:
    """Pictures that are not where the file says; every name is looked for, each once."""
    if "image" not in {field.name for field in images.type}:
        return  # embedded in the file
    paths = [path for path in images.field("image").unique().to_pylist() if path]
    missing = [path for path in paths if not Path(path).is_file()]
    if missing:
        yield (
            f"data.{file.key}={file.path}: {len(missing)} of {len(paths)} pictures are missing, "
            f"the first is {missing[0]}: mount them there, or run data_prep.thinkvg with --images "
            "where they are"
        )


def _size_faults(file: DataFile, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Pictures that the engine would resize to another size than boxes were written for."""
    family = MODEL_FAMILIES.get(file.metadata.get("model_family", ""))
    if family is None or "reward_model" not in (rows[0] if rows else {}):
        return
    wrong: list[str] = []
    for row in rows:
        image = row["images"][0]
        if not image.get("image") or not Path(image["image"]).is_file():
            continue
        try:
            with Image.open(image["image"]) as picture:
                size = picture.size
            actual = smart_resize(size, family.factor, image["min_pixels"], image["max_pixels"])
        except (OSError, ValueError, SyntaxError) as error:
            wrong.append(f"{image['image']} does not open ({error})")
            continue
        expected = tuple(json.loads(row["reward_model"]["ground_truth"])["image_size"])
        if actual != expected:
            seen, made = "{} x {}".format(*actual), "{} x {}".format(*expected)
            wrong.append(f"{image['image']} is seen at {seen}, its boxes are for {made}")
    if wrong:
        yield (
            f"data.{file.key}={file.path}: {len(wrong)} of {len(rows)} pictures looked at changed "
            f"since the boxes were written: {wrong[0]}: run data_prep.thinkvg again"
        )


def _length_faults(
    file: DataFile, table: Any, rows: Sequence[Mapping[str, Any]], processor: Any
) -> Iterator[str]:
    prompts, responses = _lengths(table, rows, processor)
    over = sum(1 for tokens in prompts if tokens > file.prompt_limit)
    if prompts and over > MOST_DROPPED * len(prompts):
        key = "data.max_prompt_length" if file.response_limit else "data.max_length"
        yield (
            f"data.{file.key}={file.path}: {over} of {len(prompts)} prompts looked at are longer "
            f"than {key}={file.prompt_limit} (the longest: {max(prompts)} tokens) and would be "
            f"left out: set {key}={max(prompts)} or prepare with smaller --max-pixels"
        )
    limit = file.response_limit
    long = sum(1 for tokens in responses if limit and tokens > limit)
    if limit and long > MOST_DROPPED * len(responses):
        yield (
            f"data.{file.key}={file.path}: {long} of {len(responses)} reference responses are "
            f"longer than data.max_response_length={limit} (the longest: {max(responses)} "
            f"tokens): the model could not finish such an answer: set "
            f"data.max_response_length={max(responses)}"
        )


def _lengths(
    table: Any, rows: Sequence[Mapping[str, Any]], processor: Any
) -> tuple[list[int], list[int]]:
    """Tokens of prompts and of responses: from the file where it has them, else of a sample.

    The lengths of an SFT file are those of whole conversations, all in the first list.
    """
    conversation = "messages" in table.column_names
    info = table["extra_info"].combine_chunks()
    if "prompt_tokens" in {field.name for field in info.type}:
        prompts = info.field("prompt_tokens").to_pylist()
        responses = info.field("response_tokens").to_pylist()
        if conversation:
            both = zip(prompts, responses, strict=True)
            return [prompt + (response or 0) + 1 for prompt, response in both], []
        return prompts, [tokens for tokens in responses if tokens is not None]
    if processor is None or conversation:
        return [], []
    from recipe.rl_dataset import prompt_length

    return [prompt_length(dict(row), processor) for row in rows], []


def enough_rows(file: DataFile, batch: int) -> Iterator[str]:
    """A training file that does not fill a batch: verl's loader drops what is left over."""
    if file.key == "train_files" and file.rows < batch:
        yield (
            f"data.{file.key}={file.path}: {file.rows} rows do not fill one batch of "
            f"data.train_batch_size={batch}: lower it, or choose a larger data.fraction "
            f"({', '.join(FRACTIONS)})"
        )
