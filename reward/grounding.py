"""Scores of predicted regions against reference regions, in [0, 1].

P are the predicted boxes, G the reference boxes, both in normalised coordinates. A predicted box
without an area in the image counts in |P| and matches nothing. No boxes wanted and none given
scores 1; boxes on one side only score 0.

**Count gate** (`count_gate_score`), the published rule: 1 if |P| = |G| and the mean IoU is above
the threshold, else 0. The paper names no matching for several boxes; the one-to-one matching with
the largest sum of IoU is this project's choice.

**Dense** (`dense_score`), this project's own:

    quality(p, g) = (0.9 IoU + 0.1 (1 + GIoU) / 2) / (1 + (e / 0.35)^8)
    value(p, g)   = quality(p, g) (1 - 0.1 (1 - name similarity))
    dense         = max over one-to-one matchings of sum value / (n + c / 2)

with n = max(|P|, |G|) plus the copies, e = the area of p outside g as a share of the image
("excess"), c = boxes too many: max(|P| - |G|, 0) plus the copies. A copy is a predicted box
written more often than any box in the reference; it is taken out of P and matches nothing.
GIoU is that of Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019.

Properties, each tested:

- 1 exactly for the reference itself, in any order.
- Smooth in the coordinates within a matching, and the maximum of continuous functions over all.
- As a box slides towards its partner, IoU and GIoU rise and e falls, so the score never falls.
- Boxes that miss each other still have a slope: up to 0.05 comes from GIoU alone.
- A box over most of the image is worth almost nothing unless the truth covers most of it too:
  e = 0.5 leaves 5 %, e = 0.7 leaves 0.4 %; e = 0.2 still leaves 99 %.
- A box that stays unmatched takes 1.5 / (n + 1.5) of the score, so two guesses at one box are worth
  0.4 at best, less than half, and guessing twice never pays.
- A missing box takes its share 1/|G|.
- A wrong name takes up to a tenth of the pair's value, never more; an absent name takes nothing.
- Independent of the coordinate system and the size of the image.
"""

from collections import Counter
from collections.abc import Sequence

from reward.boxes import is_above, match, matched_ious, overlap, usable_box
from reward.ground_truth import GroundTruth
from reward.numbers import Box
from reward.regions import name_similarity
from reward.response import Region

GIOU_SHARE = 0.1
NAME_SHARE = 0.1
EXCESS_AT_HALF = 0.35
EXCESS_STEEPNESS = 8
COST_OF_EXTRA = 0.5


def count_gate_score(
    predicted: Sequence[Region],
    reference: Sequence[Region],
    ground_truth: GroundTruth,
    iou_threshold: float,
) -> float:
    """Return 1 if the counts are equal and the mean matched IoU is above the threshold, else 0."""
    if len(predicted) != len(reference):
        return 0.0
    if not reference:
        return 1.0
    ious = matched_ious(
        [usable_box(region, ground_truth) for region in predicted],
        [usable_box(region, ground_truth) for region in reference],
    )
    return float(is_above(sum(ious) / len(ious), iou_threshold))


def dense_score(
    predicted: Sequence[Region], reference: Sequence[Region], ground_truth: GroundTruth
) -> float:
    """Return the smooth score of the module's formula."""
    if not predicted or not reference:
        return float(not predicted and not reference)
    wanted = [usable_box(region, ground_truth) for region in reference]
    given = [usable_box(region, ground_truth) for region in predicted]
    kept = _without_copies(given, wanted)
    copies = len(given) - len(kept)

    def value(i: int, j: int) -> float:
        box, target = given[kept[i]], wanted[j]
        if box is None or target is None:
            return 0.0
        similarity = name_similarity(predicted[kept[i]].ref, reference[j].ref)
        return box_quality(box, target) * (1 - NAME_SHARE * (1 - similarity))

    total = sum(pair.value for pair in match(len(kept), len(wanted), value))
    extra = max(len(kept) - len(wanted), 0) + copies
    return total / (max(len(kept), len(wanted)) + copies + COST_OF_EXTRA * extra)


def box_quality(predicted: Box, reference: Box) -> float:
    """Return the quality of one pair, in [0, 1], 1 only for equal boxes."""
    iou, giou, excess = overlap(predicted, reference)
    near = (1 - GIOU_SHARE) * iou + GIOU_SHARE * (1 + giou) / 2
    return near / (1 + (excess / EXCESS_AT_HALF) ** EXCESS_STEEPNESS)


def _without_copies(given: Sequence[Box | None], wanted: Sequence[Box | None]) -> list[int]:
    """Return the indices of predictions, leaving out copies that the reference has not."""
    if len(given) == 1:
        return [0]
    allowed = max(Counter(wanted).values())
    seen: Counter[Box] = Counter()
    kept = []
    for index, box in enumerate(given):
        if box is not None:
            seen[box] += 1
            if seen[box] > allowed:
                continue
        kept.append(index)
    return kept
