"""Rows with the faults that real data has, to show that none is lost or let through."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

Row = dict[str, str | None]

_BOX = re.compile(r"\[\s*\d+(?:\s*,\s*\d+){3}\s*\]")
BROKEN_IMAGE = "p99/p99999999/s99999999/broken.jpg"
EMPTY_IMAGE = "p99/p99999999/s99999999/empty.jpg"
NARROW_IMAGE = "p99/p99999999/s99999999/narrow.jpg"
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


def _think(row: Row, box: str) -> Row:
    return {**row, "thinkVG": f"The left lung {box} is clear."}


def _without_location(row: Row) -> str:
    return re.sub(r"</?response>|<location>.*</location>", "", row["response"] or "")


# Further faults by a name of their own, each with its reject code.
MORE_FAULTS: dict[str, tuple[str, Callable[[Row], Row]]] = {
    "null question": ("no_question", lambda row: {**row, "question": None}),
    "blank response": ("no_response", lambda row: {**row, "response": " \n"}),
    "no answer block": (
        "no_answer",
        lambda row: {**row, "response": re.sub("<answer>.*</answer>", "", row["response"] or "")},
    ),
    "answer in thought": (
        "no_answer",
        lambda row: {**row, "response": f"<think>{row['response']}</think>"},
    ),
    "null type": ("unknown_question_type", lambda row: {**row, "question_type": None}),
    "neither yes nor no": (
        "answer_not_in_choices",
        lambda row: {
            **_with_answer(row, "Perhaps"),
            "question": "Is it there?",
            "question_type": "closed_ended_questions",
        },
    ),
    "several for one": (
        "answer_not_in_choices",
        lambda row: {
            **_with_answer(row, "['A', 'B']"),
            "question": "Which is it? <choices>: [A: one, B: two, C: three, D: four]",
            "question_type": "single_choice_questions",
        },
    ),
    "five numbers": ("bad_box", lambda row: _with_boxes(row, "[12, 40, 90, 80, 3]")),
    "no number": ("bad_box", lambda row: _with_boxes(row, "[12, 40, nan, 80]")),
    "endless": ("bad_box", lambda row: _with_boxes(row, "[12, 40, inf, 80]")),
    "words for a box": ("bad_box", lambda row: _with_boxes(row, "lower left")),
    "corners apart": ("unread_box", lambda row: _think(row, "[12, 40] to [90, 80]")),
    "box without bracket": ("unread_box", lambda row: _think(row, "12, 40, 90, 80")),
    "box without tags": (
        "bad_box",
        lambda row: {
            **row,
            "response": f"{_without_location(row)}<location>lung 12, 40, 90, 80</location>",
        },
    ),
    "region without box": (
        "bad_box",
        lambda row: {
            **row,
            "response": f"{_without_location(row)}<location><ref>lung</ref></location>",
        },
    ),
    "endless reasoning": (
        "too_long",
        lambda row: {**row, "thinkVG": "The left lung is clear. " * 1400},
    ),
    "bad box in reasoning": ("bad_box", lambda row: _think(row, "[12, 40, 90]")),
    "swapped in y": ("degenerate_box", lambda row: _with_boxes(row, "[12, 80, 90, 40]")),
    "equal corners": ("degenerate_box", lambda row: _with_boxes(row, "[12, 40, 12, 80]")),
    "swapped in reasoning": ("degenerate_box", lambda row: _think(row, "[90, 40, 12, 80]")),
    "before the edge": ("box_outside", lambda row: _with_boxes(row, "[-40, 40, 90, 80]")),
    "outside in reasoning": ("box_outside", lambda row: _think(row, "[20, 40, 90, 9000]")),
    "no path": ("missing_image", lambda row: {**row, "image_path": None}),
    "path upwards": (
        "missing_image",
        lambda row: {**row, "image_path": "/p99/p99999999/s99999999/../../../x.jpg"},
    ),
    "no patient": ("no_patient", lambda row: {**row, "image_path": "/pictures/1.jpg"}),
    "empty file": ("unreadable_image", lambda row: {**row, "image_path": f"/{EMPTY_IMAGE}"}),
    "too narrow": ("image_too_narrow", lambda row: {**row, "image_path": f"/{NARROW_IMAGE}"}),
}


@dataclass(frozen=True)
class Dirt:
    """Faulty rows to add: a share of the good ones, of the basic kinds or of all."""

    share: float = 0.0
    all_kinds: bool = False

    def faults(self) -> list[tuple[str, Callable[[Row], Row]]]:
        """Each fault with the reject code that it is to get."""
        more = list(MORE_FAULTS.values()) if self.all_kinds else []
        return [*FAULTS.items(), *more]


def dirty_rows(rows: Sequence[Row], dirt: Dirt, files: Path, seed: int) -> list[Row]:
    """Faulty copies of good rows, `dirt.share` times as many, every kind of fault in turn."""
    count = round(dirt.share * len(rows))
    if count == 0:
        return []
    broken = files / BROKEN_IMAGE
    broken.parent.mkdir(parents=True, exist_ok=True)
    broken.write_bytes(b"not a picture")
    if dirt.all_kinds:
        (files / EMPTY_IMAGE).write_bytes(b"")
        Image.new("L", (4000, 10), 90).save(files / NARROW_IMAGE, "JPEG")
    rng = np.random.default_rng([seed, 3])
    faults = dirt.faults()
    return [
        faults[index % len(faults)][1](rows[int(rng.integers(len(rows)))]) for index in range(count)
    ]
