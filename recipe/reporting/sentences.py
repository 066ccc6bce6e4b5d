"""A reasoning taken apart into sentences and the boxes that each of them cites."""

import re
from collections.abc import Callable

from reward.numbers import Box, cited_groups
from reward.response import Region, cited_regions

# A full stop, a question mark or a line end closes a sentence; one inside a box or a number is
# not followed by white space and a capital.
_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(*])|\n+")

Part = tuple[str, int]
"""A piece of text and the position of the region that it cites, -1 for none."""


def sentences(
    text: str, place: Callable[[Region], int] = lambda region: -1
) -> list[tuple[Part, ...]]:
    """The sentences of a free text, in order, each as parts that join to it.

    Args:
        text: a reasoning as the model wrote it.
        place: gives for each box cited, valid or not, a number to refer to it by.
    """
    cited: list[tuple[int, int, Region]] = [
        (group.start, group.end, region)
        for group, region in zip(cited_groups(text), cited_regions(text), strict=True)
    ]
    begin, found = 0, []
    for end, following in [*((m.start(), m.end()) for m in _END.finditer(text)), (len(text),) * 2]:
        if any(first < end < last for first, last, _ in cited):
            continue  # a line end within a box
        parts = _parts(text, begin, end, [each for each in cited if begin <= each[0] < end], place)
        if parts:
            found.append(parts)
        begin = following
    return found


def _parts(
    text: str,
    begin: int,
    end: int,
    cited: list[tuple[int, int, Region]],
    place: Callable[[Region], int],
) -> tuple[Part, ...]:
    parts: list[Part] = []
    position = begin
    for first, last, region in cited:
        parts += [(text[position:first], -1), (text[first:last], place(region))]
        position = last
    parts.append((text[position:end], -1))
    return tuple(part for part in parts if part[0])


class Numbered:
    """Gives each distinct box a number, from 0, in the order of first use."""

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self._numbers: dict[Box, int] = {}

    def __call__(self, region: Region) -> int:
        """The number of a region's box; -1 where it has none that can be drawn."""
        if region.box is None:
            return -1
        if region.box not in self._numbers:
            self._numbers[region.box] = len(self.regions)
            self.regions.append(region)
        return self._numbers[region.box]
