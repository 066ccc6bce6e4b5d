"""Rows with the faults that real data has, to show that none is lost or let through."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

Row = dict[str, str | None]

_BOX = re.compile(r"\[\s*\d+(?:\s*,\s*\d+){3}\s*\]")
BROKEN_IMAGE = "p99/p99999999/s99999999/broken.jpg"
MISSING_IMAGE = "p99/p99999999/s99999999/missing.jpg"


def _with_boxes(row: Row, box: str) -> Row:
    return {**row, "response": _BOX.sub(box, row["response"] or "")}


def _with_answer(row: Row, answer: str) -> Row:
    written = re.sub(r"<answer>.*?</answer>", f"<answer>{answer}</answer>", row["response"] or "")
    return {**row, "response": written}


# The reject code that data_prep.thinkvg gives a row, and how to bring it about.
FAULTS: dict[str, Callable[[Row], Row]] = {
    "no_response": lambda row: {**row, "response": None},
    "no_question": lambda row: {**row, "question": "  "},
    "no_answer": lambda row: _with_answer(row, " "),
    "unknown_question_type": lambda row: {**row, "question_type": "riddles"},
    "answer_not_in_choices": lambda row: {
        **_with_answer(row, "F"),
        "question": "Which is it? <choices>: [A: one, B: two, C: three, D: four]",
        "question_type": "single_choice_questions",
    },
    "bad_box": lambda row: _with_boxes(row, "[12, 40, 90]"),
    "degenerate_box": lambda row: _with_boxes(row, "[90, 40, 12, 80]"),
    "box_outside": lambda row: _with_boxes(row, "[20, 40, 400, 80]"),
    "missing_image": lambda row: {**row, "image_path": f"/{MISSING_IMAGE}"},
    "unreadable_image": lambda row: {**row, "image_path": f"/{BROKEN_IMAGE}"},
}


def dirty_rows(rows: Sequence[Row], share: float, files: Path, seed: int) -> list[Row]:
    """Faulty copies of good rows, `share` times as many, every kind of fault in turn."""
    count = round(share * len(rows))
    if count == 0:
        return []
    broken = files / BROKEN_IMAGE
    broken.parent.mkdir(parents=True, exist_ok=True)
    broken.write_bytes(b"not a picture")
    rng = np.random.default_rng([seed, 3])
    faults = list(FAULTS.values())
    return [
        faults[index % len(faults)](rows[int(rng.integers(len(rows)))]) for index in range(count)
    ]
