"""In which of its forms a phantom set is drawn and written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from data_prep.coordinates import Frame, Size
from data_prep.phantom.anatomy import Anatomy, UnitBox, further_boxes, region_boxes

Shapes = Literal["square", "mixed"]
Form = Literal["thinkvg", "gemex", "conversations"]

FRAME = 336
SIDE_VARIATION = 0.08
# The published set: rows, images and about the length of its reasoning.
FULL_ROWS, FULL_IMAGES, FULL_WORDS = 202_384, 21_994, 100
# Width over height; chest radiographs come upright and lying.
ASPECTS = (5 / 6, 6 / 5, 3 / 4, 4 / 3, 1.0)


@dataclass(frozen=True)
class Variant:
    """What can be chosen of a phantom set; the defaults are those of the demo.

    `frame` and `fit` say how boxes are written. `shapes` "square" draws pictures of about the
    frame's size, "mixed" upright, lying and square ones with a long side of about `long_side`
    pixels. With `all_regions` every published region is asked about. `rows` is the number of rows
    of the whole set (None: three to five for a picture). `words` is the length to which reasoning
    is drawn out with further regions (0: as it comes).
    """

    frame: Size | None = (FRAME, FRAME)
    fit: Literal["stretch", "pad"] = "stretch"
    shapes: Shapes = "square"
    long_side: int = 512
    all_regions: bool = False
    rows: int | None = None
    words: int = 0
    form: Form = "thinkvg"
    odd: float = 0.0

    def picture_size(self, rng: np.random.Generator, own: np.random.Generator) -> Size:
        """The (width, height) of a picture. `own` is drawn from for mixed shapes only."""
        if self.shapes == "square":
            low, high = round(FRAME * (1 - SIDE_VARIATION)), round(FRAME * (1 + SIDE_VARIATION))
            sides = rng.integers(low, high + 1, size=2)
            return int(sides[0]), int(sides[1])
        aspect = ASPECTS[own.integers(len(ASPECTS))] * own.uniform(0.97, 1.03)
        long = self.long_side * own.uniform(0.95, 1.0)
        width, height = (long, long / aspect) if aspect >= 1 else (long * aspect, long)
        return max(1, round(width)), max(1, round(height))

    def unit_boxes(self, anatomy: Anatomy) -> dict[str, UnitBox]:
        """The boxes of all regions that are asked about or cited, as fractions of the picture."""
        boxes = region_boxes(anatomy)
        return boxes | further_boxes(anatomy) if self.all_regions else boxes

    def frame_boxes(self, anatomy: Anatomy, size: Size) -> dict[str, tuple[int, int, int, int]]:
        """Boxes as they are written about a picture of `size`, in whole units of the frame."""
        frame = Frame(self.frame, self.fit)
        boxes = {}
        for name, unit in self.unit_boxes(anatomy).items():
            x1, y1, x2, y2 = (round(side) for side in frame.from_unit(unit, size))
            boxes[name] = (x1, y1, x2, y2)
        return boxes

    def count_of(self, number: int, images: int) -> int | None:
        """How many rows picture `number` of `images` has; None for three to five."""
        if self.rows is None:
            return None
        return self.rows * (number + 1) // images - self.rows * number // images
