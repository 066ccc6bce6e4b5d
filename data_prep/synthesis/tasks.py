"""The task for the model from one row, and the checks that its reasoning must pass."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.program import InputError
from data_prep.rows.answers import answer_text, normalise_answer
from data_prep.rows.example import ParsedRow
from llm_client.server import TransientFault, read_object
from reward.alignment import alignment_score
from reward.answers import answer_is_correct
from reward.boxes_in_text import Box, name_words
from reward.ground_truth import GroundTruth
from reward.response import Region, Response, cited_regions

PROMPT = Path(__file__).resolve().parents[2] / "configs" / "synthesis" / "prompt.txt"
_FIELDS_OF_PROMPT = ("{least}", "{most}")
_CHOICES = re.compile(r"\s*<choices>.*", re.DOTALL | re.IGNORECASE)
SCHEMA = {
    "type": "object",
    "properties": {"reasoning": {"type": "string"}, "answer": {"type": "string"}},
    "required": ["reasoning", "answer"],
    "additionalProperties": False,
}
CODES = {
    "no_findings": "the table of findings has none for the image",
    "bad_reply": "the reply is no JSON object with a reasoning and an answer",
    "too_short": "the reasoning has fewer words than --least-words",
    "too_long": "the reasoning has more words than --most-words",
    "tags": "the reasoning holds tags or other marks of a response",
    "mentions_report": "the reasoning speaks of a report, of given findings or of a known answer",
    "no_box": "the reasoning cites no region",
    "bad_box": "a box in the reasoning is not four numbers that span an area",
    "unknown_box": "a box in the reasoning is none of those in the findings or the answer",
    "wrong_region": "a box in the reasoning follows the name of another region",
    "answer_not_cited": "a region of the answer is not cited in the reasoning",
    "answer_does_not_follow": "the reasoning or its answer leads to another answer than the row's",
    "refused": "the server refused the request, for its content or its length",
    "server_failed": "the server failed for the row again and again (--give-up)",
}
# Sources that a reader of the picture does not have. "Findings" alone is not one of them: what is
# seen in the picture is a finding.
_REPORT = re.compile(
    r"""
    \b(?:
      report(?:s|ed|edly)? | annotat\w+ | ground[- ]truth | reference\s+answer | metadata
    | dictat\w+ | json | answer_regions | prompt
    )\b
    | \bradiologist'?s?\s+(?:note|finding|reading|statement)
      # "the given findings"
    | \b(?:given|provided|supplied|listed|known|stated|described|documented)\s+
      (?:findings?|answers?|regions?|box(?:es)?|information|data|text|descriptions?)\b
      # "the findings that are given"
    | \b(?:findings?|answers?|regions?|box(?:es)?|information|descriptions?)\s+
      (?:(?:that|which)\s+)?(?:is|are|was|were)?\s*(?:given|provided|supplied|listed)\b
      # "according to the text"
    | \b(?:according\s+to|based\s+on|as\s+(?:stated|described|noted|mentioned|listed|given)\s+in)\s+
      (?:the\s+)?(?:findings?|descriptions?|text|data|list|information|input|prompt|notes?)\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_MARKUP = re.compile(r"</?[a-z]+\s*>|```|\*\*|^\s*(?:[-*#]|\d+\.)\s", re.IGNORECASE | re.MULTILINE)
_ROUNDING = 1.0  # boxes whose sides differ by less are the same


@dataclass(frozen=True)
class Limits:
    """The least and the largest number of words in a reasoning."""

    least: int = 20
    most: int = 250


@dataclass(frozen=True)
class Task:
    """A row that needs reasoning, with all boxes in the dataset's frame.

    `findings` is a text with boxes, such as `left lung [63, 20, 98, 80] shows an opacity.`
    """

    row: ParsedRow
    findings: str

    @property
    def known(self) -> tuple[Region, ...]:
        """The regions that a reasoning may cite: those of the findings and of the answer."""
        return (*cited_regions(self.findings), *self.row.regions)

    def document(self) -> str:
        """Return what the model reads about the row, as JSON."""
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
    """Return the instructions, with the bounds of the number of words."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--prompt {path} does not read: {error}") from None
    for field in _FIELDS_OF_PROMPT:
        if field not in text:
            raise InputError(f"--prompt {path} must hold {field}")
    return text.replace("{least}", str(least)).replace("{most}", str(most))


def prompt_version(path: Path) -> str:
    """Return the name of the prompt's file with a hash of its text."""
    return f"{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"


def read_reply(text: str) -> Reply | None:
    """Return the reasoning and the answer of a reply; None if one of them is missing."""
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


@dataclass(frozen=True)
class Fault:
    """A fault of a reply: its code, and a hint to the model."""

    code: str
    hint: str


def faults(reply: Reply | None, task: Task, limits: Limits) -> list[Fault]:
    """Return all faults of a reply, in the order of `CODES`; empty for a good one."""
    if reply is None:
        return [Fault("bad_reply", "Reply with one JSON object with `reasoning` and `answer`.")]
    return [
        *_faults_of_wording(reply.reasoning, limits),
        *_faults_of_boxes(cited_regions(reply.reasoning), task),
        *_faults_of_answer(reply, task),
    ]


def _faults_of_wording(reasoning: str, limits: Limits) -> Iterator[Fault]:
    count = len(reasoning.split())
    if count < limits.least:
        yield Fault("too_short", f"It has {count} words: write at least {limits.least}.")
    if count > limits.most:
        yield Fault("too_long", f"It has {count} words: write at most {limits.most}.")
    if _MARKUP.search(reasoning):
        yield Fault("tags", "Write plain sentences, without tags, lists or headings.")
    if match := _REPORT.search(reasoning):
        yield Fault(
            "mentions_report",
            f'It says "{match[0]}": speak only of what is seen in the image.',
        )


def _faults_of_boxes(cited: tuple[Region, ...], task: Task) -> Iterator[Fault]:
    known = [region for region in task.known if region.box is not None]
    if known and not cited:
        yield Fault("no_box", "Put the region's box after its name, at least once.")
    if any(region.box is None for region in cited):
        yield Fault("bad_box", "A box is [x1, y1, x2, y2] with x1 < x2 and y1 < y2.")
    boxes = [region.box for region in cited if region.box is not None]
    for region in cited:
        if region.box is None:
            continue
        same_box = [reference for reference in known if _is_same(reference.box, region.box)]
        if not same_box:
            yield Fault("unknown_box", f"{_box_text(region)} is not a box you were given.")
        elif _names_another(region.ref, same_box, known):
            yield Fault(
                "wrong_region",
                f"{_box_text(region)} is the box of {same_box[0].ref}, not of {region.ref}.",
            )
    for region in task.row.regions:
        if not any(_is_same(region.box, box) for box in boxes):
            yield Fault("answer_not_cited", f"Cite {region.ref} {_box_text(region)} too.")


def _is_same(first: Box | None, second: Box | None) -> bool:
    """Return whether boxes are equal within rounding to whole numbers."""
    if first is None or second is None:
        return False
    return all(abs(a - b) < _ROUNDING for a, b in zip(first, second, strict=True))


def _names_another(name: str, same_box: list[Region], known: list[Region]) -> bool:
    """Return whether a name belongs to a known region, but to none with this box."""
    words = name_words(name)
    if not words or any(not region.ref or words == name_words(region.ref) for region in same_box):
        return False
    return any(words == name_words(region.ref) for region in known)


def _faults_of_answer(reply: Reply, task: Task) -> Iterator[Fault]:
    row, truth = task.row, _ground_truth(task)
    if row.question_type == "open":
        is_same = answer_is_correct(reply.answer, truth)
    else:
        is_same = normalise_answer(reply.answer, row.question_type, row.choices) == row.answer
    response = Response(reply.reasoning, reply.answer, (), (), True)
    # Without boxes, the alignment is 0 only where the text contradicts the answer.
    if not is_same or alignment_score(response, [], [], truth) == 0:
        yield Fault("answer_does_not_follow", "The reasoning must lead to the answer given.")


def _ground_truth(task: Task) -> GroundTruth:
    """Return the answer of a row for the reward, without boxes."""
    row = task.row
    return GroundTruth(
        question_type=row.question_type,
        answer=row.answer,
        choices=row.choices,
        regions=(),
        think_regions=(),
        image_size=(1, 1),
        coordinates="absolute",
    )


def _box_text(region: Region) -> str:
    return "" if region.box is None else f"[{', '.join(f'{side:g}' for side in region.box)}]"
