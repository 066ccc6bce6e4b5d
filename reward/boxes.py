"""Geometry of boxes in normalised coordinates, and their one-to-one matching.

Boxes are `x1, y1, x2, y2` in [0, 1]; None stands for a box that was given but has no area in the
image, which overlaps nothing.
"""

from collections.abc import Sequence

from reward.numbers import Box
from reward.response import Region

MOST_MATCHED = 64
"""Boxes that one side has more than the other by a larger number are counted but not matched, which
bounds the time."""

ROUNDING = 1e-9
SAME_BOX = 0.9
MOST_DISTINCT = 64


def iou(predicted: Box | None, reference: Box | None) -> float:
    """Return the intersection over union, 0 where either is no box."""
    if predicted is None or reference is None:
        return 0.0
    ax1, ay1, ax2, ay2 = predicted
    bx1, by1, bx2, by2 = reference
    width = (ax2 if ax2 < bx2 else bx2) - (ax1 if ax1 > bx1 else bx1)
    height = (ay2 if ay2 < by2 else by2) - (ay1 if ay1 > by1 else by1)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared
    return min(shared / union, 1.0)


def is_above(value: float, threshold: float) -> bool:
    """Whether an IoU is above a threshold by more than rounding, so that 0.75 is not above 0.75."""
    return value > threshold + ROUNDING


def matched_values(values: Sequence[Sequence[float]]) -> list[float]:
    """Match rows and columns one to one so that the sum of the values is the largest there is.

    Args:
        values: m x n matrix of values >= 0, as rows of equal length.

    Returns:
        The min(m, n) matched values. Exact: scipy's `linear_sum_assignment`, which is passed over
        where the best columns of all rows differ, since they are then the best matching, and for
        2 x 2 and 3 x 3, where trying all is several times faster.
    """
    if not values or not values[0]:
        return []
    if len(values[0]) == 1:
        return [max(row[0] for row in values)]
    if len(values) == 1:
        return [max(values[0])]
    best = list(map(max, values))
    if len({row.index(value) for row, value in zip(values, best, strict=True)}) == len(best):
        return best
    if len(values) == len(values[0]) <= 3:
        return list(max(_matchings(values), key=sum))
    # Takes half a second to import, which the data preparation, for one, does without.
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    matrix = np.array(values)
    chosen: list[float] = matrix[linear_sum_assignment(matrix, maximize=True)].tolist()
    return chosen


def _matchings(values: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    """Return the values of every matching of a 2 x 2 or 3 x 3 matrix."""
    if len(values) == 2:
        (a, b), (c, d) = values
        return [(a, d), (b, c)]
    (a, b, c), (d, e, f), (g, h, i) = values
    return [(a, e, i), (a, f, h), (b, d, i), (b, f, g), (c, d, h), (c, e, g)]


def iou_matrix(
    predicted: Sequence[Box | None], reference: Sequence[Box | None]
) -> list[list[float]]:
    """Return the IoU of every pair: a row for each predicted box, up to `MOST_MATCHED` too many."""
    rows = []
    for box in predicted[: len(reference) + MOST_MATCHED]:
        row = [0.0] * len(reference)
        rows.append(row)
        if box is None:
            continue
        # `iou`, written out: most of the time goes here.
        ax1, ay1, ax2, ay2 = box
        for column, target in enumerate(reference):
            if target is None:
                continue
            bx1, by1, bx2, by2 = target
            if bx1 < ax2 and ax1 < bx2 and by1 < ay2 and ay1 < by2:
                shared = ((ax2 if ax2 < bx2 else bx2) - (ax1 if ax1 > bx1 else bx1)) * (
                    (ay2 if ay2 < by2 else by2) - (ay1 if ay1 > by1 else by1)
                )
                value = shared / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared)
                row[column] = value if value < 1 else 1.0
    return rows


def matched_ious(predicted: Sequence[Box | None], reference: Sequence[Box | None]) -> list[float]:
    """Return one IoU for each of max(|P|, |G|) boxes under the matching with the largest sum.

    A box without a partner has 0. Empty where there are no boxes on either side.
    """
    rows = predicted[: len(reference) + MOST_MATCHED]
    columns = reference[: len(predicted) + MOST_MATCHED]
    matched = matched_values([[iou(box, target) for target in columns] for box in rows])
    return matched + [0.0] * (max(len(predicted), len(reference)) - len(matched))


def distinct(regions: Sequence[Region]) -> list[Region]:
    """Return regions without those that repeat a box before them (IoU above `SAME_BOX`).

    A text names the same place again and again, and how often says nothing.
    """
    kept: list[Region] = []
    for region in regions:
        box = region.box
        if not kept or box is None or len(kept) > MOST_DISTINCT or not _is_among(box, kept):
            kept.append(region)
    return kept


def _is_among(box: Box, regions: Sequence[Region]) -> bool:
    # Sides are 1 at most, so corners further apart than this leave too little in common.
    lowest, highest = box[0] - (1 - SAME_BOX), box[0] + (1 - SAME_BOX)
    for _, other in regions:
        if other is not None and lowest < other[0] < highest and iou(box, other) > SAME_BOX:
            return True
    return False
