"""Boxes written as numbers in a text, and the region names in the words before them."""

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2: top-left and bottom-right corner."""

MOST_BRACKETS = 1000
"""Most brackets that are read in a text."""

# Possessive quantifiers and contents without brackets: no text makes these patterns backtrack.
_INNER = r"[^\[\]()<>]"
_IN_BRACKETS = rf"""
    \[(?P<square>{_INNER}*+)[\])]            # [1, 2, 3, 4]
    | \((?P<round>{_INNER}*+)[\])]           # (1, 2, 3, 4)
    """
_BRACKET = re.compile(_IN_BRACKETS, re.VERBOSE)
_CITATION = re.compile(
    rf"""
    <box>(?P<bare>{_INNER}++)(?=</box>)      # <box>1, 2, 3, 4</box>
    | {_IN_BRACKETS}
    """,
    re.IGNORECASE | re.VERBOSE,
)
_SEPARATOR = re.compile(r"\s*+[,;]\s*+|\s++")
_NUMBER = r"""
    (?![^\s,;]{33})                          # at most 32 characters
    [+-]?
    (?: [0-9]++ (?:\.[0-9]*+)? | \.[0-9]++ | inf | nan )
    (?: e[+-]?[0-9]++ )?
    """
_NUMBERS = re.compile(
    rf"{_NUMBER} (?: (?:{_SEPARATOR.pattern}) {_NUMBER} )*+", re.IGNORECASE | re.VERBOSE
)
_LONGEST_BRACKET = 1000


class Group(NamedTuple):
    """A bracket with numbers, `text[start:end]`; `box` is None if they are not a valid box."""

    start: int
    end: int
    box: Box | None


_Bracket = tuple[int, int, bool, tuple[float, ...] | None]


# The reasoning and the final location have mostly the same boxes.
@lru_cache(maxsize=1024)
def numbers_in(text: str) -> tuple[float, ...] | None:
    """Read numbers separated by commas, semicolons or spaces.

    `inf` and `nan` count as numbers, so that a box with one of them is still seen as a box.

    Returns:
        The numbers, or None if the text holds anything else.
    """
    stripped = text.strip()
    if len(stripped) > _LONGEST_BRACKET or not _NUMBERS.fullmatch(stripped):
        return None
    parts = _SEPARATOR.split(stripped)
    try:
        return tuple(map(float, parts))
    except ValueError:  # "inf" with an exponent
        return (math.nan,) * len(parts)


def to_box(numbers: Sequence[float] | None) -> Box | None:
    """Return four finite numbers that span an area as a box, anything else as None."""
    if numbers is None or len(numbers) != 4:
        return None
    x1, y1, x2, y2 = numbers
    # Comparisons with NaN are false, so this refuses NaN as well as infinities.
    if -math.inf < x1 < x2 < math.inf and -math.inf < y1 < y2 < math.inf:
        return (x1, y1, x2, y2)
    return None


def box_text(box: Box) -> str:
    """Write a box as `[x1, y1, x2, y2]`, rounded to integers."""
    x1, y1, x2, y2 = box
    return f"[{round(x1)}, {round(y1)}, {round(x2)}, {round(y2)}]"


def boxes_in(text: str) -> list[Box | None]:
    """Return the boxes of a text that should hold nothing else, None for an unreadable one."""
    brackets = _brackets(text, _BRACKET)
    if brackets:
        return [to_box(numbers) for *_, numbers in brackets]
    return [to_box(numbers_in(text.strip(" \t\r\n[]()")))]


# A reasoning is read for its boxes, and then for what its sentences say about them.
@lru_cache(maxsize=16)
def cited_groups(text: str) -> tuple[Group, ...]:
    """Return the brackets of a free text that are boxes, valid or not.

    A bracket counts as a box if it holds four numbers, or, as a failed try, three or more in square
    brackets; so `[3]` and `(see 1, 2)` do not. Two brackets `(x1, y1), (x2, y2)` are one box.
    """
    return tuple(
        Group(start, end, to_box(numbers))
        for start, end, is_square, numbers in _brackets(text, _CITATION)
        if numbers and (len(numbers) == 4 or (is_square and len(numbers) >= 3))
    )


def _brackets(text: str, pattern: re.Pattern[str]) -> list[_Bracket]:
    """Return start, end, whether it is square, and numbers of every innermost bracket.

    Neighbouring brackets of two numbers each are joined into one of four.
    """
    brackets: list[_Bracket] = []
    for match in islice(pattern.finditer(text), MOST_BRACKETS):
        kind, (start, end) = str(match.lastgroup), match.span()
        numbers = numbers_in(match[kind])
        if kind == "bare":
            start = match.start(kind)
        if numbers and len(numbers) == 2 and brackets:
            last_start, last_end, _, last_numbers = brackets[-1]
            is_near = not text[last_end:start].strip(" ,\t\r\n")
            if is_near and last_numbers and len(last_numbers) == 2:
                brackets[-1] = (last_start, end, True, last_numbers + numbers)
                continue
        brackets.append((start, end, kind != "round", numbers))
    return brackets


def word_set(words: str) -> frozenset[str]:
    """Return words separated by spaces as a set."""
    return frozenset(words.split())


_WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")
_REF_START = re.compile(r"<ref\s*+>", re.IGNORECASE)
_REGION_TAG = re.compile(r"</ref\s*+>|</?box\s*+>", re.IGNORECASE)
_CLAUSE = re.compile(r"[^.,;:!?()\[\]<>\n]+")
_MOST_WORDS = 6
_LONGEST_NAME = 200
_ANATOMY = word_set(
    "left right bilateral upper mid middle lower lung lungs zone zones hilar structures hilum "
    "hila apical apex costophrenic angle angles hemidiaphragm hemidiaphragms diaphragm "
    "clavicle clavicles trachea spine aortic arch aorta mediastinum mediastinal svc superior "
    "vena cava cardiac silhouette heart cavoatrial junction atrium carina abdomen base pleura"
)
_FILLERS = word_set(
    "a an the this that these those in on at of to from with within and or over near by for "
    "as is are was were be has have shows show showing see seen region regions box bbox area "
    "located location coordinates coordinate coords 2d label bounding around both i we there "
    "it its into along between across under above below behind involving including marked "
    "highlighted covering"
)


def words_before(text: str) -> str:
    """Return the region name at the end of a text, "" if there is none.

    Fillers ("at", "region") and punctuation at the end are skipped. The name is then the run of
    anatomical words at the end, or, if there is none, the words up to the next article,
    preposition or punctuation, six at most: `"opacity of left lower lung zone (region "` gives
    `"left lower lung zone"`.
    """
    if "<" in text:
        text = _REGION_TAG.sub(" ", _REF_START.sub(";", text))
    clauses = [clause for clause in _CLAUSE.findall(text) if not clause.isspace()]
    names = map(_name_at_end, clauses[:-3:-1])  # the last two, from the end
    return next(filter(None, names), "")


# Responses to a question use the same phrases.
@lru_cache(maxsize=1024)
def _name_at_end(clause: str) -> str:
    words = _WORD.findall(clause)
    while words and words[-1].lower() in _FILLERS:
        words.pop()
    is_anatomy = bool(words) and words[-1].lower() in _ANATOMY
    start = len(words)
    for word in map(str.lower, reversed(words[-_MOST_WORDS:])):
        if word in _FILLERS or (is_anatomy and word not in _ANATOMY):
            break
        start -= 1
    return " ".join(words[start:])


def name_words(name: str) -> frozenset[str]:
    """Return the words of a region's name in lower case, without plural endings and fillers."""
    words = {word.lower() for word in _WORD.findall(name)} - _FILLERS
    return frozenset(
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
        for word in words
    )


# A few names come again with every response.
@lru_cache(maxsize=4096)
def name_similarity(name: str, reference: str) -> float:
    """Return the similarity of two region names, in [0, 1]: shared words over all words.

    The similarity is 1 if either name is empty: a name that is missing cannot be wrong. A name
    without words, such as "-", is not empty.
    """
    if not name or not reference or name == reference:
        return 1.0
    words, reference_words = name_words(name[:_LONGEST_NAME]), name_words(reference[:_LONGEST_NAME])
    if not reference_words:
        return 1.0
    return len(words & reference_words) / len(words | reference_words)
