"""Whether the reasoning and the final answer agree, in [0, 1].

    alignment = mean over the final boxes of their IoU with the cited boxes, one to one,
                times 0 if the reasoning's conclusion contradicts the answer, else 1.

A response without reasoning or without an answer has nothing that could agree and scores 0. So does
one without final boxes if the reference has some; if it has none, there is nothing to cite: 1.

A conclusion is only what is stated as one: "the answer is B", "Therefore, yes.", "this supports
option B", or an option in brackets behind a finding, "shows an opacity (choice B)"; but not if its
sentence denies, supposes or compares. The last statement counts. A reasoning that states no
conclusion is neutral, and so is one that states it in other words.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import islice

from reward.answers import LONGEST_ANSWER, parse_letters, parse_yes_no
from reward.ground_truth import GroundTruth
from reward.grounding import matched_ious
from reward.response import Region, Response
from reward.text import contradicts

_CLAUSE = re.compile(r"[^.;\n]+")
_KEYWORD = re.compile(
    r"""\b(?:
    answers? | conclusions? | responses? | summary | therefore | thus | hence | so | consequently
    | correct | right | best
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)
_CONCLUSION = re.compile(
    r"""\b(?:
    # "the correct option to this question should be:", "answer =", "answer - "
    (?: answer | conclusion | response | (?:correct|right|best)\s++(?:option|choice) )s?+
    (?: \s++to\s++(?:this|the)\s++question )?+
    (?:
        \s++(?: (?:should|must)\s++(?:therefore\s++)?+be | is | are )\b \s*+ :?+
        | \s*+[:=]
        | \s++[-–]\s
    )
    (?: \s*+(?: definitely | clearly | therefore | thus | most\s++likely | likely | probably )\b )?+
    # "therefore, it is", "in conclusion,": weaker, since another step may follow
    | (?P<weak>
        therefore | thus | hence | so | (?<=\bin\s)(?:conclusion|summary) | consequently
    )\b \s*+ ,?+
    (?: \s*+(?:the\s++answer|it)\s++is\b )?+
    )\s*+""",
    re.IGNORECASE | re.VERBOSE,
)
_CHOSEN_OPTION = re.compile(
    r"""\b(?i:
    # "this supports option B", "I choose B"
    (?: supports? | match(?:es)? | choose | select | pick | confirms? | favou?rs? | leaves )\s++
    (?: option\s++ | choice\s++ | answer\s++ )?+
    # "option B is the correct one"
    | (?:option|choice)\s++ (?= \(?[A-Z]\b\)?\s++is\s++(?:the\s++)?(?:correct|right|best) )
    )
    \(? ([A-Z])\b (?!['’])""",
    re.VERBOSE,
)
# "(choice B)", "[option B: Effusion]"
_MARKED_OPTION = re.compile(
    r"[(\[] (?:choice|option)\s++ ([A-Za-z]) (?: \s*+:[^()\[\]]{0,80} )? [)\]]",
    re.IGNORECASE | re.VERBOSE,
)
# A sentence with such a word is not a conclusion.
_SUPPOSES = re.compile(
    r"\b(?: if | unless | would | could | might | tempting | doubt | unlike | than | whether )\b",
    re.IGNORECASE | re.VERBOSE,
)
_DENIES = re.compile(
    r"""
    \b(?:
    not? | nor | never | neither | without | unlikely | incorrect | wrong | rather | instead
    | unlike | than | ruled?\s++out | exclude[sd]? | absent | absence | unsupported | eliminat\w++
    | if | would | could | might | tempting | doubt | one\s++(?:may|could)
    )\b
    | n't\b""",
    re.IGNORECASE | re.VERBOSE,
)
_YES_NO_ALONE = re.compile(
    r"[\"'*`(]*+ (?:yes|no) [\"'*`)]*+ \s*+ (?: [.,;:!] | \Z | because | since | as\b )",
    re.IGNORECASE | re.VERBOSE,
)
_STATEMENT_END = re.compile(r"[\n;]|\.(?=\s|\Z)")
_LONGEST_STATEMENT = 300
_MOST_MARKS = 8
_MOST_KEYWORDS = 100


def alignment_score(
    response: Response,
    final: Sequence[Region],
    cited: Sequence[Region],
    ground_truth: GroundTruth,
) -> float:
    """Score a response's reasoning against its own answer and boxes.

    Args:
        response: the response.
        final: its final regions, with boxes in [0, 1].
        cited: the regions that its reasoning cites, with boxes in [0, 1].
        ground_truth: gives the question's type, its choices, and whether it has boxes; whether the
            answer is right does not matter.
    """
    if not response.think or not response.answer or len(response.answer) > LONGEST_ANSWER:
        return 0.0
    if _is_contradicted(response.think, response.answer, ground_truth):
        return 0.0
    if not final:
        return float(not ground_truth.regions)
    cited_boxes = list(dict.fromkeys(box for _, box in cited))
    return sum(matched_ious([box for _, box in final], cited_boxes)) / len(final)


def _is_contradicted(think: str, answer: str, ground_truth: GroundTruth) -> bool:
    for conclusion in _conclusions(think):
        statement = _statement(think, conclusion.end())
        is_weak = conclusion["weak"] is not None
        verdict = _contradicts(statement, answer, ground_truth, is_weak)
        if verdict is not None:
            return verdict
    if ground_truth.question_type in ("single", "multi"):
        return _marks_another_option(think, answer, ground_truth)
    return False


def _conclusions(think: str) -> Iterator[re.Match[str]]:
    """Yield the words that introduce a conclusion, from the last to the first."""
    for start in islice(_keyword_starts(think), _MOST_KEYWORDS):
        conclusion = _CONCLUSION.match(think, start)
        if conclusion and not _SUPPOSES.search(think, _sentence_start(think, start), start):
            yield conclusion


def _keyword_starts(think: str) -> Iterator[int]:
    for clause in reversed(list(_CLAUSE.finditer(think))):
        for keyword in reversed(list(_KEYWORD.finditer(think, *clause.span()))):
            yield keyword.start()


def _sentence_start(text: str, position: int) -> int:
    """Return where the sentence around a position starts, at most `_LONGEST_STATEMENT` before."""
    start = max(0, position - _LONGEST_STATEMENT)
    for mark in "\n;":
        start = max(start, text.rfind(mark, start, position) + 1)
    stop = text.rfind(".", start, position)
    while stop >= 0:
        if stop + 1 == position or text[stop + 1].isspace() or text[stop + 1].isupper():
            return stop + 1
        stop = text.rfind(".", start, stop)
    return start


def _statement(text: str, start: int) -> str:
    """Return the rest of the sentence from a position on."""
    end = start + _LONGEST_STATEMENT
    stop = _STATEMENT_END.search(text, start, end)
    return text[start : stop.start() if stop else end].strip()


def _contradicts(
    statement: str, answer: str, ground_truth: GroundTruth, is_weak: bool
) -> bool | None:
    """Return whether a statement contradicts the answer, None if it states no answer.

    `is_weak` marks a "therefore", after which a text may also take just another step.
    """
    if ground_truth.question_type == "closed":
        return _takes_other_side(statement, answer)
    if ground_truth.question_type == "open":
        return None if is_weak or not statement else contradicts(statement, answer)
    stated = parse_letters(statement, ground_truth.choices)
    chosen = parse_letters(answer, ground_truth.choices)
    if not stated or not chosen:
        return None
    # Several options may be concluded one by one, so each only has to be in the answer.
    return not stated <= chosen


def _takes_other_side(statement: str, answer: str) -> bool | None:
    """Return whether one is yes and the other no, None if one of them takes no side."""
    if not _YES_NO_ALONE.match(statement):
        return None
    stated, chosen = parse_yes_no(statement), parse_yes_no(answer)
    return None if stated is None or chosen is None else stated != chosen


def _marks_another_option(think: str, answer: str, ground_truth: GroundTruth) -> bool:
    """Return whether the last option that the reasoning marks is not in the answer."""
    marks = [*_MARKED_OPTION.finditer(think), *_CHOSEN_OPTION.finditer(think)]
    marks.sort(key=re.Match.start, reverse=True)
    for mark in marks[:_MOST_MARKS]:
        start = _sentence_start(think, mark.start())
        is_denied = _DENIES.search(think, start, mark.start())
        if is_denied or _DENIES.search(_statement(think, mark.end())):
            continue
        chosen = parse_letters(answer, ground_truth.choices)
        return chosen is not None and mark[1].upper() not in chosen
    return False
