"""Unusual forms of boxes: converted to `[x1, y1, x2, y2]`, or reported as unread."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from reward.boxes_in_text import Box, box_text, cited_groups
from reward.response import Region, names_before

_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)"
_GAP = r"\s*[,;]\s*|\s+"
_FOUR_NUMBERS = rf"\s*({_NUMBER})(?:{_GAP})({_NUMBER})(?:{_GAP})({_NUMBER})(?:{_GAP})({_NUMBER})\s*"
# Braces, full-width and lenticular brackets, angle brackets, bars.
_UNUSUAL_BRACKETS = re.compile(
    "|".join(
        re.escape(opening) + _FOUR_NUMBERS + re.escape(closing)
        for opening, closing in ("{}", "［］", "（）", "【】", "〔〕", "⟨⟩", "<>", "||")
    )
)
# [x1=10, y1: 20, …], (xmin 10, ymin 20, …), only in this order of the corners.
_LABELS = (
    r"x\s*_?(?:1|min)|left",
    r"y\s*_?(?:1|min)|top",
    r"x\s*_?(?:2|max)|right",
    r"y\s*_?(?:2|max)|bottom",
)
_LABELLED = re.compile(
    r"[\[({]\s*"
    + r"\s*[,;]\s*".join(rf"(?:{label})\s*[=:]?\s*({_NUMBER})" for label in _LABELS)
    + r"\s*[\])}]",
    re.IGNORECASE,
)
_WIDE_COMMA = re.compile(r"(\d)\s*([，、；])\s*(?=[\d.+-])")

_COORDINATE = r"\d{1,6}(?:\.\d+)?"
_LABEL = r"(?:to|and|through|by|(?:x|y)_?(?:[012]|min|max)?|left|top|right|bottom|width|height|w|h)"
# Between two coordinates: punctuation, except the end of a sentence, a unit, a word or a label.
_BETWEEN = rf"\s?(?:px|pixels?|%)?[^\w.!?]{{1,8}}(?:{_LABEL}[^\w.!?]{{1,5}}){{0,3}}"
# The pattern begins with a set of characters, which `re` searches fastest.
_NUMBERS_IN_A_ROW = re.compile(
    rf"[0-9](?<![\w.][0-9])\d{{0,5}}(?:\.\d+)?(?:{_BETWEEN}{_COORDINATE}){{3}}(?![\w.]*\d)",
    re.IGNORECASE,
)
_WHOLE_NUMBER = re.compile(r"(?<![\w.])\d+")
# Four numbers of which none is this large are no box: they count ribs and the like.
_SMALLEST_CORNER = 16
_ANSWER = re.compile(
    r"<(answer|think)\s*>.*?(?:</\1\s*>|(?=<location\s*>)|$)", re.IGNORECASE | re.DOTALL
)
_REGION_TAG = re.compile(r"<(?:ref|box)\b", re.IGNORECASE)
_SENTENCE_END = "!"


def plain_brackets(text: str) -> str:
    """Return the text with boxes in unusual brackets or with labels written as `[a, b, c, d]`.

    `{10, 20, 30, 40}`, `【10, 20, 30, 40】` and `[x1=10, y1=20, x2=30, y2=40]` are such boxes.
    Full-width commas between numbers become plain ones. Anything but four numbers is unchanged.
    """
    text = _WIDE_COMMA.sub(_plain_comma, text)
    return _LABELLED.sub(_plain_box, _UNUSUAL_BRACKETS.sub(_plain_box, text))


def _plain_comma(match: re.Match[str]) -> str:
    return f"{match[1]}{'; ' if match[2] == '；' else ', '}"


def _plain_box(match: re.Match[str]) -> str:
    return "[" + ", ".join(number for number in match.groups() if number is not None) + "]"


class SplitText(NamedTuple):
    """A text split at its boxes: `gaps` are the texts before, between and after them."""

    gaps: list[str]
    boxes: list[Box | None]  # None for one that is not four finite numbers with area

    def joined(self, boxes: Sequence[Box]) -> str:
        """Return the text with these boxes instead of its own."""
        parts = [
            part
            for gap, box in zip(self.gaps, boxes, strict=False)
            for part in (gap, box_text(box))
        ]
        return "".join([*parts, self.gaps[-1]])

    def regions(self, boxes: Sequence[Box]) -> tuple[Region, ...]:
        """Return the `cited_regions` of the text with these boxes instead of its own."""
        return tuple(map(Region, names_before(self.gaps[:-1]), boxes))


def split_at_boxes(text: str) -> SplitText:
    gaps, boxes, position = [], [], 0
    for start, end, box in cited_groups(text):
        gaps.append(text[position:start])
        boxes.append(box)
        position = end
    return SplitText([*gaps, text[position:]], boxes)


def has_unread_box(gaps: Sequence[str]) -> bool:
    """Return whether the gaps of a free text hold something like a box that was not read."""
    return any(
        max(map(int, _WHOLE_NUMBER.findall(match[0])), default=0) >= _SMALLEST_CORNER
        for match in _NUMBERS_IN_A_ROW.finditer(_SENTENCE_END.join(gaps))
    )


def loses_regions(response: str, regions: int) -> bool:
    """Return whether a response holds more boxes, or names of regions, than were read from it.

    Its answer and its reasoning do not count; `regions` is the number of regions read.
    """
    text = _ANSWER.sub(" ", response)
    if not regions and _REGION_TAG.search(text):
        return True
    return len(_NUMBERS_IN_A_ROW.findall(text)) > regions
