"""What a reasoning must be before it is kept.

A check says what is wrong: a reject code, and a hint that goes back to the model for another try.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from data_prep.answers import normalise_answer
from data_prep.synthesis.tasks import Reply, Task
from reward.alignment import alignment_score
from reward.answers import answer_is_correct
from reward.ground_truth import GroundTruth
from reward.numbers import Box
from reward.regions import name_words
from reward.response import Region, Response, cited_regions

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
    "wrong_region": "a box in the reasoning stands behind the name of another region",
    "answer_not_cited": "a region of the answer is not cited in the reasoning",
    "answer_does_not_follow": "the reasoning or its answer leads to another answer than the row's",
    "refused": "the server refused the request, for its content or its length",
    "server_failed": "the server failed for the row again and again (--give-up)",
}
# Sources that somebody who looks at the picture does not have. Not "findings" alone: what is seen
# is one.
_REPORT = re.compile(
    r"\breport(?:s|ed|edly)?\b|\bannotat\w+|\bradiologist'?s?\s+(?:note|finding|reading|statement)|"
    r"\bground[- ]truth\b|\breference\s+answer\b|\bmetadata\b|\bdictat\w+|"
    r"\b(?:given|provided|supplied|listed|known|stated|described|documented)\s+"
    r"(?:findings?|answers?|regions?|box(?:es)?|information|data|text|descriptions?)\b|"
    r"\b(?:findings?|answers?|regions?|box(?:es)?|information|descriptions?)\s+"
    r"(?:(?:that|which)\s+)?(?:is|are|was|were)?\s*(?:given|provided|supplied|listed)\b|"
    r"\b(?:according\s+to|based\s+on|as\s+(?:stated|described|noted|mentioned|listed|given)\s+in)\s+"
    r"(?:the\s+)?(?:findings?|descriptions?|text|data|list|information|input|prompt|notes?)\b|"
    r"\b(?:json|answer_regions|prompt)\b",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"</?[a-z]+\s*>|```|\*\*|^\s*(?:[-*#]|\d+\.)\s", re.IGNORECASE | re.MULTILINE)
_SAME = 1.0


@dataclass(frozen=True)
class Limits:
    """Words that a reasoning has at least and at most."""

    least: int = 20
    most: int = 250


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a reply: its code, and what to tell the model."""

    code: str
    hint: str


def faults(reply: Reply | None, task: Task, limits: Limits) -> list[Fault]:
    """All that is wrong with a reply, in the order of `CODES`; empty for a good one."""
    if reply is None:
        return [Fault("bad_reply", "Reply with one JSON object with `reasoning` and `answer`.")]
    return [
        *_wording(reply.reasoning, limits),
        *_boxes(cited_regions(reply.reasoning), task),
        *_answer(reply, task),
    ]


def _wording(reasoning: str, limits: Limits) -> Iterator[Fault]:
    count = len(reasoning.split())
    if count < limits.least:
        yield Fault("too_short", f"It has {count} words: write at least {limits.least}.")
    if count > limits.most:
        yield Fault("too_long", f"It has {count} words: write at most {limits.most}.")
    if _MARKUP.search(reasoning):
        yield Fault("tags", "Write plain sentences, without tags, lists or headings.")
    if found := _REPORT.search(reasoning):
        yield Fault(
            "mentions_report",
            f'It says "{found[0]}": speak only of what is seen in the image.',
        )


def _boxes(cited: tuple[Region, ...], task: Task) -> Iterator[Fault]:
    known = [region for region in task.known if region.box is not None]
    if known and not cited:
        yield Fault("no_box", "Put the region's box behind its name, at least once.")
    if any(region.box is None for region in cited):
        yield Fault("bad_box", "A box is [x1, y1, x2, y2] with x1 < x2 and y1 < y2.")
    for region in cited:
        if region.box is None:
            continue
        here = [other for other in known if _is_same(other.box, region.box)]
        if not here:
            yield Fault("unknown_box", f"{_written(region)} is not a box you were given.")
        elif _is_another(region.ref, here, known):
            yield Fault(
                "wrong_region",
                f"{_written(region)} is the box of {here[0].ref}, not of {region.ref}.",
            )
    given = [region.box for region in cited]
    for region in task.row.regions:
        if not any(_is_same(region.box, box) for box in given):
            yield Fault("answer_not_cited", f"Cite {region.ref} {_written(region)} too.")


def _is_same(box: Box | None, other: Box | None) -> bool:
    """Equal but for rounding to whole numbers."""
    if box is None or other is None:
        return False
    return all(abs(a - b) < _SAME for a, b in zip(box, other, strict=True))


def _is_another(name: str, here: list[Region], known: list[Region]) -> bool:
    """Whether a name is that of a known region, but of none with this box."""
    words = name_words(name)
    if not words or any(not region.ref or words == name_words(region.ref) for region in here):
        return False
    return any(words == name_words(region.ref) for region in known)


def _answer(reply: Reply, task: Task) -> Iterator[Fault]:
    row = task.row
    given = normalise_answer(reply.answer, row.question_type, row.choices)
    if row.question_type == "open":
        is_same = answer_is_correct(reply.answer, _truth(task))
    else:
        is_same = given == row.answer
    response = Response(reply.reasoning, reply.answer, (), (), True)
    # Without boxes on either side what is left of the alignment is whether the text contradicts.
    follows = is_same and alignment_score(response, [], [], _truth(task)) > 0
    if not follows:
        yield Fault("answer_does_not_follow", "The reasoning must lead to the answer given.")


def _truth(task: Task) -> GroundTruth:
    row = task.row
    return GroundTruth(
        question_type=row.question_type,  # type: ignore[arg-type]
        answer=row.answer,
        choices=row.choices,
        regions=(),
        think_regions=(),
        image_size=(1, 1),
        coordinates="absolute",
    )


def _written(region: Region) -> str:
    return "" if region.box is None else f"[{', '.join(f'{side:g}' for side in region.box)}]"
