"""Reasoning whose boxes all stand as `[1, 2, 3, 4]`: read and rewritten at little cost."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from reward.numbers import MOST_BRACKETS, Box
from reward.response import Region, cited_regions, names_before

_BOX = re.compile(r"(\[[0-9]{1,6}, ?[0-9]{1,6}, ?[0-9]{1,6}, ?[0-9]{1,6}\])")
# Round brackets that hold words or a plain box only; "inf" and "nan" may be numbers.
_ROUND_PAIR = re.compile(r"\((?:\[[\d, ]*\]|(?!\s*[+-]?(?i:inf|nan))[^()\[\]\d]*)\)")


class PlainText(NamedTuple):
    """A text taken apart at its boxes, as they are written, and the `gaps` around them."""

    gaps: list[str]
    written: list[str]

    def boxes(self) -> list[Box]:
        return list(map(plain_box, self.written))


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
    written = parts[1::2]
    return PlainText(parts[::2], written) if all(map(_is_good, written)) else None


@lru_cache(maxsize=1024)  # an image has a box for each of its regions, and many texts
def _is_good(written: str) -> bool:
    x1, y1, x2, y2 = plain_box(written)
    return x1 < x2 and y1 < y2


def plain_box(written: str) -> Box:
    """Reads a box in the usual form, `[1, 2, 3, 4]`."""
    x1, y1, x2, y2 = map(float, written[1:-1].split(","))
    return x1, y1, x2, y2


def rewrite_plain(
    text: PlainText, mapping: Callable[[str], tuple[Box, str]]
) -> tuple[str, tuple[Region, ...]]:
    """The text with each box mapped, and what `cited_regions` finds in it.

    `mapping` takes a box as it is written, and gives the new one, with area and in whole numbers,
    and how that is written.
    """
    mapped = list(map(mapping, text.written))
    boxes = [box for box, _ in mapped]
    parts = [""] * (len(text.gaps) + len(boxes))
    parts[::2], parts[1::2] = text.gaps, [written for _, written in mapped]
    rewritten = "".join(parts)
    if len(boxes) + rewritten.count("(") > MOST_BRACKETS:
        return rewritten, cited_regions(rewritten)
    return rewritten, tuple(map(Region, names_before(text.gaps[:-1]), boxes))
