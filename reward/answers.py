"""Scores of an answer against the reference.

Yes/no and choice answers are decided exactly from how the answer begins or from the options it
names, never from a word it happens to contain. Open answers go by `reward.text`. An answer that
wavers between options scores 0, and so does one of more than `LONGEST_ANSWER` characters.
"""

import re
from functools import lru_cache
from typing import Literal

from reward.bare_answer import bare_answer, stated_answers
from reward.choices import parse_letters
from reward.ground_truth import GroundTruth
from reward.text import text_score

LONGEST_ANSWER = 2000

_LEADING = re.compile(
    r"[\s\"'*`(\[]*+(yes|no)(?![\w]|-(?:one|man|go)\b)[\"'*`)\]]*+", re.IGNORECASE
)
_ALONE = re.compile(
    r"(?:\A|[\s,;.:/|&\\(\"'*]|\b(?:or|and|but)\s)\s*+(yes|no)[\"'*`)\]]*+\s*+(?=[,;.:!?/|&\\]|\Z|\bor\b)",
    re.IGNORECASE,
)
_WAVERS = re.compile(
    r"[\s,;.(]*+(?:(?:and|but)\s++)?+"
    r"(?:not\s++sure|unsure|uncertain|nope\b|cannot\s++(?:be\s++determined|tell|say)|(?:maybe|perhaps|possibly|probably|or|unclear|either)"
    r"(?=\s*+(?:[.,;!?)]|\Z|(?:yes|no|not|maybe|perhaps)\b)))",
    re.IGNORECASE,
)
_NO_OPINION = re.compile(
    r"\s++(?:doubt|idea|clue|way|answer|comment|opinion|information|one\b)", re.IGNORECASE
)
_DOUBT = re.compile(
    r"\bor\s++(?:maybe\s++)?+not\b|\bnot\s++sure\b|\bor\s++(?:yes|no)\b", re.IGNORECASE
)


def answer_score(
    answer: str | None, ground_truth: GroundTruth, multi_partial: float = 0.0
) -> float:
    """Return how right an answer is, in [0, 1].

    1 or 0 but for open questions, which get `text_score`, and for multi-choice questions, where
    k of n right options without a wrong one get `multi_partial` * k / n.
    """
    if answer is None or not answer.strip() or len(answer) > LONGEST_ANSWER:
        return 0.0
    reference = ground_truth.answer
    if ground_truth.question_type == "open":
        return text_score(answer, str(reference))
    if ground_truth.question_type == "closed":
        return float(parse_yes_no(answer) == reference)
    letters = parse_letters(answer, ground_truth.choices)
    wanted = frozenset([reference] if isinstance(reference, str) else reference)
    if not letters:
        return 0.0
    if letters == wanted:
        return 1.0
    is_part = ground_truth.question_type == "multi" and letters < wanted
    return multi_partial * len(letters) / len(wanted) if is_part else 0.0


def answer_is_correct(
    answer: str | None, ground_truth: GroundTruth, open_threshold: float = 0.75
) -> bool:
    """Return whether an answer counts as correct in the A-score.

    Closed and choice answers must be exact (the whole set for multi); an open answer must reach
    `open_threshold` in the text score.
    """
    score = answer_score(answer, ground_truth)
    return score >= (open_threshold if ground_truth.question_type == "open" else 1.0)


@lru_cache(maxsize=4096)
def parse_yes_no(text: str) -> Literal["Yes", "No"] | None:
    """Return the side that a yes/no answer takes, None where it takes none or both.

    The answer must begin with the word, so `Normal` and `Not seen` are neither, or state it later
    (`There is an opacity. The answer is yes.`); a `yes` or `no` that stands alone behind it
    (`Yes or no`, `Yes. No.`) makes it waver.
    """
    sides = {_leading_side(bare_answer(answer)) for answer in stated_answers(text)} - {None}
    bare = bare_answer(text)
    if _LEADING.match(bare):
        side = _leading_side(bare)
        return side if sides <= {side} else None
    return sides.pop() if len(sides) == 1 else None


def _leading_side(text: str) -> Literal["Yes", "No"] | None:
    leading = _LEADING.match(text)
    if leading is None:
        return None
    side = leading[1].lower()
    rest = text[leading.end() :]
    if _WAVERS.match(rest) or _DOUBT.search(rest):
        return None
    if side == "no" and (_NO_OPINION.match(rest) or re.search(r"\byes\b", rest, re.IGNORECASE)):
        return None
    if side == "yes" and "no" in {found.lower() for found in _ALONE.findall(rest)}:
        return None
    return "Yes" if side == "yes" else "No"
