"""Boxes written as numbers in a text: which brackets are boxes, and where they stand."""

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

MOST_BRACKETS = 1000
"""Brackets of one text that are read; no honest text has as many."""

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2: top-left and bottom-right corner."""

# Possessive quantifiers and contents without brackets: no text makes these backtrack.
_BRACKETS = re.compile(r"[\[(]([^\[\]()<>]*+)[\])]")
_CITATION = re.compile(
    r"(?<=<box>)([^\[\]()<>]++)(?=</box>)|[\[(]([^\[\]()<>]*+)[\])]", re.IGNORECASE
)
# The common case, four plain numbers with commas, is read in one go.
_PLAIN_NUMBER = r"\s*+(-?+[0-9]{1,15}+(?:\.[0-9]{1,15}+)?+)\s*+"
_PLAIN_BOX = re.compile(",".join([_PLAIN_NUMBER] * 4))
_SEPARATOR = re.compile(r"\s*+[,;]\s*+|\s++")
_NUMBER = re.compile(
    r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++|inf|nan)(?:e[+-]?[0-9]++)?", re.IGNORECASE
)
_LONGEST_NUMBER = 32
_LONGEST_BRACKET = 1000


class Group(NamedTuple):
    """A bracket with numbers, `text[start:end]`; `box` is None where they are no valid box."""

    start: int
    end: int
    box: Box | None


_Bracket = tuple[int, int, bool, list[float] | None]
"""Start, end, whether it is square, and the numbers in it if it holds nothing else."""


def numbers_in(text: str) -> list[float] | None:
    """Read numbers separated by commas, semicolons or spaces; None where anything else is there.

    `inf` and `nan` are numbers here, so that a box with one is still seen as a box given.
    """
    plain = _PLAIN_BOX.fullmatch(text)
    if plain is not None:
        return list(map(float, plain.groups()))
    stripped = text.strip()
    if not stripped or len(stripped) > _LONGEST_BRACKET:
        return None
    numbers = []
    for part in _SEPARATOR.split(stripped):
        if len(part) > _LONGEST_NUMBER or not _NUMBER.fullmatch(part):
            return None
        numbers.append(_to_float(part))
    return numbers


def to_box(numbers: Sequence[float] | None) -> Box | None:
    """Return four finite numbers that span an area as a box, else None."""
    if numbers is None or len(numbers) != 4:
        return None
    x1, y1, x2, y2 = numbers
    # Comparisons with NaN are false, so this refuses NaN as well as infinities.
    if -math.inf < x1 < x2 < math.inf and -math.inf < y1 < y2 < math.inf:
        return (x1, y1, x2, y2)
    return None


@lru_cache(maxsize=1024)  # the boxes of an image stand in many texts
def box_text(box: Box) -> str:
    """Write a box as `[x1, y1, x2, y2]`, rounded to integers."""
    x1, y1, x2, y2 = box
    return f"[{round(x1)}, {round(y1)}, {round(x2)}, {round(y2)}]"


def bracket_groups(text: str) -> list[Group]:
    """Return every innermost bracket of a text that should hold boxes only."""
    brackets: list[_Bracket] = [
        (match.start(), match.end(), True, numbers_in(match[1]))
        for match in islice(_BRACKETS.finditer(text), MOST_BRACKETS)
    ]
    return [
        Group(start, end, to_box(numbers)) for start, end, _, numbers in _merged(text, brackets)
    ]


def cited_groups(text: str) -> list[Group]:
    """Return the brackets of a free text that are boxes, valid or not.

    A bracket is a box if it holds four numbers, or, as a failed try, three or more in square
    brackets; so `[3]` and `(see 1, 2)` are not. Two brackets `(x1, y1), (x2, y2)` are one box.
    """
    return [
        Group(start, end, to_box(numbers))
        for start, end, is_square, numbers in _merged(text, _citations(text))
        if numbers and (len(numbers) == 4 or (is_square and len(numbers) >= 3))
    ]


def _citations(text: str) -> list[_Bracket]:
    """Return every innermost bracket, and the contents of a `<box>` that has none."""
    if "<" not in text:
        return [
            (match.start(), match.end(), text[match.start()] == "[", numbers_in(match[1]))
            for match in islice(_BRACKETS.finditer(text), MOST_BRACKETS)
        ]
    brackets: list[_Bracket] = []
    for match in islice(_CITATION.finditer(text), MOST_BRACKETS):
        inner = match[1] if match[1] is not None else match[2]
        is_square = match[1] is not None or match[0][0] == "["
        brackets.append((match.start(), match.end(), is_square, numbers_in(inner)))
    return brackets


def _merged(text: str, brackets: list[_Bracket]) -> list[_Bracket]:
    """Join neighbours with two numbers each into one with four."""
    if not any(numbers and len(numbers) == 2 for _, _, _, numbers in brackets):
        return brackets
    merged: list[_Bracket] = []
    for bracket in brackets:
        start, end, _, numbers = bracket
        if merged and numbers and len(numbers) == 2:
            begin, previous_end, _, previous = merged[-1]
            between = text[previous_end:start]
            if previous and len(previous) == 2 and not between.strip(" ,\t\r\n"):
                merged[-1] = (begin, end, True, previous + numbers)
                continue
        merged.append(bracket)
    return merged


def _to_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
