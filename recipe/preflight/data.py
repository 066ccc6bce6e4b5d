"""Checks of data files against the model and the run: columns, pictures, rows, lengths."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig
from PIL import Image

from data_prep.coordinates import MODEL_FAMILIES, smart_resize
from data_prep.pictures import is_deep
from data_prep.program import InputError, read_metadata
from recipe.data.overlong import Overlong, overlong_rows, token_side
from recipe.program import FRACTIONS
from recipe.run.folder import MORE_EPOCHS
from reward.ground_truth import GroundTruth

ROLLOUT_COLUMNS = ("data_source", "prompt", "images", "ability", "reward_model", "extra_info")
SFT_COLUMNS = ("messages", "images", "extra_info")
DATA_KEYS = ("train_files", "val_files")
LIMITS = {"train": "max_prompt_length", "sft": "max_length"}
TEXT_COLUMNS = {"train": "prompt", "sft": "messages"}
FILTERS = {"train": "filter_overlong_prompts", "sft": "filter_overlong_rows"}

SHOWN = 5
"""Number of source rows that a message names."""

SAMPLE = 256
"""Rows of a file whose pictures are opened and, if it has no lengths, whose texts are measured."""

AT_ONCE = 4096
"""Rows that are in memory at a time."""

SAMPLED_COLUMNS = ("images", "extra_info", "reward_model", "prompt", "messages")

MOST_DROPPED = 0.02
"""Share of prompts or responses above the limit that gives no warning."""


@dataclass(frozen=True)
class DataFile:
    """One parquet file of a run."""

    key: str  # of the configuration, below ``data``
    path: str
    metadata: Mapping[str, Any]  # that `data_prep.thinkvg` wrote into it
    rows: int
    prompt_limit: int  # tokens of a prompt; in SFT of a complete conversation
    response_limit: int | None  # tokens of a response; None in SFT
    left_out: int = 0  # rows that are too long

    @property
    def used(self) -> int:
        """Number of rows that the run uses."""
        return self.rows - self.left_out


def read_data_file(
    config: DictConfig, program: str, key: str, model: Mapping[str, Any]
) -> DataFile:
    """Read one of `DATA_KEYS`; refuse wrong columns, and boxes of another model family."""
    path, is_rollout = str(config.data[key]), program == "train"
    columns = ROLLOUT_COLUMNS if is_rollout else SFT_COLUMNS
    metadata = check_parquet(path, f"data.{key}", columns)
    check_family(metadata, model, f"data.{key}={path}")
    return DataFile(
        key=key,
        path=path,
        metadata=metadata,
        rows=rows_of(path),
        prompt_limit=config.data.max_prompt_length if is_rollout else config.data.max_length,
        response_limit=config.data.max_response_length if is_rollout else None,
    )


def rows_of(path: str) -> int:
    return int(pq.read_metadata(path).num_rows)


def check_columns(
    path: str, key: str, columns: tuple[str, ...], maker: str = "data_prep.thinkvg"
) -> None:
    """Check that a parquet file exists, is not empty and has `columns`.

    Raises:
        InputError: the first fault, with the option or `key` and the program that makes such files.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{key}={path}: no such file; make it with python -m {maker}")
    try:
        schema, rows = pq.read_schema(file), pq.read_metadata(file).num_rows
    except Exception as error:
        raise InputError(f"{key}={path}: not a parquet file ({error})") from error
    missing = [column for column in columns if column not in schema.names]
    if missing:
        raise InputError(
            f"{key}={path}: column {', '.join(missing)} missing; make the file again with "
            f"python -m {maker}"
        )
    if rows == 0:
        raise InputError(f"{key}={path}: no rows")


def check_parquet(path: str, key: str, columns: tuple[str, ...]) -> dict[str, Any]:
    """Check a file of `data_prep.thinkvg` like `check_columns`, and return its metadata."""
    check_columns(path, key, columns)
    try:
        return read_metadata(path)
    except ValueError as error:
        raise InputError(f"{key}: {error}") from error


def check_family(metadata: Mapping[str, Any], model: Mapping[str, Any], data_key: str) -> None:
    """Refuse boxes that were written for another family of models, in other coordinates."""
    prepared, actual = metadata.get("model_family"), model.get("model_type")
    if not prepared or not actual or prepared == actual:
        return
    families = [MODEL_FAMILIES[name] for name in (prepared, actual) if name in MODEL_FAMILIES]
    if len(families) == 2 and families[0].writes_like(families[1]):
        return
    raise InputError(
        f"{data_key}: prepared for {prepared}, the model is {actual}: its boxes are in other "
        f"coordinates; run python -m data_prep.thinkvg with --model-family {actual}"
    )


def data_faults(file: DataFile, model: Mapping[str, Any], processor: Any) -> Iterator[str]:
    """Yield faults of one file that would end a run, or spoil its boxes."""
    yield from _patch_faults(file, model)
    rows, paths = _sample(file)
    if processor is not None:
        yield from _limit_faults(file, rows, processor)
    yield from _picture_faults(file, paths)
    yield from _row_faults(file, rows)
    yield from _size_faults(file, [row for row in rows if _row_fault(row) is None])


def _sample(file: DataFile) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a sample of a file's rows, and the paths of all its pictures without repeats."""
    chosen = np.array(sorted(random.Random(0).sample(range(file.rows), min(SAMPLE, file.rows))))
    rows: list[dict[str, Any]] = []
    paths: dict[str, None] = {}
    start = 0
    with pq.ParquetFile(file.path) as parquet:
        columns = [name for name in SAMPLED_COLUMNS if name in parquet.schema_arrow.names]
        # In batches, since pictures may be embedded.
        for batch in parquet.iter_batches(AT_ONCE, columns=columns):
            end = start + len(batch)
            in_batch = chosen[(start <= chosen) & (chosen < end)] - start
            rows += batch.take(pa.array(in_batch)).to_pylist()
            images = batch["images"].flatten()
            if "image" in {field.name for field in images.type}:
                paths.update(dict.fromkeys(images.field("image").unique().to_pylist()))
            start = end
    return rows, [path for path in paths if path]


def _row_fault(row: Mapping[str, Any]) -> str | None:
    """Return what is wrong within a row; None if nothing is."""
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
            f"data.{file.key}={file.path}: {len(faults)} of {len(rows)} checked rows are broken, "
            f"the first {faults[0]}: make the file again with python -m data_prep.thinkvg"
        )


def _patch_faults(file: DataFile, model: Mapping[str, Any]) -> Iterator[str]:
    family = MODEL_FAMILIES.get(file.metadata.get("model_family", ""))
    vision = model.get("vision_config") or {}
    factor = vision.get("patch_size", 0) * vision.get("spatial_merge_size", 0)
    if family and factor and family.factor != factor:
        yield (
            f"data.{file.key}={file.path}: its pictures are resized to multiples of "
            f"{family.factor} pixels, an image token of the model covers {factor}: choose the "
            "model it was made for, or run data_prep.thinkvg with the right --model-family"
        )


def _limit_faults(
    file: DataFile, rows: Sequence[Mapping[str, Any]], processor: Any
) -> Iterator[str]:
    """Yield a fault if the model's processor would resize pictures once more."""
    limits, factor = dict(processor.image_processor.size), token_side(processor)
    low, high = (int(limits.get(f"{end}_edge") or 0) for end in ("shortest", "longest"))
    images = [row["images"][0] for row in rows if _row_fault(row) is None]
    files = [image for image in images if Path(image.get("image") or "").is_file()]
    for image in files if high else ():
        try:
            with Image.open(image["image"]) as picture:
                bounds = (image["min_pixels"], image["max_pixels"])
                width, height = smart_resize(picture.size, factor, *bounds)
        except (OSError, ValueError, SyntaxError):
            continue  # `_size_faults` names it
        if not low <= width * height <= high:
            option = f"--min-pixels {low}" if width * height < low else f"--max-pixels {high}"
            yield (
                f"data.{file.key}={file.path}: {image['image']} is {width} x {height} pixels, the "
                f"model's processor takes {low} to {high} pixels and would resize it once more: "
                f"run data_prep.thinkvg again with {option}"
            )
            return


def _picture_faults(file: DataFile, paths: Sequence[str]) -> Iterator[str]:
    """Yield a fault if pictures are not at the paths in the file; all paths are looked up."""
    missing = [path for path in paths if not Path(path).is_file()]
    if missing:
        yield (
            f"data.{file.key}={file.path}: {len(missing)} of {len(paths)} pictures are missing, "
            f"the first is {missing[0]}: mount them there, or run data_prep.thinkvg with --images "
            "where they are"
        )


def _size_faults(file: DataFile, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield faults of pictures: a size that does not fit the boxes, or too many bits."""
    family = MODEL_FAMILIES.get(file.metadata.get("model_family", ""))
    if family is None or "reward_model" not in (rows[0] if rows else {}):
        return
    changed: list[str] = []
    deep: list[str] = []
    for row in rows:
        path = str(row["images"][0].get("image") or "")
        if Path(path).is_file():
            fault, mode = _read_picture(path, row, family.factor)
            changed += [f"{path} {fault}"] if fault else []
            deep += [path] if mode and is_deep(mode) else []
    where = f"data.{file.key}={file.path}"
    if changed:
        yield (
            f"{where}: {len(changed)} of {len(rows)} checked pictures changed since the boxes were "
            f"written: {changed[0]}: run data_prep.thinkvg again"
        )
    if deep:
        yield (
            f"{where}: {len(deep)} of {len(rows)} checked pictures have more than 8 bits a "
            f"channel, which loading cuts off, the first is {deep[0]}: make copies with "
            "data_prep.images and run data_prep.thinkvg on them"
        )


def _read_picture(path: str, row: Mapping[str, Any], factor: int) -> tuple[str, str]:
    """Return why a picture does not fit the boxes, empty if it does, and the picture's mode."""
    mode = ""
    try:
        with Image.open(path) as picture:
            mode = picture.mode
            return _size_fault(row, picture.size, factor), mode
    except (OSError, ValueError, SyntaxError) as error:
        return f"does not open ({error})", mode


def _size_fault(row: Mapping[str, Any], size: tuple[int, int], factor: int) -> str:
    image = row["images"][0]
    actual = smart_resize(size, factor, image["min_pixels"], image["max_pixels"])
    expected = tuple(json.loads(row["reward_model"]["ground_truth"])["image_size"])
    if actual == expected:
        return ""
    return "is resized to {} x {}, its boxes are for {} x {}".format(*actual, *expected)


def leaves_out(config: DictConfig, program: str) -> bool:
    """Return whether the run leaves out rows that are too long; otherwise they stop it."""
    return bool(config.data[FILTERS[program]])


def is_measured(config: DictConfig, program: str) -> bool:
    """Return whether the lengths of all rows have to be known before a run.

    A rollout dataset that leaves out prompts measures each of them itself.
    """
    if program == "train":
        return not leaves_out(config, program)
    return leaves_out(config, program) or config.data.truncation == "error"


def rows_too_long(config: DictConfig, key: str, program: str, processor: Any) -> list[Overlong]:
    """Return the rows of ``data.KEY`` that are longer than the run can take.

    Raises:
        InputError: a picture whose size is needed does not open.
    """
    path, limit = str(config.data[key]), int(config.data[LIMITS[program]])
    try:
        return overlong_rows(
            path, TEXT_COLUMNS[program], limit, processor, bool(config.data.reasoning)
        )
    except OSError as error:
        raise InputError(f"data.{key}={path}: a picture does not open ({error})") from error


def overlong_row_fault(config: DictConfig, key: str, program: str, rows: list[Overlong]) -> str:
    """Describe the rows that are too long, and what to do about them."""
    indices = ", ".join(str(row.index) for row in rows[:SHOWN])
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    limit, longest = f"data.{LIMITS[program]}", max(row.tokens for row in rows)
    return (
        f"data.{key}={config.data[key]}: {len(rows)} rows are longer than {limit}="
        f"{config.data[LIMITS[program]]}: source rows {indices}{more} (the longest: {longest} "
        f"tokens): set {limit}={longest}, or data.{FILTERS[program]}=true to leave them out and "
        "list them in data.overlong_dir"
    )


def measure_lengths(file: DataFile, processor: Any) -> tuple[list[int], list[int]]:
    """Return tokens of prompts and responses by the file, or of a sample of prompts only."""
    info = pq.read_table(file.path, columns=["extra_info"])["extra_info"].combine_chunks()
    if "prompt_tokens" in {field.name for field in info.type}:
        responses = info.field("response_tokens").to_pylist()
        return info.field("prompt_tokens").to_pylist(), [n for n in responses if n is not None]
    if processor is None:
        return [], []
    from recipe.data.datasets import prompt_length

    rows = [row for row in _sample(file)[0] if _row_fault(row) is None]
    return [prompt_length(row, processor) for row in rows], []


def overlong_prompt_faults(file: DataFile, prompts: Sequence[int]) -> Iterator[str]:
    """Yield a fault if all prompts, by their lengths in tokens, are longer than the limit."""
    if prompts and min(prompts) > file.prompt_limit:
        yield _overlong_prompts(file, prompts)


def length_warnings(
    file: DataFile, prompts: Sequence[int], responses: Sequence[int]
) -> Iterator[str]:
    """Yield warnings if many prompts or reference responses are longer than their limits.

    Lengths are in tokens: of all prompts or of a sample, and none where they are not known.
    """
    too_long = sum(1 for tokens in prompts if tokens > file.prompt_limit)
    if MOST_DROPPED * len(prompts) < too_long < len(prompts):
        yield _overlong_prompts(file, prompts)
    limit = file.response_limit
    long = sum(1 for tokens in responses if limit and tokens > limit)
    if limit and long > MOST_DROPPED * len(responses):
        yield (
            f"data.{file.key}={file.path}: {long} of {len(responses)} reference responses are "
            f"longer than data.max_response_length={limit} (the longest: {max(responses)} "
            f"tokens): the model could not finish such an answer: set "
            f"data.max_response_length={max(responses)}"
        )


def _overlong_prompts(file: DataFile, prompts: Sequence[int]) -> str:
    too_long = sum(1 for tokens in prompts if tokens > file.prompt_limit)
    key = "data.max_prompt_length"
    return (
        f"data.{file.key}={file.path}: {too_long} of {len(prompts)} checked prompts are longer "
        f"than {key}={file.prompt_limit} (the longest: {max(prompts)} tokens) and would be "
        f"left out: set {key}={max(prompts)} or prepare with smaller --max-pixels"
    )


def validation_warnings(file: DataFile, config: DictConfig) -> Iterator[str]:
    """Yield a warning if SFT has fewer validation rows than a batch, which verl's loader drops."""
    batch, most = int(config.data.train_batch_size), int(config.data.val_max_samples)
    rows = file.used if most < 0 else min(file.used, most)
    if file.key == "val_files" and rows < batch:
        yield (
            f"data.{file.key}={file.path}: {rows} rows do not fill one batch of "
            f"data.train_batch_size={batch}, so val/loss will be NaN: lower it, or validate on more"
        )


def step_faults(file: DataFile, config: DictConfig) -> Iterator[str]:
    """Yield a fault if a training file has too few rows for a batch, or for the run's steps.

    verl's loader drops the rows of a batch that is not full, and verl then just ends early.
    """
    if file.key != "train_files":
        return
    batch = int(config.data.train_batch_size)
    if file.used < batch:
        yield (
            f"data.{file.key}={file.path}: {file.used} rows do not fill one batch of "
            f"data.train_batch_size={batch}: lower it, or choose a larger data.fraction "
            f"({', '.join(FRACTIONS)})"
        )
    total, epochs = config.trainer.total_training_steps, int(config.trainer.total_epochs)
    steps = file.used // batch * epochs
    if total and 0 < steps < total:
        yield (
            f"trainer.total_training_steps={total}: the {file.used} rows of {file.path} give "
            f"{steps} steps in trainer.total_epochs={epochs}: {MORE_EPOCHS}"
        )
