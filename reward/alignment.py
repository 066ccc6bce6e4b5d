"""Whether the reasoning and the final answer agree, in [0, 1].

    alignment = mean over the final boxes of IoU x completeness of the cited boxes, one to one,
                times 0 if the reasoning's conclusion contradicts the answer,
                times 1/2 if the reasoning neither concludes nor names the answer.

The completeness of a citation is what it says besides its box (`reward.reasoning`).

A response without reasoning, or whose answer is none to the question (a yes/no question without
either, letters that are no choices), has nothing that could agree and scores 0. So does one without
final boxes if the reference has some; if it has none, there is nothing to cite: 1.

A conclusion is only what is stated as one: "the answer is B", "Therefore, yes.", "this supports
option B", or an option in brackets behind a finding, "shows an opacity (choice B)"; but not if its
sentence denies, supposes or compares. The last statement counts. For an open question it is one
only if it can be compared with the answer (`reward.contradiction`): "the answer is: the heart"
does not say whether there is an effusion. A reasoning that states no conclusion should name the
answer: half of the words of an open answer or of the chosen options.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import islice

from reward.answers import is_answer, parse_letters, parse_yes_no
from reward.boxes_in_text import Box
from reward.contradiction import contradicts
from reward.ground_truth import GroundTruth
from reward.grounding import MOST_MATCHED, iou, matched_values
from reward.reasoning import Citation, completeness
from reward.report_words import STOP_WORDS
from reward.response import Region, Response
from reward.text import stem

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
# "the answer is based on", "is supported by"
_EXPLAINS = re.compile(
    r"(?: (?:based|founded)\s++(?:up)?on | (?:supported|confirmed|shown|explained)\s++by"
    r" | derived\s++from | (?:consistent|in\s++(?:line|keeping))\s++with | because | since )\b",
    re.IGNORECASE | re.VERBOSE,
)
_STATEMENT_END = re.compile(r"[\n;]|\.(?=\s|\Z)")
_WORD = re.compile(r"[^\W_]++")
_LONGEST_STATEMENT = 300
_MOST_MARKS = 8
_MOST_KEYWORDS = 100
_MOST_COMPARED = 20  # conclusions of an open question, which take longer


def alignment_score(
    response: Response,
    final: Sequence[Region],
    cited: Sequence[Citation],
    ground_truth: GroundTruth,
) -> float:
    """Score a response's reasoning against its own answer and boxes.

    Args:
        response: the response.
        final: its final regions, with boxes in [0, 1].
        cited: what its reasoning cites, with boxes in [0, 1].
        ground_truth: gives the question's type, its choices, and whether it has boxes; whether the
            answer is right does not matter.
    """
    think, answer = response.think, response.answer
    if not think or not answer or not is_answer(answer, ground_truth):
        return 0.0
    agreement = _agreement(think, answer, ground_truth)
    if not final:
        return float(not ground_truth.regions) * agreement
    return agreement * _cited_share(final, cited)


def _cited_share(final: Sequence[Region], cited: Sequence[Citation]) -> float:
    """Return the mean over the final boxes of IoU x completeness of the cited boxes, one to one."""
    by_box: dict[Box | None, Citation] = {}
    for citation in sorted(cited, key=lambda citation: not citation.states):
        by_box.setdefault(citation.region.box, citation)
    distinct_boxes = list(by_box.values())[: 2 * MOST_MATCHED]  # bounds the time
    values = [
        [_support(name, box, citation) for citation in distinct_boxes]
        for name, box in final[:MOST_MATCHED]
    ]
    return sum(matched_values(values)) / len(final) if by_box else 0.0


def _support(name: str, box: Box | None, citation: Citation) -> float:
    overlap = iou(box, citation.region.box)
    return overlap * completeness(citation, name) if overlap else 0.0


def _agreement(think: str, answer: str, ground_truth: GroundTruth) -> float:
    """Return 0 if the reasoning contradicts the answer, 1 if it leads to it, else 1/2."""
    is_contradicted = _is_contradicted(think, answer, ground_truth)
    if is_contradicted is None:
        return 1.0 if _names_answer(think, answer, ground_truth) else 0.5
    return float(not is_contradicted)


def _is_contradicted(think: str, answer: str, ground_truth: GroundTruth) -> bool | None:
    """Return whether the conclusion contradicts the answer, None if there is no conclusion."""
    is_open = ground_truth.question_type == "open"
    for conclusion in islice(_conclusions(think), _MOST_COMPARED if is_open else None):
        statement = _statement(think, conclusion.end())
        is_weak = conclusion["weak"] is not None
        verdict = _contradicts(statement, answer, ground_truth, is_weak)
        if verdict is not None:
            return verdict
    if ground_truth.question_type in ("single", "multi"):
        return _marks_another_option(think, answer, ground_truth)
    return None


def _names_answer(think: str, answer: str, ground_truth: GroundTruth) -> bool:
    """Return whether half of the words of an open answer or of the chosen options are there."""
    if ground_truth.question_type == "closed":
        return False
    text = answer
    if ground_truth.choices and ground_truth.question_type != "open":
        letters = parse_letters(answer, ground_truth.choices) or ()
        text = " ".join(ground_truth.choices[letter] for letter in letters)
    words = _words(text)
    return len(words & _words(think)) >= max(1, len(words) / 2)


def _words(text: str) -> set[str]:
    return set(map(stem, set(_WORD.findall(text.lower())) - STOP_WORDS))


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
        is_none = is_weak or not statement or _EXPLAINS.match(statement)
        return None if is_none else contradicts(statement, answer)
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


def _marks_another_option(think: str, answer: str, ground_truth: GroundTruth) -> bool | None:
    """Return whether the last option marked is not in the answer, None if none is marked."""
    marks = [*_MARKED_OPTION.finditer(think), *_CHOSEN_OPTION.finditer(think)]
    marks.sort(key=re.Match.start, reverse=True)
    for mark in marks[:_MOST_MARKS]:
        start = _sentence_start(think, mark.start())
        is_denied = _DENIES.search(think, start, mark.start())
        if is_denied or _DENIES.search(_statement(think, mark.end())):
            continue
        chosen = parse_letters(answer, ground_truth.choices)
        return chosen is not None and mark[1].upper() not in chosen
    return None
