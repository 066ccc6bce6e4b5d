"""Search for the rows of a data file that are too long for a run, without tokenizing every row.

A token is at least one byte of text, and the tokens of an image are bounded by its largest number
of pixels. Only rows that could be too long by these bounds are tokenized, and only their images are
opened. Each process finds the same rows.
"""

import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from data_prep.coordinates import LARGEST_ASPECT, smart_resize
from data_prep.program import write_whole
from recipe import console
from recipe.data.prompts import prompt_text, without_reasoning

ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Overlong:
    """A row that is too long: its number in the file, its index in the source, its length."""

    row: int
    index: int
    tokens: int


def overlong_rows(
    path: str | Path, column: str, limit: int, processor: Any, reasoning: bool = True
) -> list[Overlong]:
    """Find the rows with more than `limit` tokens, text and images together.

    The `column` of a file of `data_prep.thinkvg` is ``messages`` for complete conversations,
    ``prompt`` for prompts to be answered. `reasoning` is ``data.reasoning``.

    Raises:
        OSError: a picture whose size is needed does not open.
    """
    overlong, start = [], 0
    with (
        pq.ParquetFile(path) as file,
        tqdm(
            total=file.metadata.num_rows,
            desc=f"lengths of {path}",
            delay=5,
            disable=not is_first_process(),
        ) as progress,
    ):
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=[column, "images", "extra_info"]):
            bounds = _upper_bounds(batch, column, processor)
            longest = np.flatnonzero(bounds > limit)
            rows = batch.take(pa.array(longest)).to_pylist()
            lengths = _lengths(rows, column, processor, reasoning)
            for number, row, tokens in zip(longest, rows, lengths, strict=True):
                if tokens > limit:
                    overlong.append(
                        Overlong(start + int(number), row["extra_info"]["index"], tokens)
                    )
            start += len(batch)
            progress.update(len(batch))
    return overlong


def is_first_process() -> bool:
    """Return whether this is the first of torchrun's processes, or the only process."""
    return os.environ.get("RANK", "0") == "0"


def list_left_out(
    file: str | Path, folder: str | Path, rows: Sequence[tuple[int, int]], total: int, limit: str
) -> None:
    """List rows that are left out of `file` in ``FOLDER/FILE.jsonl``, and print their number.

    A row is its index in the source and its tokens. They exceed `limit`, given as ``KEY=VALUE``.

    Raises:
        ValueError: no row is left.
    """
    name = Path(file).stem
    listed = Path(folder) / f"{name}.jsonl"
    lines = [json.dumps({"index": index, "tokens": tokens}) + "\n" for index, tokens in rows]
    write_whole(listed, "".join(lines))
    message = f"{name}: {total} rows, {total - len(rows)} used, {len(rows)} longer than {limit}"
    if rows:
        message += f", listed in {listed}"
    console.say(message)
    if len(rows) == total:
        raise ValueError(f"{message}: raise {limit.split('=')[0]}")


def _upper_bounds(batch: pa.RecordBatch, column: str, processor: Any) -> np.ndarray:
    messages, images = batch[column], batch["images"]
    contents = pc.fill_null(pc.binary_length(messages.flatten().field("content")), 0)
    texts = _sums(messages, np.asarray(contents))
    first = [{"role": m["role"], "content": ""} for m in messages[0].as_py()]
    template = len(prompt_text(first, processor, add_generation_prompt=column == "prompt").encode())
    turns = np.asarray(pc.list_value_length(messages))
    pixels = [np.asarray(images.flatten().field(f"{end}_pixels")) for end in ("min", "max")]
    cells = _largest_cells(*(bound / token_side(processor) ** 2 for bound in pixels))
    return np.asarray(texts + turns * template + _sums(images, cells))


def _largest_cells(smallest: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Return an upper bound of an image's tokens; rounding may exceed a bound of pixels."""
    sides = math.sqrt(LARGEST_ASPECT) + 1 / math.sqrt(LARGEST_ASPECT)
    return np.maximum(largest, smallest + sides * np.sqrt(smallest) + 1)


def _sums(lists: pa.ListArray, values: np.ndarray) -> np.ndarray:
    rows = np.asarray(pc.list_parent_indices(lists))
    return np.bincount(rows, weights=values, minlength=len(lists))


def _lengths(
    rows: Sequence[dict[str, Any]], column: str, processor: Any, reasoning: bool
) -> Iterator[int]:
    """Yield the tokens of each row, as training counts them."""
    conversations = [row[column] if reasoning else without_reasoning(row[column]) for row in rows]
    answers = column == "prompt"
    texts = [
        prompt_text(turns, processor, add_generation_prompt=answers) for turns in conversations
    ]
    encoded = processor.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    side = token_side(processor)
    for row, ids in zip(rows, encoded, strict=True):
        # the template has one token for each image already
        yield len(ids) + sum(_image_tokens(image, side) - 1 for image in row["images"])


def token_side(processor: Any) -> int:
    """Return the side, in pixels, of the square that an image token covers."""
    images = processor.image_processor
    return int(images.patch_size * images.merge_size)


def _image_tokens(image: dict[str, Any], factor: int) -> int:
    with Image.open(image.get("image") or io.BytesIO(image["bytes"])) as picture:
        size = picture.size
    width, height = smart_resize(size, factor, image["min_pixels"], image["max_pixels"])
    return (width // factor) * (height // factor)
