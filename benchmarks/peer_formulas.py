"""Grounding rewards of other projects, each written anew from its formula.

P are the predicted boxes in the order given, G the reference boxes, `x1, y1, x2, y2` in [0, 1].
Where a formula says nothing of the case: no box in P and none in G is 1, a side without boxes is 0.
A formula for one box takes the first of each side.
"""

import math
from collections.abc import Callable, Sequence

from reward.boxes import iou, is_above, matched_ious
from reward.numbers import Box

Boxes = Sequence[Box]
Formula = Callable[[Boxes, Boxes], float]


def _or_empty(formula: Formula) -> Formula:
    def guarded(predicted: Boxes, reference: Boxes) -> float:
        if not predicted or not reference:
            return float(not predicted and not reference)
        return formula(predicted, reference)

    return guarded


def _greedy(predicted: Boxes, reference: Boxes, threshold: float) -> list[float]:
    """Return the IoUs above `threshold` of pairs taken from the best down, one to one."""
    pairs = [
        (iou(box, target), i, j)
        for i, box in enumerate(predicted)
        for j, target in enumerate(reference)
    ]
    rows: set[int] = set()
    columns: set[int] = set()
    matched = []
    for value, i, j in sorted(pairs, reverse=True):
        if value < threshold:
            break
        if i not in rows and j not in columns:
            rows.add(i)
            columns.add(j)
            matched.append(value)
    return matched


@_or_empty
def thinkvg(predicted: Boxes, reference: Boxes) -> float:
    """1 if |P| = |G| and the mean IoU is above 0.75; matched one to one, which is our choice."""
    if len(predicted) != len(reference):
        return 0.0
    ious = matched_ious(predicted, reference)
    return float(is_above(sum(ious) / len(ious), 0.75))


@_or_empty
def medground_r1(predicted: Boxes, reference: Boxes) -> float:
    """1 if the IoU of the first box is above 0.5."""
    return float(is_above(iou(predicted[0], reference[0]), 0.5))


@_or_empty
def vlm_r1_rec(predicted: Boxes, reference: Boxes) -> float:
    """IoU of the first box."""
    return iou(predicted[0], reference[0])


@_or_empty
def vlm_r1_detection(predicted: Boxes, reference: Boxes) -> float:
    """0.7 sum IoU / |G| + 0.3 (1 - (miss + false) / 2), greedy pairs of IoU 0.5 or more.

    miss is the share of G without a partner, false that of P.
    """
    matched = _greedy(predicted, reference, 0.5)
    miss = 1 - len(matched) / len(reference)
    false = 1 - len(matched) / len(predicted)
    return 0.7 * sum(matched) / len(reference) + 0.3 * (1 - (miss + false) / 2)


@_or_empty
def visual_rft(predicted: Boxes, reference: Boxes) -> float:
    """Sum of the IoUs of greedy pairs above 0.5 over max(|G|, |P|); confidences are all alike."""
    matched = [value for value in _greedy(predicted, reference, 0.5) if value > 0.5]
    return sum(matched) / max(len(predicted), len(reference))


@_or_empty
def treevgr(predicted: Boxes, reference: Boxes) -> float:
    """Mean over G of the best IoU in P: recall alone."""
    return sum(max(iou(box, target) for box in predicted) for target in reference) / len(reference)


@_or_empty
def rex_omni(predicted: Boxes, reference: Boxes) -> float:
    """2 PR / (P + R), each the mean of best IoUs, not one to one."""
    recall = treevgr(predicted, reference)
    precision = treevgr(reference, predicted)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def grit(predicted: Boxes, reference: Boxes) -> float:
    """0.5 for at least one box, wherever it is."""
    return 0.5 if predicted else 0.0


@_or_empty
def gaze(predicted: Boxes, reference: Boxes) -> float:
    """IoU, below 0.1 a fifth of the closeness of the centres; less for a box over half the image.

    The distance of the centres is in sides of the image, 1 at most.
    """
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = predicted[0], reference[0]
    area = (ax2 - ax1) * (ay2 - ay1)
    penalty = 1.0 if area <= 0.5 else 2 * (1 - area)
    overlap = iou(predicted[0], reference[0])
    if overlap >= 0.1:
        return overlap * penalty
    distance = math.hypot((ax1 + ax2 - bx1 - bx2) / 2, (ay1 + ay2 - by1 - by2) / 2)
    return 0.2 * (1 - min(distance, 1.0)) * penalty


@_or_empty
def f_score(predicted: Boxes, reference: Boxes) -> float:
    """F1 at IoU 0.5 times the mean IoU of the pairs that reach it."""
    matched = _greedy(predicted, reference, 0.5)
    if not matched:
        return 0.0
    f1 = 2 * len(matched) / (len(predicted) + len(reference))
    return f1 * sum(matched) / len(matched)


FORMULAS: dict[str, Formula] = {
    "ThinkVG": thinkvg,
    "MedGround-R1": medground_r1,
    "VLM-R1 REC": vlm_r1_rec,
    "VLM-R1 detection": vlm_r1_detection,
    "Visual-RFT": visual_rft,
    "TreeVGR": treevgr,
    "Rex-Omni": rex_omni,
    "GRIT": grit,
    "gaze": gaze,
    "F1 x IoU": f_score,
}
"""Every formula under the name of its project."""
