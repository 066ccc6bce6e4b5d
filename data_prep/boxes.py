"""How the boxes of a response agree with those of its reasoning."""

from __future__ import annotations

from collections.abc import Sequence

from reward.numbers import Box
from reward.response import Region


def overlap(first: Box, second: Box) -> float:
    """Intersection over union of two boxes with area."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (areas[0] + areas[1] - width * height)


def agreement(final: Sequence[Region], cited: Sequence[Region]) -> tuple[int, float | None]:
    """How many final boxes the reasoning cites to the unit, and the mean IoU with their nearest.

    The mean is None without a final box, and 0 where the reasoning cites none.
    """
    boxes = [region.box for region in cited if region.box is not None]
    wanted = [region.box for region in final if region.box is not None]
    if not wanted:
        return 0, None
    if all(box in boxes for box in wanted):
        return len(wanted), 1.0
    best = [1.0 if box in boxes else _best(box, boxes) for box in wanted]
    return sum(box in boxes for box in wanted), sum(best) / len(best)


def _best(box: Box, boxes: Sequence[Box]) -> float:
    return max((overlap(box, other) for other in boxes), default=0.0)
