"""What is asked of the model for one row, and how its reply is read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.answers import answer_text
from data_prep.errors import InputError
from data_prep.rows import ParsedRow
from reward.judge.faults import TransientFault
from reward.judge.verdict import read_object
from reward.response import Region, cited_regions

PROMPT = Path(__file__).resolve().parents[2] / "configs" / "synthesis" / "prompt.txt"
_FIELDS = ("{least}", "{most}")
_CHOICES = re.compile(r"\s*<choices>.*", re.DOTALL | re.IGNORECASE)
SCHEMA = {
    "type": "object",
    "properties": {"reasoning": {"type": "string"}, "answer": {"type": "string"}},
    "required": ["reasoning", "answer"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Task:
    """A row to write reasoning for; all boxes are in the frame of the dataset.

    `findings` is a text with the region's boxes inline, such as
    `left lung [63, 20, 98, 80] shows an opacity.`
    """

    row: ParsedRow
    findings: str

    @property
    def known(self) -> tuple[Region, ...]:
        """The regions that a reasoning may cite: of the findings, and of the answer."""
        return (*cited_regions(self.findings), *self.row.regions)

    def document(self) -> str:
        """What the model is told of the row, as JSON."""
        row = self.row
        document: dict[str, Any] = {"question": _CHOICES.sub("", row.question)}
        if row.choices:
            document["options"] = row.choices
        document["findings"] = self.findings
        document["answer"] = answer_text(row.answer)
        document["answer_regions"] = [
            {"region": region.ref, "box": [_plain(side) for side in region.box]}
            for region in row.regions
            if region.box is not None
        ]
        return json.dumps(document, ensure_ascii=False)


@dataclass(frozen=True)
class Reply:
    """What the model wrote."""

    reasoning: str
    answer: str


def read_prompt(path: Path, least: int, most: int) -> str:
    """The instructions, with the bounds of the length filled in. InputError for a bad file."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--prompt {path} does not read: {error}") from None
    for field in _FIELDS:
        if field not in text:
            raise InputError(f"--prompt {path} must hold {field}")
    return text.replace("{least}", str(least)).replace("{most}", str(most))


def prompt_version(path: Path) -> str:
    """Changes with every word of the prompt's file."""
    return f"{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"


def read_reply(text: str) -> Reply | None:
    """The reasoning and the answer of a reply, None where it has not both."""
    try:
        reply: Mapping[str, Any] = read_object(text)
    except TransientFault:
        return None
    reasoning, answer = reply.get("reasoning"), reply.get("answer")
    if not isinstance(reasoning, str) or not isinstance(answer, str):
        return None
    return Reply(" ".join(reasoning.split()), answer.strip())


def _plain(value: float) -> float | int:
    return int(value) if value == int(value) else value
