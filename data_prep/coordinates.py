"""Boxes in three coordinate systems: the dataset's frame, the original picture, the model's output.

A box is `(x1, y1, x2, y2)`, a size `(width, height)`. Boxes are mapped through fractions of the
original picture ("unit" boxes), without rounding.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

from reward.boxes_in_text import Box
from reward.ground_truth import Coordinates

Size = tuple[int, int]
Fit = Literal["stretch", "pad"]

LARGEST_ASPECT = 200
MOST_TOKENS = 1280  # of a picture, by default: transformers' default upper bound


@dataclass(frozen=True)
class ModelFamily:
    """How a family of models resizes pictures and writes boxes.

    `factor` is the side in pixels of an image token, 2 x 2 patches. The published processors make
    a picture of less than `fewest_tokens` image tokens larger.
    """

    name: str
    factor: int
    coordinates: Coordinates
    fewest_tokens: int

    @property
    def default_pixels(self) -> tuple[int, int]:
        """The default bounds of a resized picture's area, in pixels."""
        return self.fewest_tokens * self.factor**2, MOST_TOKENS * self.factor**2

    def box_space(self, image_size: Size) -> Size:
        """Return the (width, height) that divides x and y of a written box to give fractions."""
        return (1000, 1000) if self.coordinates == "norm1000" else image_size

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return self.factor // 2

    def writes_like(self, other: "ModelFamily") -> bool:
        """Return whether data of another family fits this one: same boxes, same image tokens."""
        return (self.factor, self.coordinates) == (other.factor, other.coordinates)


# Sources: the families' technical reports and cookbooks (coordinates), their published
# preprocessor_config.json (patches, smallest picture: 56 x 56 and 256 x 256 pixels).
MODEL_FAMILIES = {
    family.name: family
    for family in (
        ModelFamily("qwen2_5_vl", 28, "absolute", 4),
        ModelFamily("qwen3_vl", 32, "norm1000", 64),
        ModelFamily("qwen3_vl_moe", 32, "norm1000", 64),
        ModelFamily("qwen3_5", 32, "norm1000", 64),
        ModelFamily("qwen3_5_moe", 32, "norm1000", 64),
    )
}
"""By `model_type`."""


def smart_resize(size: Size, factor: int, min_pixels: int, max_pixels: int) -> Size:
    """Return the size to which Qwen's image processors resize a picture of `size`.

    Both sides are the nearest multiples of `factor`. If their product is outside
    `[min_pixels, max_pixels]`, the picture is first scaled to that bound, and then the sides are
    rounded (down to the upper bound, up to the lower one). If the bounds are close, rounding can
    carry the result past the other bound.

    The formula is the published one of Qwen2-VL, Qwen2.5-VL and, with another factor, Qwen3-VL.
    Sides are at least one factor before the area is checked, as in qwen_vl_utils, with which verl
    resizes; transformers differs from it for sides below half a factor.

    Args:
        size: Width and height of the picture.
        factor: Side in pixels of the square that becomes one image token.
        min_pixels: Smallest area of the result.
        max_pixels: Largest area of the result.

    Raises:
        ValueError: The picture has no area, its aspect ratio is above 200, or a side is shorter
            than one factor after scaling to `max_pixels`.
    """
    width, height = size
    if min(size) < 1:
        raise ValueError(f"a picture of {width} x {height} pixels has no area")
    if max(size) > LARGEST_ASPECT * min(size):
        raise ValueError(f"a picture of {width} x {height} pixels is too narrow to resize")

    columns, rows = max(1, round(width / factor)), max(1, round(height / factor))
    area = columns * rows * factor**2
    if area > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        columns = math.floor(width / shrink / factor)
        rows = math.floor(height / shrink / factor)
        if min(columns, rows) < 1:
            raise ValueError(f"a picture of {width} x {height} pixels is too narrow to resize")
    elif area < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        columns = math.ceil(width * grow / factor)
        rows = math.ceil(height * grow / factor)
    return columns * factor, rows * factor


@dataclass(frozen=True)
class Frame:
    """The space in which a dataset writes its boxes.

    If `size` is None, boxes are in pixels of the original picture. Otherwise the picture was fitted
    into `size`: with `fit` "stretch" each side by itself, with "pad" scaled at its aspect ratio and
    centred between bars.
    """

    size: Size | None
    fit: Fit = "stretch"

    def to_unit(self, box: Box, original: Size) -> Box:
        """Map a box from the frame to fractions of the original picture, without clipping."""
        (left, top), (width, height) = self.place(original)
        x1, y1, x2, y2 = box
        return ((x1 - left) / width, (y1 - top) / height, (x2 - left) / width, (y2 - top) / height)

    def from_unit(self, box: Box, original: Size) -> Box:
        """Map fractions of the original picture to the frame: the inverse of `to_unit`."""
        (left, top), (width, height) = self.place(original)
        x1, y1, x2, y2 = box
        return (left + x1 * width, top + y1 * height, left + x2 * width, top + y2 * height)

    def place(self, original: Size) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return the top-left corner and the size of the picture in the frame."""
        if self.size is None:
            return (0.0, 0.0), original
        if self.fit == "stretch":
            return (0.0, 0.0), self.size
        scale = min(self.size[0] / original[0], self.size[1] / original[1])
        width, height = original[0] * scale, original[1] * scale
        return ((self.size[0] - width) / 2, (self.size[1] - height) / 2), (width, height)


def parse_frame(text: str) -> Size | None:
    """Read a frame option, "336", "448x336" or "original" (None); raise ValueError for others."""
    if text == "original":
        return None
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if match is None or 0 in (int(match[1]), int(match[2] or 1)):
        raise ValueError(f"frame {text!r} is not a side, WIDTHxHEIGHT, original or auto")
    return int(match[1]), int(match[2] or match[1])


def scale_box(unit: Box, space: Size) -> Box:
    return (unit[0] * space[0], unit[1] * space[1], unit[2] * space[0], unit[3] * space[1])


def overhang(unit: Box) -> float:
    """Return how far a unit box reaches outside the picture, as a fraction of a side; 0 inside."""
    return max(0.0, -min(unit), max(unit) - 1.0)


def clip_unit(unit: Box) -> Box:
    """Return the part of a unit box that is inside the picture."""
    x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in unit)
    return (x1, y1, x2, y2)
