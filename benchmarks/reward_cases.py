"""Responses that a grounding reward has to tell apart: good, nearly good, and tricks.

The image has 336 x 336 pixels; coordinates are absolute.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

SIDE = 336
REFERENCE = ((30, 40, 130, 140), (200, 50, 300, 120), (60, 200, 150, 320))
FIVE = (*REFERENCE, (180, 180, 230, 240), (250, 250, 330, 330))
NAMES = ("left lung", "right lung", "cardiac silhouette", "carina", "abdomen")
FULL = (0, 0, SIDE, SIDE)

Box = Sequence[float]


@dataclass(frozen=True)
class Case:
    """One response: its name, the location block as written, and the reference boxes."""

    name: str
    location: str
    reference: tuple[Box, ...]

    @property
    def row(self) -> dict[str, Any]:
        """The case as a line of the offline command's input."""
        regions = [
            {"ref": name, "box": list(box)}
            for name, box in zip(NAMES, self.reference, strict=False)
        ]
        cited = ", ".join(f"the {item['ref']} {item['box']}" for item in regions)
        think = f"Reviewing {cited or 'the whole image'} shows no opacity."
        response = (
            f"<think>{think}</think>\n<answer>No</answer>\n<location>{self.location}</location>"
        )
        truth = {
            "question_type": "closed",
            "answer": "No",
            "choices": None,
            "regions": regions,
            "think_regions": regions,
            "image_size": [SIDE, SIDE],
            "coordinates": "absolute",
        }
        return {"id": self.name, "response": response, "ground_truth": truth}


def written(boxes: Sequence[Box]) -> str:
    """A location block that names the boxes in order."""
    names = [NAMES[index] if index < len(NAMES) else "spine" for index in range(len(boxes))]
    return "".join(
        f"<ref>{name}</ref><box>[{', '.join(f'{value:g}' for value in box)}]</box>"
        for name, box in zip(names, boxes, strict=True)
    )


def shifted(box: Box, iou: float) -> Box:
    """A box moved to the right until the IoU with where it was is `iou`; 0: just past it."""
    x1, y1, x2, y2 = box
    step = (x2 - x1) * (1 - 2 * iou / (1 + iou))
    return (x1 + step, y1, x2 + step, y2)


def cases() -> Iterator[Case]:
    """Yield every case."""
    for count in range(1, 6):
        yield Case(f"perfect, {count} of {count}", written(FIVE[:count]), FIVE[:count])
    one, three = REFERENCE[:1], REFERENCE
    for iou in (0.9, 0.76, 0.75, 0.5, 0.25, 0.1, 0.0):
        yield Case(f"shifted to IoU {iou:g}", written([shifted(one[0], iou)]), one)
    yield Case("far away", written([(230, 230, 330, 330)]), one)
    yield Case("full image", written([FULL]), one)
    yield Case("full image, 3 wanted", written([FULL] * 3), three)
    yield Case("most of the image", written([(10, 10, 326, 326)]), one)
    yield Case("twice the same", written([one[0], one[0]]), one)
    yield Case("each of 3 twice", written([*three, *three]), three)
    yield Case("two guesses, one right", written([one[0], (230, 230, 330, 330)]), one)
    yield Case("spam: 100 boxes", written(_grid(10)), one)
    yield Case("right one among 100", written([one[0], *_grid(10)]), one)
    yield Case("missing 1 of 3", written(three[:2]), three)
    yield Case("missing 2 of 3", written(three[:1]), three)
    yield Case("extra: 3 and a wrong one", written([*three, (10, 300, 40, 330)]), three)
    yield Case("3 in another order", written(three[::-1]), three)
    yield Case("swapped corners", written([(130, 140, 30, 40)]), one)
    yield Case("wholly outside", written([(400, 400, 500, 500)]), one)
    yield Case("partly outside", written([(30, 40, 5000, 5000)]), one)
    yield Case("0 to 1000 instead", written([[round(v / SIDE * 1000) for v in one[0]]]), one)
    yield Case("0 to 1 instead", written([[round(v / SIDE, 3) for v in one[0]]]), one)
    yield Case("malformed: words", "<ref>left lung</ref><box>upper left</box>", one)
    yield Case("malformed: 3 numbers", "<ref>left lung</ref><box>[30, 40, 130]</box>", one)
    yield Case("malformed: unclosed", "<ref>left lung</ref><box>[30, 40, 130, 140", one)
    yield Case("nothing given", "", one)
    yield Case("empty truth, nothing given", "", ())
    yield Case("empty truth, one given", written(one), ())


def _grid(side: int) -> list[Box]:
    step = SIDE / side
    return [
        (round(x * step), round(y * step), round((x + 1) * step), round((y + 1) * step))
        for x in range(side)
        for y in range(side)
    ]
