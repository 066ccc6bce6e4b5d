"""Lengths in tokens, by the tokenizer and the chat template of a model's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.errors import InputError

IMAGE = "<image>"


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a Hugging Face folder. Raises InputError where there is none."""
    if not folder.is_dir():
        raise InputError(f"--tokenizer {folder} is not a folder")
    # Slow to import, and needed for this option only.
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"--tokenizer {folder} holds no tokenizer: {first}") from None


class Lengths:
    """Counts tokens as training does: a prompt with its chat template and its image.

    An image takes a token for each `factor` x `factor` pixels of the size at which the model sees
    it. A tokenizer without a chat template counts the texts alone.
    """

    def __init__(self, tokenizer: Any, factor: int) -> None:
        self._tokenizer = tokenizer
        self._cell = factor**2

    def prompts(self, prompts: Sequence[str], sizes: Sequence[Sequence[int]]) -> list[int]:
        """Tokens of each prompt; `sizes` are the images' (width, height) for the model."""
        if self._tokenizer.chat_template:
            texts, placeholders = [self._templated(prompt) for prompt in prompts], 1
        else:
            texts, placeholders = [prompt.replace(IMAGE, "") for prompt in prompts], 0
        images = [width * height // self._cell for width, height in sizes]
        counted = zip(token_lengths(self._tokenizer, texts), images, strict=True)
        return [text - placeholders + image for text, image in counted]

    def responses(self, responses: Sequence[str | None]) -> list[int | None]:
        """Tokens of each response alone, without the end mark; None where there is none."""
        lengths = iter(token_lengths(self._tokenizer, [text for text in responses if text]))
        return [next(lengths) if text else None for text in responses]

    def _templated(self, prompt: str) -> str:
        before, _, after = prompt.partition(IMAGE)
        content = [{"type": "text", "text": before}] if before else []
        content += [{"type": "image"}, {"type": "text", "text": after}]
        messages = [{"role": "user", "content": content}]
        return str(
            self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        )


def load_lengths(folder: Path, factor: int) -> Lengths:
    return Lengths(load_tokenizer(folder), factor)


def token_lengths(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """The number of tokens in each text, without any that the tokenizer would add around it."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [len(ids) for ids in encoded]


def summarise(lengths: Sequence[int] | np.ndarray) -> dict[str, float]:
    """Count, extremes, mean and percentiles of some lengths."""
    if not len(lengths):
        return {"n": 0}
    p50, p95, p99 = (round(float(value), 1) for value in np.percentile(lengths, [50, 95, 99]))
    return {
        "n": len(lengths),
        "min": int(np.min(lengths)),
        "mean": round(float(np.mean(lengths)), 2),
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "max": int(np.max(lengths)),
    }


def prompts_over(path: Path, limit: int) -> tuple[int, int] | None:
    """How many of a training file's prompts have more than `limit` tokens, and how many it has.

    None where the file was written without --tokenizer.
    """
    with pq.ParquetFile(path) as file:
        named = {field.name for field in file.schema_arrow.field("extra_info").type}
        if "prompt_tokens" not in named:
            return None
        table = file.read(columns=["extra_info.prompt_tokens"])
    lengths = pc.struct_field(table["extra_info"], "prompt_tokens")
    over = pc.sum(pc.greater(lengths, limit)).as_py() or 0
    return int(over), len(lengths)
