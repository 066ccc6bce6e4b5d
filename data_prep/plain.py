"""Reasoning whose boxes all stand as `[1, 2, 3, 4]`: read and rewritten at little cost."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from reward.numbers import MOST_BRACKETS, Box
from reward.response import Region, cited_regions, name_before

_BOX = re.compile(r"\[(\d{1,6}), ?(\d{1,6}), ?(\d{1,6}), ?(\d{1,6})\]")
# Round brackets that hold words or a plain box only; "inf" and "nan" may be numbers.
_ROUND_PAIR = re.compile(r"\((?:\[[\d, ]*\]|(?!\s*[+-]?(?i:inf|nan))[^()\[\]\d]*)\)")


class PlainText(NamedTuple):
    """A text taken apart at its boxes: `gaps` are what stands before, between and after them."""

    gaps: list[str]
    boxes: list[Box]


def read_plain(text: str) -> PlainText | None:
    """The text taken apart if all its boxes are good ones in the usual form.

    None tells nothing; a result, that `cited_groups` would find just these boxes.
    """
    # A gap, the four numbers of a box, the next gap, and so on.
    parts = _BOX.split(text)
    gaps = parts[::5]
    if len(gaps) != text.count("[") + 1 or "<" in text:
        return None
    if "(" in text and "(" in _ROUND_PAIR.sub("", text):
        return None
    x1, y1, x2, y2 = (map(float, parts[side::5]) for side in (1, 2, 3, 4))
    boxes = list(zip(x1, y1, x2, y2, strict=True))
    if all(left < right and top < bottom for left, top, right, bottom in boxes):
        return PlainText(gaps, boxes)
    return None


def rewrite_plain(text: PlainText, mapping: Callable[[Box], Box]) -> tuple[str, tuple[Region, ...]]:
    """The text with each box mapped, and what `cited_regions` finds in it.

    `mapping` takes and returns `x1, y1, x2, y2`; what it returns has area, in whole numbers.
    """
    parts: list[str] = []
    regions: list[Region] = []
    name: str | None = None
    for gap, source in zip(text.gaps, text.boxes, strict=False):
        x1, y1, x2, y2 = box = mapping(source)
        name = name_before(gap, name)
        regions.append(Region(name, box))
        parts += (gap, f"[{int(x1)}, {int(y1)}, {int(x2)}, {int(y2)}]")
    parts.append(text.gaps[-1])
    rewritten = "".join(parts)
    if len(regions) + rewritten.count("(") > MOST_BRACKETS:
        return rewritten, cited_regions(rewritten)
    return rewritten, tuple(regions)
