"""Scores of predicted regions against reference regions, in [0, 1].

P are the predicted boxes, G the reference boxes, both in normalised coordinates (`boxes.place`).
A predicted box without an area in the image counts in |P| and matches nothing. No boxes wanted and
none given scores 1; boxes on one side only score 0.

**Count gate** (`count_gate_score`), the published rule: 1 if |P| = |G| and the mean IoU is above
the threshold, else 0. The paper names no matching for several boxes; the one-to-one matching with
the largest sum of IoU is this project's choice.

**Dense** (`dense_score`), this project's own:

    quality(p, g) = (0.9 IoU + 0.1 (1 + GIoU) / 2) / (1 + (e / 0.35)^8)
    value(p, g)   = quality(p, g) (1 - 0.1 (1 - name similarity))
    total(S)      = max over one-to-one matchings of S and G of the sum of value
    dense         = min over S of total(S) / (|G| + 1.5 c)

e is the area of p outside g as a share of the image ("excess"). c counts the boxes too many:
copies, and what P without copies has more than |G|. A copy is a predicted box written more often
than any box in the reference; it is taken out of P. S are the selections of |G| of the boxes in P,
or P itself where it has no more: with boxes too many, the worst selection counts, so that naming
several places is worth no more than naming the worst of them. GIoU is that of Rezatofighi et al.,
"Generalized Intersection over Union", CVPR 2019. The matching is solved exactly (scipy's
`linear_sum_assignment`, after Crouse, IEEE TAES 52, 2016).

To bound the time, more than `MOST_EXTRA` boxes too many score 0, and where there are more than
`MOST_SELECTIONS` selections, min total(S) is replaced by a lower bound of it: the sum of the |G|
smallest row means, the row of p being value(p, g) over all g. (The mean over all matchings of S is
the sum of its row means, and no mean is above the largest.) For one reference box they are equal.

Properties, each tested:

- 1 exactly for the reference itself, in any order.
- Smooth in the coordinates within a matching; the minimum and maximum of continuous functions, so
  continuous, but where a box becomes an exact copy or leaves the image.
- Never falls when the value of a pair rises; as a box slides towards its partner, IoU and GIoU rise
  and e falls, so the score never falls.
- Boxes that miss each other still have a slope: up to 0.05 comes from GIoU alone.
- A box over most of the image is worth almost nothing unless the truth covers most of it too:
  e = 0.5 leaves 5 %, e = 0.7 leaves 0.4 %; e = 0.2 still leaves 99 %.
- Where P without copies has |G| boxes or more, another box never raises the score, whatever P is
  and whatever box it is: there are more selections to be the worst, and c grows. A copy never
  raises it for any P.
- A right box too many takes 1.5 / (|G| + 1.5) of the score, a wrong one more.
- A missing box takes its share 1/|G|.
- A wrong name takes up to a tenth of the pair's value, never more; an absent name takes nothing.
- Independent of the coordinate system and the size of the image.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from math import comb

from reward.boxes import is_above, matched_values
from reward.numbers import Box
from reward.regions import name_similarity
from reward.response import Region

GIOU_SHARE = 0.1
NAME_SHARE = 0.1
EXCESS_AT_HALF = 0.35
EXCESS_STEEPNESS = 8
COST_OF_EXTRA = 1.5
MOST_EXTRA = 32
MOST_SELECTIONS = 128


def count_gate_score(
    ious: Sequence[Sequence[float]], n_predicted: int, n_reference: int, iou_threshold: float
) -> float:
    """Return 1 if the counts are equal and the mean matched IoU is above the threshold, else 0.

    `ious` is the `iou_matrix` of the boxes.
    """
    if n_predicted != n_reference:
        return 0.0
    if not n_reference:
        return 1.0
    matched = matched_values(ious)
    return float(is_above(sum(matched) / len(matched), iou_threshold))


def dense_score(
    predicted: Sequence[Region],
    reference: Sequence[Region],
    ious: Sequence[Sequence[float]],
) -> float:
    """Return the score of the module's formula.

    Args:
        predicted: placed regions.
        reference: placed regions.
        ious: `iou_matrix` of their boxes.
    """
    wanted = len(reference)
    if not predicted or not wanted:
        return float(not predicted and not wanted)
    total = _clear_total(predicted, reference, ious) if len(predicted) <= wanted else None
    if total is not None:
        return total / wanted
    kept = _without_copies(predicted, reference)
    extra = len(predicted) - len(kept) + max(len(kept) - wanted, 0)
    if extra > MOST_EXTRA:
        return 0.0
    values = [_values(predicted[index], reference, ious[index]) for index in kept]
    return _least_total(values, wanted) / (wanted + COST_OF_EXTRA * extra)


def cited_score(
    predicted: Sequence[Region], reference: Sequence[Region], ious: Sequence[Sequence[float]]
) -> float:
    """Return the dense score of boxes cited in a reasoning, already `distinct`.

    A reasoning may compare places before it decides, so here it is the best selection that counts:
    total(P) / max(|P|, |G|). A box beside the point costs its share; `dense_score` else.
    """
    if len(predicted) <= len(reference):
        return dense_score(predicted, reference, ious)
    if not reference or len(predicted) > len(reference) + MOST_EXTRA:
        return 0.0
    values = [_values(region, reference, row) for region, row in zip(predicted, ious, strict=True)]
    return sum(matched_values(values)) / len(predicted)


def quality(predicted: Box, reference: Box, iou: float) -> float:
    """Return the quality of one pair from its IoU, in [0, 1], 1 only for equal boxes."""
    ax1, ay1, ax2, ay2 = predicted
    bx1, by1, bx2, by2 = reference
    area = (ax2 - ax1) * (ay2 - ay1)
    union = (area + (bx2 - bx1) * (by2 - by1)) / (1 + iou)
    # Comparisons in place of min and max: this runs several times for each response.
    hull = ((ax2 if ax2 > bx2 else bx2) - (ax1 if ax1 < bx1 else bx1)) * (
        (ay2 if ay2 > by2 else by2) - (ay1 if ay1 < by1 else by1)
    )
    giou = iou - (hull - union) / hull if hull > union else iou
    near = (1 - GIOU_SHARE) * iou + GIOU_SHARE / 2 * (1 + giou)
    excess = area - iou * union
    return near / (1 + (excess / EXCESS_AT_HALF) ** EXCESS_STEEPNESS)


def _value(predicted: Region, reference: Region, iou: float) -> float:
    ref, box = predicted
    name, target = reference
    if box is None or target is None:
        return 0.0
    value = quality(box, target, iou)
    return value if ref == name else value * _naming(ref, name)


def _values(region: Region, reference: Sequence[Region], ious: Sequence[float]) -> list[float]:
    return [_value(region, target, iou) for target, iou in zip(reference, ious, strict=True)]


def _naming(ref: str, name: str) -> float:
    return 1 - NAME_SHARE * (1 - name_similarity(ref, name))


def _clear_total(
    predicted: Sequence[Region], reference: Sequence[Region], ious: Sequence[Sequence[float]]
) -> float | None:
    """Return the largest total where it is plain without trying matchings, else None.

    It is where every box clearly has a partner of its own, but for one at most: its value with the
    nearest reference is above what any other can have. GIoU is at most IoU, and so a value at most
    0.9 IoU + 0.05 (1 + IoU). Copies have the same nearest reference and so are never plain.
    """
    partners = set()
    total, margin, astray = 0.0, 1.0, None
    for index, row in enumerate(ious):
        nearest = max(row)
        if nearest:
            column = row.index(nearest)
            ref, box = predicted[index]
            name, target = reference[column]
            value = quality(box, target, nearest)  # type: ignore[arg-type]  # they overlap
            if ref != name:
                value *= _naming(ref, name)
            lead = value - GIOU_SHARE / 2
            if row.count(0.0) < len(row) - 1:
                lead -= (1 - GIOU_SHARE / 2) * max([*row[:column], *row[column + 1 :]])
            if lead > 0:
                if lead < margin:
                    margin = lead
                partners.add(column)
                total += value
                continue
        if astray is not None:
            return None
        astray = index
    if len(partners) + (astray is not None) < len(predicted):
        return None
    if astray is None:
        return total
    values = _values(predicted[astray], reference, ious[astray])
    left = max(value for column, value in enumerate(values) if column not in partners)
    # Taking a partner from one of the others costs the margin at least.
    return total + left if left >= max(values) - margin else None


def _least_total(values: list[list[float]], wanted: int) -> float:
    """Return the smallest total of a selection of `wanted` rows, or its lower bound."""
    if len(values) <= wanted:
        return sum(matched_values(values))
    if comb(len(values), wanted) <= MOST_SELECTIONS:
        return min(sum(matched_values(rows)) for rows in combinations(values, wanted))
    return sum(sorted(sum(row) / wanted for row in values)[:wanted])


def _without_copies(given: Sequence[Region], wanted: Sequence[Region]) -> Sequence[int]:
    """Return the indices of predictions, leaving out copies that the reference has not."""
    if len({box for _, box in given}) == len(given):
        return range(len(given))
    allowed = max(Counter(box for _, box in wanted).values())
    seen: Counter[Box] = Counter()
    kept = []
    # By name, so that the order given does not decide which of two names a copy keeps.
    for index in sorted(range(len(given)), key=lambda index: given[index].ref):
        box = given[index].box
        if box is not None:
            seen[box] += 1
            if seen[box] > allowed:
                continue
        kept.append(index)
    return kept
