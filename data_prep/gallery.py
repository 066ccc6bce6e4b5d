"""The rows that the audit shows: some of each question type, with their pictures."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from data_prep.convert import part_file, read_stream
from data_prep.scan import BATCH

PER_TYPE = 3
TYPES = ("open", "closed", "single", "multi")
SIDE = 420


def choose_rows(most_boxes: Mapping[str, Sequence[tuple[int, int]]]) -> dict[int, int]:
    """Source indices of the rows to show, in their order on the page, each with its part.

    `most_boxes` gives for each type and part the row with the most boxes, as (boxes, index). Of
    each type rows are taken from places spread over the data, in each the one with most boxes.
    """
    chosen: dict[int, int] = {}
    for kind in TYPES:
        found = most_boxes.get(kind, ())
        for place in range(PER_TYPE):
            first, last = (len(found) * (place + step) // PER_TYPE for step in (0, 1))
            if stretch := found[first:last]:
                _, index = max(stretch, key=lambda pair: (pair[0], -pair[1]))
                chosen[index] = place
    return chosen


def read_rows(work: Path, chosen: Iterable[int]) -> list[dict[str, Any]]:
    """The rows of the chosen source indices, flat, in the order of `chosen`."""
    wanted = pa.array(list(chosen), pa.int64())
    found: dict[int, dict[str, Any]] = {}
    for number in sorted({index // BATCH for index in wanted.to_pylist()}):
        flat = read_stream(part_file(work, number))
        for row in flat.filter(pc.is_in(flat["index"], value_set=wanted)).to_pylist():
            found[row["index"]] = row
    return [found[index] for index in wanted.to_pylist() if index in found]


def show(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the page shows it: its picture as a data URI, and boxes in the picture's pixels.

    The boxes go from the model's coordinates to those of the picture on the page, so what is seen
    is what the model is taught.
    """
    truth = json.loads(row["ground_truth"])
    space = (1000, 1000) if truth["coordinates"] == "norm1000" else truth["image_size"]
    fault, size, uri = "", (SIDE, SIDE), ""
    try:
        size, uri = _picture(row["image"])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Only the header was read so far; training will meet this fault too, so show it.
        fault = f"the picture does not decode: {error}"
    scale = [size[0] / space[0], size[1] / space[1]] * 2

    def place(region: Mapping[str, Any]) -> dict[str, Any]:
        x1, y1, x2, y2 = (side * by for side, by in zip(region["box"], scale, strict=True))
        return {
            "ref": region["ref"] or "unnamed",
            "x": round(x1, 2),
            "y": round(y1, 2),
            "width": round(x2 - x1, 2),
            "height": round(y2 - y1, 2),
        }

    return {
        "index": row["index"],
        "kind": row["question_type"],
        "picture": uri,
        "size": size,
        "fault": fault,
        "question": row["question"],
        "answer": truth["answer"]
        if isinstance(truth["answer"], str)
        else ", ".join(truth["answer"]),
        "response": row["response"] or "",
        "final": [place(region) for region in truth["regions"]],
        "cited": [place(region) for region in truth["think_regions"]],
    }


def _picture(path: str) -> tuple[tuple[int, int], str]:
    """A copy of the page's size as a data URI."""
    with Image.open(path) as opened:
        opened.draft("L", (2 * SIDE, 2 * SIDE))
        picture = opened.convert("L" if opened.mode in ("1", "L", "I;16", "I") else "RGB")
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    buffer = io.BytesIO()
    picture.resize(size).save(buffer, "JPEG", quality=85)
    return size, f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
