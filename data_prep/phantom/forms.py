"""Writes the rows of a phantom set: as ThinkVG's parquet or as GEMeX's JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.files import whole_file
from data_prep.phantom.variant import Form
from reward.response import parse_response

Row = dict[str, str | None]

COLUMNS = ("image_path", "question", "question_type", "thinkVG", "response")
NOTICE = "Synthetic: drawn by a program, not from any patient. Not for clinical use."
PARQUET = Path("data") / "train-00000-of-00001.parquet"
FILES: dict[Form, Path] = {
    "thinkvg": PARQUET,
    "gemex": Path("data") / "train.jsonl",
    "conversations": Path("data") / "train.json",
}
_CHOICES = re.compile(r" ?<choices>: \[(.*)\]$")


def write_rows(out: Path, rows: Sequence[Row], form: Form) -> Path:
    """Writes the rows under `out` in the form asked for and removes files of other forms."""
    for other in FILES.values():
        (out / other).unlink(missing_ok=True)
    target = out / FILES[form]
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as temporary:
        if form == "thinkvg":
            schema = pa.schema([(name, pa.string()) for name in COLUMNS], {"notice": NOTICE})
            pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), temporary)
        elif form == "gemex":
            lines = (json.dumps(_sample(row)) + "\n" for row in rows)
            temporary.write_text("".join(lines), encoding="utf-8")
        else:
            temporary.write_text(json.dumps([_conversation(row) for row in rows]), encoding="utf-8")
    return target


def _sample(row: Row) -> dict[str, Any]:
    """GEMeX's sample form: choices beside the question, regions and boxes as lists."""
    read = parse_response(row["response"] or "")
    question, answer = row["question"] or "", read.answer or ""
    choices = _CHOICES.search(question)
    sample: dict[str, Any] = {"question": _CHOICES.sub("", question)}
    if choices:
        sample["choices"] = re.split(r", (?=[A-D]: )", choices[1])
    is_list = row["question_type"] == "multi_choice_questions"
    return sample | {
        "question_type": row["question_type"],
        "answer": re.findall("[A-D]", answer) if is_list else answer,
        "reason": row["thinkVG"],
        "visual_regions": [region.ref for region in read.regions],
        "visual_locations": [list(region.box) if region.box else None for region in read.regions],
        "image_path": (row["image_path"] or "").lstrip("/"),
    }


def _conversation(row: Row) -> dict[str, Any]:
    """GEMeX's training form: a conversation whose answer has marks without ends, and no names."""
    read = parse_response(row["response"] or "")
    boxes = [[int(side) for side in region.box] for region in read.regions if region.box]
    told = f"<answer> {read.answer} <reason> {row['thinkVG']} <location> {boxes}"
    return {
        "conversations": [
            {"from": "human", "value": f"<image>\n{row['question']}"},
            {"from": "gpt", "value": told},
        ],
        "q_type": row["question_type"],
        "image": (row["image_path"] or "").lstrip("/"),
    }
