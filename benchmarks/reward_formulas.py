"""Grounding rewards of other projects, from their formulas, and responses that show differences.

The responses are good, nearly good, or attempts to cheat. Their image has 336 x 336 pixels;
coordinates are absolute.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from reward.boxes_in_text import Box
from reward.grounding import iou, is_above, matched_ious

Boxes = Sequence[Box]
Formula = Callable[[Boxes, Boxes], float]


def _or_empty(formula: Formula) -> Formula:
    def guarded(predicted: Boxes, reference: Boxes) -> float:
        if not predicted or not reference:
            return float(not predicted and not reference)
        return formula(predicted, reference)

    return guarded


def _greedy(predicted: Boxes, reference: Boxes, threshold: float) -> list[float]:
    """Match boxes greedily one to one, and return the IoUs of at least `threshold`, best first."""
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
    """Return 1 if |P| = |G| and the mean IoU is above 0.75; the one-to-one matching is ours."""
    if len(predicted) != len(reference):
        return 0.0
    ious = matched_ious(predicted, reference)
    return float(is_above(sum(ious) / len(ious), 0.75))


@_or_empty
def medground_r1(predicted: Boxes, reference: Boxes) -> float:
    """Return 1 if the IoU of the first box is above 0.5."""
    return float(is_above(iou(predicted[0], reference[0]), 0.5))


@_or_empty
def vlm_r1_rec(predicted: Boxes, reference: Boxes) -> float:
    """Return the IoU of the first box."""
    return iou(predicted[0], reference[0])


@_or_empty
def vlm_r1_detection(predicted: Boxes, reference: Boxes) -> float:
    """Return 0.7 sum IoU / |G| + 0.3 (1 - (miss + false) / 2) of greedy pairs of IoU 0.5 or more.

    miss is the share of G without a partner, false that of P.
    """
    matched = _greedy(predicted, reference, 0.5)
    miss = 1 - len(matched) / len(reference)
    false = 1 - len(matched) / len(predicted)
    return 0.7 * sum(matched) / len(reference) + 0.3 * (1 - (miss + false) / 2)


@_or_empty
def visual_rft(predicted: Boxes, reference: Boxes) -> float:
    """Return the sum of IoUs above 0.5 of greedy pairs over max(|G|, |P|), at equal confidences."""
    matched = [value for value in _greedy(predicted, reference, 0.5) if value > 0.5]
    return sum(matched) / max(len(predicted), len(reference))


@_or_empty
def treevgr(predicted: Boxes, reference: Boxes) -> float:
    """Return the mean over G of the best IoU in P: recall alone."""
    return sum(max(iou(box, target) for box in predicted) for target in reference) / len(reference)


@_or_empty
def rex_omni(predicted: Boxes, reference: Boxes) -> float:
    """Return 2 PR / (P + R), where P and R are means of best IoUs, not matched one to one."""
    recall = treevgr(predicted, reference)
    precision = treevgr(reference, predicted)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def grit(predicted: Boxes, reference: Boxes) -> float:
    """Return 0.5 for at least one box, wherever it is."""
    return 0.5 if predicted else 0.0


@_or_empty
def gaze(predicted: Boxes, reference: Boxes) -> float:
    """Return the IoU, or below 0.1 a fifth of (1 - distance of the centres).

    The distance is in sides of the image, 1 at most. A box over half the image gets less.
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
    """Return F1 at IoU 0.5 times the mean IoU of the pairs that reach it."""
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

SIDE = 336
REFERENCE = ((30, 40, 130, 140), (200, 50, 300, 120), (60, 200, 150, 320))
FIVE = (*REFERENCE, (180, 180, 230, 240), (250, 250, 330, 330))
NAMES = ("left lung", "right lung", "cardiac silhouette", "carina", "abdomen")
FULL = (0, 0, SIDE, SIDE)

Corners = Sequence[float]


def _case(name: str, location: str, reference: Sequence[Corners]) -> dict[str, Any]:
    """Return a case: its name, the location block as written, and the reference boxes."""
    regions = [{"ref": ref, "box": list(box)} for ref, box in zip(NAMES, reference, strict=False)]
    cited = ", ".join(f"the {item['ref']} {item['box']}" for item in regions)
    think = f"Reviewing {cited or 'the whole image'} shows no opacity."
    response = f"<think>{think}</think>\n<answer>No</answer>\n<location>{location}</location>"
    return {"id": name, "response": response, "ground_truth": closed_truth("No", regions)}


def closed_truth(answer: str, regions: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the ground truth of a yes/no question, whose reasoning cites all regions."""
    return {
        "question_type": "closed",
        "answer": answer,
        "choices": None,
        "regions": regions,
        "think_regions": regions,
        "image_size": [SIDE, SIDE],
        "coordinates": "absolute",
    }


def written(boxes: Sequence[Corners]) -> str:
    """Return a location block with the boxes in order."""
    names = [NAMES[index] if index < len(NAMES) else "spine" for index in range(len(boxes))]
    return "".join(
        f"<ref>{name}</ref><box>[{', '.join(f'{value:g}' for value in box)}]</box>"
        for name, box in zip(names, boxes, strict=True)
    )


def shifted(box: Corners, iou: float) -> Corners:
    """Return a box moved right until its IoU with the original is `iou`; at 0 they just touch."""
    x1, y1, x2, y2 = box
    step = (x2 - x1) * (1 - 2 * iou / (1 + iou))
    return (x1 + step, y1, x2 + step, y2)


def cases() -> Iterator[dict[str, Any]]:
    """Yield every case as an input line of `python -m reward`."""
    for count in range(1, 6):
        yield _case(f"perfect, {count} of {count}", written(FIVE[:count]), FIVE[:count])
    single, triple = REFERENCE[:1], REFERENCE
    for overlap in (0.9, 0.76, 0.75, 0.5, 0.25, 0.1, 0.0):
        yield _case(f"shifted to IoU {overlap:g}", written([shifted(single[0], overlap)]), single)
    yield _case("far away", written([(230, 230, 330, 330)]), single)
    yield _case("full image", written([FULL]), single)
    yield _case("full image, 3 wanted", written([FULL] * 3), triple)
    yield _case("most of the image", written([(10, 10, 326, 326)]), single)
    yield _case("twice the same", written([single[0], single[0]]), single)
    yield _case("each of 3 twice", written([*triple, *triple]), triple)
    yield _case("two guesses, one right", written([single[0], (230, 230, 330, 330)]), single)
    yield _case("spam: 100 boxes", written(_grid(10)), single)
    yield _case("right one among 100", written([single[0], *_grid(10)]), single)
    yield _case("missing 1 of 3", written(triple[:2]), triple)
    yield _case("missing 2 of 3", written(triple[:1]), triple)
    yield _case("extra: 3 and a wrong one", written([*triple, (10, 300, 40, 330)]), triple)
    yield _case("3 in another order", written(triple[::-1]), triple)
    yield _case("swapped corners", written([(130, 140, 30, 40)]), single)
    yield _case("wholly outside", written([(400, 400, 500, 500)]), single)
    yield _case("partly outside", written([(30, 40, 5000, 5000)]), single)
    yield _case("0 to 1000 instead", written([[round(v / SIDE * 1000) for v in single[0]]]), single)
    yield _case("0 to 1 instead", written([[round(v / SIDE, 3) for v in single[0]]]), single)
    yield _case("malformed: words", "<ref>left lung</ref><box>upper left</box>", single)
    yield _case("malformed: 3 numbers", "<ref>left lung</ref><box>[30, 40, 130]</box>", single)
    yield _case("malformed: unclosed", "<ref>left lung</ref><box>[30, 40, 130, 140", single)
    yield _case("nothing given", "", single)
    yield _case("empty truth, nothing given", "", ())
    yield _case("empty truth, one given", written(single), ())


def _grid(side: int) -> list[Corners]:
    step = SIDE / side
    return [
        (round(x * step), round(y * step), round((x + 1) * step), round((y + 1) * step))
        for x in range(side)
        for y in range(side)
    ]
