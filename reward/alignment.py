"""Whether the reasoning and the final answer agree, in [0, 1].

    alignment = mean over the final boxes of their IoU with the cited boxes, one to one
                (1 where no box is final), times 0 if the reasoning's conclusion contradicts
                the answer, else 1.

A response without reasoning or without an answer has nothing to agree and scores 0. A conclusion
is only what is stated as one ("the answer is B", "Therefore, yes."), the last one where there are
several; a reasoning that states none is neutral.
"""

import re
from collections.abc import Sequence

from reward.answers import LONGEST_ANSWER, parse_yes_no
from reward.boxes import MOST_MATCHED, iou, match, usable_box
from reward.choices import parse_letters
from reward.ground_truth import GroundTruth
from reward.response import Region, Response
from reward.text import contradicts

_CONCLUSION = re.compile(
    r"\b(?:(?:answer|conclusion|(?:correct|right|best)\s++(?:option|choice))s?+"
    r"(?:\s++(?:is|are|must\s++be|should\s++be|would\s++be)\b\s*+:?+|\s*+:)"
    r"|(?P<so>therefore|thus|hence|so|in\s++conclusion|consequently)\b\s*+,?+"
    r"(?:\s*+the\s++answer\s++is\b)?+)\s*+",
    re.IGNORECASE,
)
_YES_NO_ALONE = re.compile(
    r"[\"'*`(]*+(?:yes|no)[\"'*`)]*+\s*+(?:[.,;:!]|\Z|because|since|as\b)", re.IGNORECASE
)
_STATEMENT_END = re.compile(r"[\n;]|\.(?=\s|\Z)")
_LONGEST_STATEMENT = 300


def alignment_score(response: Response, ground_truth: GroundTruth) -> float:
    """Score a response's reasoning against its own answer and boxes.

    The ground truth gives the coordinate system, the question's type and its choices; whether
    the answer is right does not matter here.
    """
    if not response.think or not response.answer:
        return 0.0
    if _contradicted(response.think, response.answer, ground_truth):
        return 0.0
    return _share_cited(response.regions, response.think_regions, ground_truth)


def _share_cited(
    final: Sequence[Region], cited: Sequence[Region], ground_truth: GroundTruth
) -> float:
    if not final:
        return 1.0
    boxes = [usable_box(region, ground_truth) for region in final]
    sources = list(dict.fromkeys(usable_box(region, ground_truth) for region in cited))[
        :MOST_MATCHED
    ]
    pairs = match(len(boxes), len(sources), lambda i, j: iou(boxes[i], sources[j]))
    return sum(pair.value for pair in pairs) / len(boxes)


def _contradicted(think: str, answer: str, ground_truth: GroundTruth) -> bool:
    conclusions = list(_CONCLUSION.finditer(think))[-8:]
    if len(answer) > LONGEST_ANSWER:
        return False
    for found in reversed(conclusions):
        statement = _statement(think, found.end())
        verdict = _verdict(statement, answer, ground_truth, is_weak=bool(found["so"]))
        if verdict is not None:
            return verdict
    return False


def _statement(text: str, begin: int) -> str:
    piece = text[begin : begin + _LONGEST_STATEMENT]
    return _STATEMENT_END.split(piece, maxsplit=1)[0].strip()


def _verdict(statement: str, answer: str, ground_truth: GroundTruth, is_weak: bool) -> bool | None:
    """Whether a statement contradicts the answer; None where it states no answer.

    `is_weak` marks a "therefore", after which a text may also be just another step.
    """
    if ground_truth.question_type == "closed":
        if not _YES_NO_ALONE.match(statement):
            return None
        stated, given = parse_yes_no(statement), parse_yes_no(answer)
        return None if stated is None or given is None else stated != given
    if ground_truth.question_type == "open":
        return None if is_weak or not statement else contradicts(statement, answer)
    letters = parse_letters(statement, ground_truth.choices)
    final = parse_letters(answer, ground_truth.choices)
    if not letters or not final:
        return None
    # Several options may be concluded one by one, so each need only be in the answer.
    return not letters <= final
