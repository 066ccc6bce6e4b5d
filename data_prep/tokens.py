"""Lengths in tokens, by a tokenizer from a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.source import InputError


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


def token_lengths(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """The number of tokens in each text, without any that the tokenizer would add around it."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [len(ids) for ids in encoded]


def summarise(lengths: Sequence[int]) -> dict[str, float]:
    """Count, extremes, mean and percentiles of some lengths."""
    if not lengths:
        return {"n": 0}
    p50, p95, p99 = (round(float(value), 1) for value in np.percentile(lengths, [50, 95, 99]))
    return {
        "n": len(lengths),
        "min": min(lengths),
        "mean": round(float(np.mean(lengths)), 2),
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "max": max(lengths),
    }
