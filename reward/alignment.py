"""Whether the reasoning and the final answer agree, in [0, 1].

    alignment = mean over the final boxes of their IoU with the cited boxes, one to one,
                times 0 if the reasoning's conclusion contradicts the answer, else 1.

A response without reasoning or without an answer has nothing to agree and scores 0, and so does
one without final boxes where the reference has some; where it has none, saying none agrees.

A conclusion is only what is stated as one: "the answer is B", "Therefore, yes.", "this supports
option B", or an option named in brackets behind a finding, "shows an opacity (choice B)"; not one
whose sentence denies, supposes or compares. Of several statements the last counts. A reasoning that
states none is neutral, and one that states it in other words is taken for that.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice

from reward.answers import LONGEST_ANSWER, parse_yes_no
from reward.boxes import matched_ious
from reward.choices import parse_letters
from reward.ground_truth import GroundTruth
from reward.numbers import Box
from reward.response import Response
from reward.text import contradicts

_KEYWORDS = (
    *("answer", "answers", "conclusion", "conclusions", "response", "responses", "summary"),
    *("therefore", "thus", "hence", "so", "consequently", "correct", "right", "best"),
)
_KEYWORD_BACKWARDS = re.compile(
    rf"\b(?:{'|'.join(word[::-1] for word in _KEYWORDS)})\b", re.IGNORECASE
)
_CONCLUSION = re.compile(
    r"\b(?:(?:answer|conclusion|response|(?:correct|right|best)\s++(?:option|choice))s?+"
    r"(?:\s++to\s++(?:this|the)\s++question)?+"
    r"(?:\s++(?:(?:should|must)\s++(?:therefore\s++)?+be|is|are)\b\s*+:?+|\s*+[:=]|\s++[-–]\s)"
    r"(?:\s*+(?:definitely|clearly|therefore|thus|most\s++likely|likely|probably)\b)?+"
    r"|(?P<so>therefore|thus|hence|so|(?<=\bin\s)(?:conclusion|summary)|consequently)\b\s*+,?+"
    r"(?:\s*+(?:the\s++answer|it)\s++is\b)?+)\s*+",
    re.IGNORECASE,
)
_CHOSEN = re.compile(
    r"\b(?i:(?:supports?|match(?:es)?|choose|select|pick|confirms?|favou?rs?|leaves)\s++"
    r"(?:option\s++|choice\s++|answer\s++)?+|(?:option|choice)\s++"
    r"(?=\(?[A-Z]\b\)?\s++is\s++(?:the\s++)?(?:correct|right|best)))\(?([A-Z])\b(?!['’])"
)
_MARKED_OPTION = re.compile(
    r"[(\[](?:choice|option)\s++([A-Za-z])(?:\s*+:[^()\[\]]{0,80})?[)\]]", re.IGNORECASE
)
# What keeps a sentence from being a conclusion: it denies, supposes or compares.
_DENIES = re.compile(
    r"\b(?:not?|nor|never|neither|without|unlikely|incorrect|wrong|rather|instead|unlike|than|"
    r"ruled?\s++out|exclude[sd]?|absent|absence|unsupported|eliminat\w++|if|would|could|might|"
    r"tempting|doubt|one\s++(?:may|could))\b|n't\b",
    re.IGNORECASE,
)
_SUPPOSES = re.compile(
    r"\b(?:if|unless|would|could|might|tempting|doubt|unlike|than|whether)\b", re.IGNORECASE
)
_YES_NO_ALONE = re.compile(
    r"[\"'*`(]*+(?:yes|no)[\"'*`)]*+\s*+(?:[.,;:!]|\Z|because|since|as\b)", re.IGNORECASE
)
_STATEMENT_END = re.compile(r"[\n;]|\.(?=\s|\Z)")
_LONGEST_STATEMENT = 300
_MOST_STATEMENTS = 8
_MOST_PLACES = 64
_TAIL = 120
_LONGEST_KEYWORD = 20


def alignment_score(
    response: Response,
    final: Sequence[Box | None],
    cited: Sequence[Box | None],
    ground_truth: GroundTruth,
) -> float:
    """Score a response's reasoning against its own answer and boxes.

    `final` and `cited` are the boxes of the response's placed regions. The ground truth gives the
    question's type, its choices and whether boxes are wanted; whether the answer is right does not
    matter.
    """
    if not response.think or not response.answer or len(response.answer) > LONGEST_ANSWER:
        return 0.0
    share = _share_cited(final, cited) if final else float(not ground_truth.regions)
    if share and _contradicted(response.think, response.answer, ground_truth):
        return 0.0
    return share


def _share_cited(final: Sequence[Box | None], cited: Sequence[Box | None]) -> float:
    """Return the mean IoU of the final boxes with distinct cited ones, the rest counting 0."""
    different = {*final}
    is_sound = None not in different and len(different) == len(final)
    if is_sound and (cited is final or different.issubset(cited)):
        return 1.0
    return sum(matched_ious(final, list(dict.fromkeys(cited)))) / len(final)


def _contradicted(think: str, answer: str, ground_truth: GroundTruth) -> bool:
    tail = max(0, len(think) - _TAIL)  # most conclude at the end
    verdict = _stated_verdict(think, tail, len(think), answer, ground_truth)
    if verdict is None:
        verdict = _stated_verdict(think, 0, tail + _LONGEST_KEYWORD, answer, ground_truth)
    return _marks_another_option(think, answer, ground_truth) if verdict is None else verdict


def _stated_verdict(
    think: str, begin: int, end: int, answer: str, ground_truth: GroundTruth
) -> bool | None:
    """Whether the last conclusion that begins in a stretch contradicts; None without one."""
    # Searching words backwards is several times faster than trying the whole pattern at every
    # character, and most texts conclude in their last sentence.
    backwards = think[begin:end][::-1]
    for keyword in islice(_KEYWORD_BACKWARDS.finditer(backwards), _MOST_PLACES):
        place = end - keyword.end()
        found = _CONCLUSION.match(think, place)
        if found is None or _SUPPOSES.search(think, _sentence_begin(think, place), place):
            continue
        statement = _statement(think, found.end())
        verdict = _verdict(statement, answer, ground_truth, is_weak=bool(found["so"]))
        if verdict is not None:
            return verdict
    return None


def _sentence_begin(text: str, position: int) -> int:
    """Return where the sentence around a position begins, at most `_LONGEST_STATEMENT` before."""
    begin = max(0, position - _LONGEST_STATEMENT)
    for mark in "\n;":
        found = text.rfind(mark, begin, position)
        if found >= 0:
            begin = found + 1
    stop = text.rfind(".", begin, position)
    while stop >= 0:
        if stop + 1 == position or text[stop + 1].isspace() or text[stop + 1].isupper():
            return stop + 1
        stop = text.rfind(".", begin, stop)
    return begin


def _marks_another_option(think: str, answer: str, ground_truth: GroundTruth) -> bool:
    """Whether the last option marked in brackets, `(choice B)`, is not in the answer."""
    if ground_truth.question_type not in ("single", "multi"):
        return False
    marks = [*_MARKED_OPTION.finditer(think), *_CHOSEN.finditer(think)]
    for mark in sorted(marks, key=re.Match.start)[: -_MOST_STATEMENTS - 1 : -1]:
        begin, after = _sentence_begin(think, mark.start()), _statement(think, mark.end())
        if _DENIES.search(think, begin, mark.start()) or _DENIES.search(after):
            continue
        final = parse_letters(answer, ground_truth.choices)
        return final is not None and mark[1].upper() not in final
    return False


def _statement(text: str, begin: int) -> str:
    longest = begin + _LONGEST_STATEMENT
    stop = _STATEMENT_END.search(text, begin, longest)
    return text[begin : stop.start() if stop else longest].strip()


def _verdict(statement: str, answer: str, ground_truth: GroundTruth, is_weak: bool) -> bool | None:
    """Whether a statement contradicts the answer; None where it states no answer.

    `is_weak` marks a "therefore", after which a text may also be just another step.
    """
    if ground_truth.question_type == "closed":
        return _takes_other_side(statement, answer)
    if ground_truth.question_type == "open":
        return None if is_weak or not statement else contradicts(statement, answer)
    letters = parse_letters(statement, ground_truth.choices)
    final = parse_letters(answer, ground_truth.choices)
    if not letters or not final:
        return None
    # Several options may be concluded one by one, so each need only be in the answer.
    return not letters <= final


@lru_cache(maxsize=4096)
def _takes_other_side(statement: str, answer: str) -> bool | None:
    """Whether a statement and an answer are yes and no; None where one of them takes no side."""
    if not _YES_NO_ALONE.match(statement):
        return None
    stated, given = parse_yes_no(statement), parse_yes_no(answer)
    return None if stated is None or given is None else stated != given
