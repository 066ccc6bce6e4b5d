"""Boxes in a form that no reader knows, found by their four numbers.

Such a box would stay in the dataset's frame, or be lost, without a word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from reward.numbers import cited_groups

_NUMBER = r"\d{1,6}(?:\.\d+)?"
_LABEL = r"(?:to|and|through|by|(?:x|y)_?(?:[012]|min|max)?|left|top|right|bottom|width|height|w|h)"
# What may stand between two coordinates: marks, a unit, and perhaps a word or a label. No mark that
# ends a sentence.
_BETWEEN = rf"\s?(?:px|pixels?|%)?[^\w.!?]{{1,8}}(?:{_LABEL}[^\w.!?]{{1,5}}){{0,3}}"
# It begins with a set of characters, which `re` looks for fastest.
_FOUR = re.compile(
    rf"[0-9](?<![\w.][0-9])\d{{0,5}}(?:\.\d+)?(?:{_BETWEEN}{_NUMBER}){{3}}(?![\w.]*\d)",
    re.IGNORECASE,
)
_DIGIT, _DIGITS = re.compile("[0-9]"), re.compile("[0-9]+")
_LONE_NUMBER = re.compile(r"(?<![\w.])\d+")
# Ribs and the like are counted in smaller numbers; a box within so few units is none.
_LEAST = 16
_ANSWER = re.compile(
    r"<(answer|think)\s*>.*?(?:</\1\s*>|(?=<location\s*>)|$)", re.IGNORECASE | re.DOTALL
)
_REGION_TAG = re.compile(r"<(?:ref|box)\b", re.IGNORECASE)
_SENTENCE_END = "!"


def has_unread(text: str) -> bool:
    """Whether a free text holds what seems to be a box, beside those that are read as such."""
    if _FOUR.search(text) is None:
        return False
    gaps, position = [], 0
    for group in cited_groups(text):
        gaps.append(text[position : group.start])
        position = group.end
    return has_unread_between([*gaps, text[position:]])


def has_unread_between(gaps: Sequence[str]) -> bool:
    """The same for the pieces of a text between its boxes."""
    text = _SENTENCE_END.join(gaps)
    if _DIGIT.search(text) is None:
        return False
    return any(
        max(map(int, _LONE_NUMBER.findall(match[0])), default=0) >= _LEAST
        for match in _FOUR.finditer(text)
    )


def loses_regions(response: str, regions: int) -> bool:
    """Whether a response holds more boxes, or names of regions, than the `regions` read from it.

    What stands in its answer or in a reasoning does not count.
    """
    # The usual case: no number is left over.
    if regions and len(_DIGITS.findall(response)) <= 4 * regions:
        return False
    told = _ANSWER.sub(" ", response)
    if not regions and _REGION_TAG.search(told):
        return True
    return len(_FOUR.findall(told)) > regions
