"""Reasoning whose boxes all stand as `[1, 2, 3, 4]`: read and rewritten at little cost."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, cast

from reward.numbers import MOST_BRACKETS, Box, box_text
from reward.response import Region, cited_regions, name_before

_BOX = re.compile(r"(\[[0-9]{1,6}, ?[0-9]{1,6}, ?[0-9]{1,6}, ?[0-9]{1,6}\])")
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
    # A gap, a box, the next gap, and so on.
    parts = _BOX.split(text)
    if len(parts) // 2 != text.count("[") or "<" in text:
        return None
    if "(" in text and "(" in _ROUND_PAIR.sub("", text):
        return None
    boxes = list(map(_good_box, parts[1::2]))
    return None if None in boxes else PlainText(parts[::2], cast("list[Box]", boxes))


@lru_cache(maxsize=1024)  # an image has a box for each of its regions, and many texts
def _good_box(text: str) -> Box | None:
    x1, y1, x2, y2 = map(float, text[1:-1].split(","))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def rewrite_plain(text: PlainText, mapping: Callable[[Box], Box]) -> tuple[str, tuple[Region, ...]]:
    """The text with each box mapped, and what `cited_regions` finds in it.

    `mapping` takes and returns `x1, y1, x2, y2`; what it returns has area, in whole numbers.
    """
    parts: list[str] = []
    regions: list[Region] = []
    name: str | None = None
    for gap, source in zip(text.gaps, text.boxes, strict=False):
        box = mapping(source)
        name = name_before(gap, name)
        regions.append(Region(name, box))
        parts += (gap, box_text(box))
    parts.append(text.gaps[-1])
    rewritten = "".join(parts)
    if len(regions) + rewritten.count("(") > MOST_BRACKETS:
        return rewritten, cited_regions(rewritten)
    return rewritten, tuple(regions)
