"""Geometry of boxes in normalised coordinates, and their one-to-one matching.

Boxes are `x1, y1, x2, y2` in [0, 1]; None stands for a box that was given but has no area in the
image, which overlaps nothing.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from reward.ground_truth import GroundTruth, normalise
from reward.numbers import Box
from reward.response import Region

MOST_MATCHED = 64
"""Predicted boxes past this number are counted but not matched, which bounds the time."""

_SMALLEST_AREA = 1e-12


class Overlap(NamedTuple):
    """How a predicted box lies to a reference box."""

    iou: float
    """Intersection over union, in [0, 1]."""
    giou: float
    """Generalised IoU, in (-1, 1]: IoU minus the share of the hull that neither box covers
    (Rezatofighi et al., CVPR 2019)."""
    excess: float
    """Predicted area outside the reference, as a share of the image, in [0, 1]."""


class Pair(NamedTuple):
    """Indices of a predicted and a reference box matched to each other, and their value."""

    predicted: int
    reference: int
    value: float


def usable_box(region: Region, ground_truth: GroundTruth) -> Box | None:
    """Return a region's box in normalised coordinates, None where nothing of it is in the image."""
    if region.box is None:
        return None
    x1, y1, x2, y2 = normalise(region.box, ground_truth)
    return (x1, y1, x2, y2) if (x2 - x1) * (y2 - y1) > _SMALLEST_AREA else None


def overlap(predicted: Box, reference: Box) -> Overlap:
    """Measure two boxes that both have an area."""
    ax1, ay1, ax2, ay2 = predicted
    bx1, by1, bx2, by2 = reference
    area = (ax2 - ax1) * (ay2 - ay1)
    width = min(ax2, bx2) - max(ax1, bx1)
    height = min(ay2, by2) - max(ay1, by1)
    shared = width * height if width > 0 and height > 0 else 0.0
    union = area + (bx2 - bx1) * (by2 - by1) - shared
    hull = (max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1))
    iou = min(shared / union, 1.0)
    return Overlap(iou, iou - max(hull - union, 0.0) / hull, max(area - shared, 0.0))


def iou(predicted: Box | None, reference: Box | None) -> float:
    """Return the intersection over union, 0 where either is no box."""
    return overlap(predicted, reference).iou if predicted and reference else 0.0


def is_above(value: float, threshold: float) -> bool:
    """Whether an IoU is above a threshold by more than rounding, so that 0.75 is not above 0.75."""
    return value > threshold + 1e-9


def match(n_predicted: int, n_reference: int, value: Callable[[int, int], float]) -> list[Pair]:
    """Match boxes one to one so that the sum of the values is the largest there is.

    `value(i, j)` in [0, 1] is that of matching prediction i with reference j. Solved exactly
    (scipy's `linear_sum_assignment`) for the first `MOST_MATCHED` predictions, or as many as
    there are references if that is more.
    """
    rows = range(min(n_predicted, max(MOST_MATCHED, n_reference)))
    columns = range(n_reference)
    if not rows or not columns:
        return []
    if len(rows) == 1 or len(columns) == 1:
        best = max((value(i, j), -i, -j) for i in rows for j in columns)
        return [Pair(-best[1], -best[2], best[0])]
    values = np.array([[value(i, j) for j in columns] for i in rows])
    chosen = zip(*linear_sum_assignment(values, maximize=True), strict=True)
    return [Pair(int(i), int(j), float(values[i, j])) for i, j in chosen]


def matched_ious(predicted: Sequence[Box | None], reference: Sequence[Box | None]) -> list[float]:
    """Return one IoU for each of max(|P|, |G|) boxes under the matching with the largest sum.

    A box without a partner has 0. Empty where there are no boxes on either side.
    """
    pairs = match(len(predicted), len(reference), lambda i, j: iou(predicted[i], reference[j]))
    unmatched = max(len(predicted), len(reference)) - len(pairs)
    return [pair.value for pair in pairs] + [0.0] * unmatched
