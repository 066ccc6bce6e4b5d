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
- Smooth in the coordinates within a matching; within a number of boxes, the minimum and maximum of
  continuous functions, so continuous.
- Never falls when the value of a pair rises; as a box slides towards its partner, IoU and GIoU rise
  and e falls, so the score never falls.
- Boxes that miss each other still have a slope: up to 0.05 comes from GIoU alone.
- A box over most of the image is worth almost nothing unless the truth covers most of it too:
  e = 0.5 leaves 5 %, e = 0.7 leaves 0.4 %; e = 0.2 still leaves 99 %.
- Where P has |G| boxes or more, another box never raises the score, whatever P is and whatever box
  it is: there are more selections to be the worst, and c grows. A copy never raises it for any P.
- A right box too many takes 1.5 / (|G| + 1.5) of the score, a wrong one more.
- A missing box takes its share 1/|G|.
- A wrong name takes up to a tenth of the pair's value, never more; an absent name takes nothing.
- Independent of the coordinate system and the size of the image.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from math import comb

from reward.boxes import Overlap, is_above, matched_values
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
    overlaps: Sequence[Sequence[Overlap]], n_predicted: int, n_reference: int, iou_threshold: float
) -> float:
    """Return 1 if the counts are equal and the mean matched IoU is above the threshold, else 0."""
    if n_predicted != n_reference:
        return 0.0
    if not n_reference:
        return 1.0
    ious = matched_values([[iou for iou, _, _ in row] for row in overlaps])
    return float(is_above(sum(ious) / len(ious), iou_threshold))


def dense_score(
    predicted: Sequence[Region],
    reference: Sequence[Region],
    overlaps: Sequence[Sequence[Overlap]],
) -> float:
    """Return the score of the module's formula.

    Args:
        predicted: m placed regions.
        reference: n placed regions.
        overlaps: `boxes.overlaps` of their boxes, m x n.
    """
    wanted = len(reference)
    if not predicted or not wanted:
        return float(not predicted and not wanted)
    kept: Sequence[int] = range(len(predicted))
    if len(predicted) > 1:
        kept = _without_copies(predicted, reference)
    extra = len(predicted) - len(kept) + max(len(kept) - wanted, 0)
    if extra > MOST_EXTRA:
        return 0.0
    names = [ref for ref, _ in reference]
    values = [_values(predicted[index].ref, names, overlaps[index]) for index in kept]
    return _least_total(values, wanted) / (wanted + COST_OF_EXTRA * extra)


def quality(pair: Overlap) -> float:
    """Return the quality of one pair, in [0, 1], 1 only for equal boxes."""
    iou, giou, excess = pair
    near = (1 - GIOU_SHARE) * iou + GIOU_SHARE * (1 + giou) / 2
    return near / (1 + (excess / EXCESS_AT_HALF) ** EXCESS_STEEPNESS)


def _values(ref: str, names: Sequence[str], pairs: Sequence[Overlap]) -> list[float]:
    """Return value(p, g) of one predicted region for every reference region."""
    return [
        quality(pair)
        if name == ref
        else quality(pair) * (1 - NAME_SHARE * (1 - name_similarity(ref, name)))
        for name, pair in zip(names, pairs, strict=True)
    ]


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
    for index, (_, box) in enumerate(given):
        if box is not None:
            seen[box] += 1
            if seen[box] > allowed:
                continue
        kept.append(index)
    return kept
