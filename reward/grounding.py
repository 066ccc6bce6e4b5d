"""How well predicted regions agree with reference regions: IoU, matching, scores in [0, 1].

Boxes are `x1, y1, x2, y2` in [0, 1]. None is a box without an area in the image; it overlaps
nothing.


P are the predicted boxes, G the reference boxes, both in [0, 1] (`ground_truth.place`). A predicted
box without an area in the image counts in |P| and matches nothing. No boxes on either side score 1,
boxes on one side only score 0.

**Count gate** (`count_gate_score`), the published rule: 1 if |P| = |G| and the mean IoU is above
the threshold, else 0. The paper names no matching for several boxes; the one-to-one matching with
the largest sum of IoU is this project's choice.

**Dense** (`dense_score`), this project's own:

    quality(p, g) = (0.9 IoU + 0.1 (1 + GIoU) / 2) / (1 + (e / 0.35)^8)
    value(p, g)   = quality(p, g) (1 - 0.1 (1 - name similarity))
    dense         = max over one-to-one matchings of the sum of value / max(|P|, |G|)

e is the area of p outside g as a share of the image ("excess"). GIoU is that of Rezatofighi et al.,
"Generalized Intersection over Union", CVPR 2019. The matching is solved exactly (scipy's
`linear_sum_assignment`, after Crouse, IEEE TAES 52, 2016).

To bound the time, more than `MOST_EXTRA` boxes too many score 0.

Properties, each tested:

- 1 exactly for the reference itself, in any order.
- Smooth in the coordinates within a matching; the maximum of continuous functions, so continuous,
  but where a box leaves the image.
- Never falls when the value of a pair rises; as a box slides towards its partner, IoU and GIoU rise
  and e falls, so the score never falls.
- Boxes that miss each other still have a slope: up to 0.05 comes from GIoU alone.
- A box over most of the image is worth almost nothing unless the truth covers most of it too:
  e = 0.5 leaves 5 %, e = 0.7 leaves 0.4 %; e = 0.2 still leaves 99 %.
- A missing box takes its share 1/|G|; a box too many beside a right answer takes 1/(|G| + 1), so
  naming fewer regions than one believes in never pays.
- Two places for one region score their mean at most, so two guesses are worth no more than the
  likelier one; a copy is a box too many.
- A wrong name takes up to a tenth of the pair's value, never more; an absent name takes nothing.
- Independent of the coordinate system and the size of the image.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from reward.boxes_in_text import Box, name_similarity
from reward.response import Region

_Predicted = TypeVar("_Predicted")

ROUNDING = 1e-9
SAME_BOX = 0.9

# Bounds of the time for responses with hundreds of boxes.
MOST_MATCHED = 64
MOST_DISTINCT = 64


def iou(predicted: Box | None, reference: Box | None) -> float:
    """Return the intersection over union, 0 if either is None."""
    if predicted is None or reference is None:
        return 0.0
    px1, py1, px2, py2 = predicted
    rx1, ry1, rx2, ry2 = reference
    if px2 <= rx1 or rx2 <= px1 or py2 <= ry1 or ry2 <= py1:
        return 0.0
    shared = (min(px2, rx2) - max(px1, rx1)) * (min(py2, ry2) - max(py1, ry1))
    return shared / ((px2 - px1) * (py2 - py1) + (rx2 - rx1) * (ry2 - ry1) - shared)


def is_above(value: float, threshold: float) -> bool:
    """Return whether an IoU is above a threshold by more than rounding errors."""
    return value > threshold + ROUNDING


def iou_matrix(
    predicted: Sequence[Box | None], reference: Sequence[Box | None]
) -> list[list[float]]:
    """Return the IoU of every pair, a row for each predicted box."""
    return [[iou(box, target) for target in reference] for box in predicted]


def matched_values(values: Sequence[Sequence[float]]) -> list[float]:
    """Match rows and columns one to one so that the sum of the matched values is the largest.

    Args:
        values: m x n matrix, as rows of equal length.

    Returns:
        The min(m, n) matched values.
    """
    if not values or not values[0]:
        return []
    best = [max(row) for row in values]
    if len({row.index(most) for row, most in zip(values, best, strict=True)}) == len(best):
        return best  # each row is largest in a column of its own
    matrix = np.array(values)
    matched: list[float] = matrix[linear_sum_assignment(matrix, maximize=True)].tolist()
    return matched


def matched_ious(predicted: Sequence[Box | None], reference: Sequence[Box | None]) -> list[float]:
    """Match boxes one to one so that the sum of their IoUs is the largest.

    At most `MOST_MATCHED` pairs are made, of at most `MOST_MATCHED` boxes too many.

    Returns:
        An IoU for each of max(|P|, |G|) boxes, 0 for one without a partner.
    """
    rows = predicted[: min(len(reference), MOST_MATCHED) + MOST_MATCHED]
    columns = reference[: min(len(predicted), MOST_MATCHED) + MOST_MATCHED]
    matched = matched_values(iou_matrix(rows, columns))
    return matched + [0.0] * (max(len(predicted), len(reference)) - len(matched))


def distinct(regions: Sequence[Region]) -> list[Region]:
    """Return regions without those that repeat an earlier box (IoU above `SAME_BOX`).

    A reasoning often repeats a region, and how often means nothing.
    """
    remaining: list[Region] = []
    for region in regions:
        is_new = len(remaining) > MOST_DISTINCT or not any(
            iou(region.box, earlier.box) > SAME_BOX for earlier in remaining
        )
        if is_new:
            remaining.append(region)
    return remaining


GIOU_SHARE = 0.1
NAME_SHARE = 0.1
EXCESS_AT_HALF = 0.35
EXCESS_STEEPNESS = 8
MOST_EXTRA = 32


def count_gate_score(
    predicted: Sequence[Region], reference: Sequence[Region], iou_threshold: float
) -> float:
    """Return 1 if the counts are equal and the mean matched IoU is above the threshold, else 0."""
    if len(predicted) != len(reference):
        return 0.0
    if not reference:
        return 1.0
    matched = matched_ious([box for _, box in predicted], [box for _, box in reference])
    return float(is_above(sum(matched) / len(matched), iou_threshold))


def dense_score(predicted: Sequence[Region], reference: Sequence[Region]) -> float:
    """Return the score of the module's formula; all boxes are in [0, 1]."""
    return matched_share(predicted, reference, value)


def matched_share(
    predicted: Sequence[_Predicted],
    reference: Sequence[Region],
    value_of: Callable[[_Predicted, Region], float],
) -> float:
    """Return the best one-to-one total of `value_of`, divided by the larger of the two numbers."""
    if not predicted or not reference:
        return float(len(predicted) == len(reference))
    if len(predicted) > len(reference) + MOST_EXTRA:
        return 0.0
    values = [[value_of(one, target) for target in reference] for one in predicted]
    return sum(matched_values(values)) / max(len(predicted), len(reference))


def quality(predicted: Box, reference: Box) -> float:
    """Return the quality of one pair, in [0, 1], 1 only for equal boxes."""
    px1, py1, px2, py2 = predicted
    rx1, ry1, rx2, ry2 = reference
    overlap, area = iou(predicted, reference), (px2 - px1) * (py2 - py1)
    union = (area + (rx2 - rx1) * (ry2 - ry1)) / (1 + overlap)
    hull = (max(px2, rx2) - min(px1, rx1)) * (max(py2, ry2) - min(py1, ry1))
    giou = overlap - max(hull - union, 0.0) / hull
    excess = area - overlap * union
    near = (1 - GIOU_SHARE) * overlap + GIOU_SHARE * (1 + giou) / 2
    return near / (1 + (excess / EXCESS_AT_HALF) ** EXCESS_STEEPNESS)


# A reasoning mostly cites the final regions.
@lru_cache(maxsize=1024)
def value(predicted: Region, reference: Region) -> float:
    """Return the value of one pair by the module's formula, 0 if one has no box."""
    (ref, box), (name, target) = predicted, reference
    if box is None or target is None:
        return 0.0
    return quality(box, target) * (1 - NAME_SHARE * (1 - name_similarity(ref, name)))
