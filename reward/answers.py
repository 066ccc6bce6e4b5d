"""How well an answer agrees with the reference: yes/no, choices by their letters, open answers.

Yes/no and choice answers are decided exactly from how the answer begins or from the options it
names, never from a word somewhere in it. Open answers go by `reward.text`. An answer that wavers
between options scores 0, and so does one of more than `LONGEST_ANSWER` characters.

A choice must read as options as a whole: `B`, `b.`, `(B)`, `B: Normal`, `Normal` (a choice's text),
`Normal (choice B)`, `['A', 'C']`, `A, C`, `A and C`, `Option B because …`, `B. Normal; the angles
are sharp`. `A or C`, `B: text of C` and `B, not A` waver.
"""

import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

from reward.ground_truth import GroundTruth
from reward.text import text_score

_LEAD_IN = re.compile(
    r"""
    [\s*\"'`]*+
    (?: (?:so|thus|therefore|hence)\b [\s,]*+ )?+
    (?: (?:the|my|final|correct|best|right|most|likely)\s++ ){0,4}+
    (?:
        # "answer(s) to this question is:", "option =", "choice - "
        (?:answer|option|choice|conclusion)s?+ (?:\s*+\(s\))?+ [*\s]*+
        (?: to\s++(?:this|the)\s++question\s++ )?+
        (?:
            \b(?: is | are | would\s++be | should\s++be | must\s++be )\b \s*+ :?+
            | [:=]
            | [-–]\s
        ) \s*+
        # "I would choose", "I think it is"
        | i\s++ (?:would\s++)?+ (?:choose|select|pick|answer|think)\s++ (?:it\s++is\b\s*+)?+
        # "it's"
        | it (?: \s++is | ['’]s )\b \s*+
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_CODE_FENCE = re.compile(r"\A```\w*+\s*+|\s*+```\Z")
_JSON = re.compile(
    r"\A\{\s*+ [\"'](?:final_)?(?:answer|choice|option)s?[\"'] \s*+:\s*+ ([^{}]*+) \}\Z",
    re.IGNORECASE | re.VERBOSE,
)
_FULL_WIDTH = str.maketrans("，、；：（）。", ",,;:().")
_LATEX = re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf)\s*+\{([^{}]*+)\}")
_HTML = re.compile(r"</?(?:b|i|u|em|strong|p|br|span|code)\s*+/?>", re.IGNORECASE)
_BULLET = re.compile(r"^[^\S\n]*+(?:[-•*–]|\d{1,2}+[.)])[^\S\n]++", re.MULTILINE)
_STATEMENT = re.compile(r"\banswers?+[*\s]*+(?:\b(?:is|are)\b\s*+:?+|:)", re.IGNORECASE)
_YES_NO_AT_END = re.compile(r",\s++((?:yes|no)[.!]?)\Z", re.IGNORECASE)


def bare_answer(text: str) -> str:
    """Return an answer without mark-up and without the phrase that leads up to it."""
    text = text.strip().translate(_FULL_WIDTH)
    if text.startswith("```"):
        text = _CODE_FENCE.sub("", text)
    json = _JSON.match(text)
    if json:
        text = json[1].strip()
    text = _LATEX.sub(r"\1", _LATEX.sub(r"\1", text))  # they may be nested
    text = _HTML.sub("", text)
    if "\n" in text:
        text = _BULLET.sub("", text)
    if text.startswith("$"):
        text = text.strip("$ ")
    lead_in = _LEAD_IN.match(text)
    return text[lead_in.end() :] if lead_in else text


def stated_answers(text: str) -> list[str]:
    """Return the statements of an answer in a text.

    Returns:
        The texts before the first "answer is" or "answer:", unless empty, and after each of them;
        or a ", yes" at the end. Empty if the text has no such phrase or only begins with it.
    """
    statements = list(_STATEMENT.finditer(text))
    if not statements or (len(statements) == 1 and not statements[0].start()):
        return _YES_NO_AT_END.findall(text)
    starts = [0, *(statement.end() for statement in statements)]
    ends = [*(statement.start() for statement in statements), len(text)]
    pieces = [text[start:end].strip() for start, end in zip(starts, ends, strict=True)]
    return [piece for piece in pieces if piece]


_LETTER = re.compile(
    r"""
    (?: (?:option|choice|answer)s?+ \s*+ :?\s*+ )?+
    [\[({\"'*`]*+
    ([A-Za-z]) (?! [A-Za-z0-9] | ['’][A-Za-z] )
    [\])}\"'*`]*+""",
    re.IGNORECASE | re.VERBOSE,
)
_JOINED_LETTERS = re.compile(r"[A-Z]{2,8}+")
_SPACED_LETTERS = re.compile(r"[A-Z](?:\s++[A-Z]){1,25}+")
_DELIMITER = re.compile(r"\s*+[.:(\-–—=]\s*+[\"'(*`]*+")
_SEPARATOR = re.compile(
    r"""
    [\s\"'*`)\].]*+
    (?: (?: [,;&+/|\n] | \b(?:and|plus|as\s++well\s++as)\b ) [\s\"'*`(\[]*+ )++
    (?: \band\b [\s\"'*`(\[]*+ )?+""",
    re.IGNORECASE | re.VERBOSE,
)
_END = re.compile(
    r"""
    [\"'*`)\]}]*+
    # "is the correct option", "are both present"
    (?: \s++(?:is|are)\s++ (?:both\s++)?+ (?:the\s++)?+
        (?:
            (?: correct | right | true | best | final | most\s++likely | likely
                | present | seen | visible | noted | shown )\b
            (?: \s++(?:answer|option|choice)s?+ )?+
            | (?:answer|option|choice)s?+\b
        )
    )?+
    [\s.!:\"'*`)\]}]*+ \Z""",
    re.IGNORECASE | re.VERBOSE,
)
_REASON = re.compile(
    r"""
    [\s,;.]*+ \b(?: because | since | as | due | given | based )\b
    | ,\s*+ (?: there | it | this | the | which )\b""",
    re.IGNORECASE | re.VERBOSE,
)
_LINK = re.compile(r"[&+/|]|\band\b", re.IGNORECASE)
_WAVERS = re.compile(
    r"""
    [\s,;.(]*+ (?:and\s++)?+
    (?: or | but | however | not | maybe | perhaps | possibly | probably | either | neither
        | unsure | uncertain | unclear | alternatively | also )\b""",
    re.IGNORECASE | re.VERBOSE,
)
_HEDGES = re.compile(
    r"""
    \b(?:could|might|may)\s++be\b
    | \b(?: versus | vs | actually | wait | wrong | incorrect | alternatively
        | on\s++second\s++thought )\b""",
    re.IGNORECASE | re.VERBOSE,
)
# A letter by itself; "A" and "I" before a lower-case word are an article and a pronoun.
_CAPITAL = re.compile(r"\b([B-HJ-Z]|[AI](?!\s++[a-z]))\b(?!['’])")
_NAMED_OPTION = re.compile(r"\b(?:option|choice|means)\s++([A-Za-z])\b", re.IGNORECASE)
_MARK = re.compile(r"\s*+[(\[](?:(?:choice|option|answer)\s++)?+([A-Za-z])[)\]]", re.IGNORECASE)
_ARTICLE = re.compile(
    r"""
    (?: (?: [Ii]n | [Oo]n | [Aa]t | [Tt]here\s++(?:is|are) )\s++ )?+
    (?: (?:[Tt]he|[Aa]n|a)\s++ | A\s++(?=[a-z]) )""",
    re.VERBOSE,
)
_NEW_LINE = re.compile(r"[^\S\n]*+\n\s*+")
_WORD = re.compile(r"[^\W_]+")
_OPENING = re.compile(r"[\s\[({\"'*`]*+(?:both\b\s*+)?+", re.IGNORECASE)
_JOINING_WORDS = ("or", "and", "also", "maybe", "possibly")

_Options = tuple[tuple[str, str], ...]
"""Letters and texts of the choices."""


def parse_letters(text: str, choices: Mapping[str, str] | None) -> frozenset[str] | None:
    """Return the letters that an answer names, None if it names none or wavers.

    Args:
        text: the answer.
        choices: letters and texts; without them only letters are understood.
    """
    options = tuple((choices or {}).items())
    letters = _read(bare_answer(text), options)
    stated = {_read(bare_answer(answer), options) for answer in stated_answers(text)} - {None}
    if letters is None or not stated:
        return letters or (stated.pop() if len(stated) == 1 else None)
    return letters if stated == {letters} else None


def _read(text: str, options: _Options) -> frozenset[str] | None:
    text = _NEW_LINE.sub("; ", text)
    letter = _option_with_text(text, options)
    if letter is not None:
        return frozenset(letter)
    if _SPACED_LETTERS.fullmatch(text):
        text = ", ".join(text.split())
    joined = _JOINED_LETTERS.match(text)
    if joined and _END.match(text, joined.end()):
        letters = frozenset(joined[0])
        is_set = len(letters) == len(joined[0]) and letters <= dict(options).keys()
        return letters if is_set else None
    return _read_items(text, options)


def _read_items(text: str, options: _Options) -> frozenset[str] | None:
    """Read options one by one, with separators between them."""
    letters: set[str] = set()
    opening = _OPENING.match(text)
    position = opening.end() if opening else 0
    separator = ""
    while position < len(text):
        item = _read_item(text, position, options)
        if item is None:
            explains = not _LINK.search(separator) and _is_about(letters, text[position:], options)
            return frozenset(letters) if letters and explains else None
        letter, position = item
        if options and letter not in dict(options):
            return None
        letters.add(letter)
        if _END.match(text, position):
            return frozenset(letters)
        match = _SEPARATOR.match(text, position)
        if match is None:
            return None
        separator, position = match[0], match.end()
    return frozenset(letters) or None


def _read_item(text: str, position: int, options: _Options) -> tuple[str, int] | None:
    """Read one option at a position.

    Returns:
        Its letter and where it ends, or None if there is no option.
    """
    by_text = _text_at(text, position, options)
    if by_text is not None:
        return by_text
    match = _LETTER.match(text, position)
    if match is None:
        return None
    letter, end = match[1].upper(), match.end()
    delimiter = _DELIMITER.match(text, end)
    start = delimiter.end() if delimiter else len(text) - len(text[end:].lstrip())
    described = _text_at(text, start, options)
    if described is not None:
        texts = dict(options)
        is_same = _words(texts.get(letter, "")) == _words(texts[described[0]])
        return (letter, described[1]) if letter == described[0] or is_same else None
    if _END.match(text, end):
        return letter, end
    explains = _REASON.match(text, end)
    if not explains and _SEPARATOR.match(text, end):
        return letter, end
    if explains or delimiter or match[0].endswith((")", "]")):
        return (letter, len(text)) if _is_about({letter}, text[end:], options) else None
    return None


def _is_about(letters: set[str], explanation: str, options: _Options) -> bool:
    """Return whether the words after some options neither waver nor name another option."""
    if _WAVERS.match(explanation) or _HEDGES.search(explanation):
        return False
    known = dict(options)
    for pattern in (_CAPITAL, _MARK, _NAMED_OPTION):
        for name in map(str.upper, pattern.findall(explanation)):
            if name not in letters and (not known or name in known):
                return False
    words = f" {' '.join(_words(explanation))} "
    phrases = {letter: f" {' '.join(_words(text))} " for letter, text in options}
    chosen = [phrase for letter, phrase in phrases.items() if letter in letters]
    for letter, phrase in phrases.items():
        is_part = any(phrase in chosen_phrase for chosen_phrase in chosen)
        if letter in letters or is_part or not phrase.strip():
            continue
        if words.startswith(phrase) or any(f" {word}{phrase}" in words for word in _JOINING_WORDS):
            return False
    return True


def _option_with_text(text: str, options: _Options) -> str | None:
    """Return the letter of the one option whose text is the whole answer."""
    words = _words(text)
    letters = [letter for letter, option in options if words and _words(option) == words]
    return letters[0] if len(letters) == 1 else None


def _text_at(text: str, position: int, options: _Options) -> tuple[str, int] | None:
    """Return the option whose text is at a position, and where it ends; the longest wins."""
    article = _ARTICLE.match(text, position)
    start = article.end() if article else position
    for letter, pattern in _patterns(options):
        match = pattern.match(text, position) or pattern.match(text, start)
        if match is None:
            continue
        mark = _MARK.match(text, match.end())
        end = mark.end() if mark and mark[1].upper() == letter else match.end()
        if _END.match(text, end) or _SEPARATOR.match(text, end):
            return letter, end
    return None


# The rollouts of a prompt share their choices, and compiling takes long.
@lru_cache(maxsize=1024)
def _patterns(options: _Options) -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Return a pattern for the text of each option that no other option shares, longest first."""
    words = {letter: tuple(_words(text)) for letter, text in options}
    counts = Counter(words.values())
    unique = [letter for letter, text in words.items() if text and counts[text] == 1]
    unique.sort(key=lambda letter: -len(words[letter]))
    patterns = [r"[\W_]++".join(map(re.escape, words[letter])) + r"s?\b" for letter in unique]
    return tuple(
        (letter, re.compile(pattern, re.IGNORECASE))
        for letter, pattern in zip(unique, patterns, strict=True)
    )


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


LONGEST_ANSWER = 2000

_LEADING = re.compile(
    r"""
    [\s\"'*`(\[]*+
    (yes|no) (?! [\w] | -(?:one|man|go)\b )
    [\"'*`)\]]*+""",
    re.IGNORECASE | re.VERBOSE,
)
_ALONE = re.compile(
    r"""
    # behind any mark: "Yes/no", "Yes—no", "Yes=no", "Yes {no}", "Yes <no>"
    (?: \A | \W ) \s*+
    (yes|no) [\"'*`)\]}>”’»]*+ \s*+
    # before a mark or at the end, but not in "Yes, with no – or little – change"
    (?= [,;.:!?/|&\\=~] | [–—] (?!\s*+or\b) | \Z | \bor\b )""",
    re.IGNORECASE | re.VERBOSE,
)
_WAVERS_AFTER_YES_NO = re.compile(
    r"""
    [\s,;.(]*+ (?: (?:and|but)\s++ )?+
    (?:
        not\s++sure | unsure | uncertain | nope\b | cannot\s++(?:be\s++determined|tell|say)
        # "Yes, maybe." and "Yes, or no", but not "Yes, possibly due to edema"
        | (?: maybe | perhaps | possibly | probably | or | unclear | either )
          (?= \s*+ (?: [.,;!?)] | \Z | (?:yes|no|not|maybe|perhaps)\b ) )
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_DOUBTS = re.compile(
    r"\b or\s++(?:maybe\s++)?+not\b | \b not\s++sure\b | \b or\s++(?:yes|no)\b",
    re.IGNORECASE | re.VERBOSE,
)
_NO_OPINION = re.compile(
    r"\s++(?: doubt | idea | clue | way | answer | comment | opinion | information | one\b )",
    re.IGNORECASE | re.VERBOSE,
)
_YES = re.compile(r"\byes\b", re.IGNORECASE)


def answer_score(
    answer: str | None, ground_truth: GroundTruth, multi_partial: float = 0.0
) -> float:
    """Return how right an answer is, in [0, 1].

    Args:
        answer: the answer, None if there is none.
        ground_truth: the reference.
        multi_partial: what a set of options that is not the right one gets at most; see
            `_share_decided`.

    Returns:
        The `text_score` of an open answer; else 1 for the right one, 0 for a wrong one.
    """
    if answer is None or not answer.strip() or len(answer) > LONGEST_ANSWER:
        return 0.0
    reference = ground_truth.answer
    if ground_truth.question_type == "open":
        return text_score(answer, str(reference))
    if ground_truth.question_type == "closed":
        return float(parse_yes_no(answer) == reference)
    letters = parse_letters(answer, ground_truth.choices) or frozenset()
    right = frozenset(reference)
    if letters == right:
        return 1.0
    if ground_truth.question_type != "multi" or not letters:
        return 0.0
    return multi_partial * _share_decided(letters, right, ground_truth.choices or {})


def _share_decided(
    letters: frozenset[str], right: frozenset[str], choices: Mapping[str, str]
) -> float:
    """Return the share of the options decided rightly, marked or left out, with chance at 0.

    The exact set scores more than any other, and each further right decision never less; so for
    beliefs about options that are independent of each other, no answer gets more in expectation
    than the most likely set. Naming one sure option and leaving out likely ones does not pay.
    """
    options = choices.keys() | letters | right
    decided = len(options) - len(letters ^ right)
    return max(0.0, 2 * decided / len(options) - 1)


def is_answer(answer: str, ground_truth: GroundTruth) -> bool:
    """Return whether a text answers the question, rightly or not."""
    if len(answer) > LONGEST_ANSWER:
        return False
    if ground_truth.question_type == "open":
        return bool(_WORD.search(answer))
    if ground_truth.question_type == "closed":
        return parse_yes_no(answer) is not None
    return parse_letters(answer, ground_truth.choices) is not None


def answer_is_correct(
    answer: str | None, ground_truth: GroundTruth, open_threshold: float = 0.75
) -> bool:
    """Return whether an answer counts as correct in the A-score.

    Closed and choice answers must be exact (the whole set for multi); an open answer must reach
    `open_threshold` in the text score.
    """
    score = answer_score(answer, ground_truth)
    return score >= (open_threshold if ground_truth.question_type == "open" else 1.0)


@lru_cache(maxsize=1024)
def parse_yes_no(text: str) -> Literal["Yes", "No"] | None:
    """Return the side that a yes/no answer takes, None if it takes none or both.

    The answer must begin with the word, so `Normal` and `Not seen` are neither, or state it later
    (`There is an opacity. The answer is yes.`); a second `yes` or `no` by itself after it
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
    rest = text[leading.end() :]
    if _WAVERS_AFTER_YES_NO.match(rest) or _DOUBTS.search(rest):
        return None
    if leading[1].lower() == "yes":
        says_no = "no" in map(str.lower, _ALONE.findall(rest))
        return None if says_no else "Yes"
    return None if _NO_OPINION.match(rest) or _YES.search(rest) else "No"
