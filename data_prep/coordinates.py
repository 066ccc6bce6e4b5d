"""Boxes between three systems: the dataset's frame, the original picture, the model's output.

Every box is `(x1, y1, x2, y2)`, sizes are `(width, height)`. In between, boxes are held as
fractions of the original picture ("unit" boxes), so no step rounds.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from reward.numbers import Box

Size = tuple[int, int]
Fit = Literal["stretch", "pad"]
Coordinates = Literal["absolute", "norm1000"]

LARGEST_ASPECT = 200
# Qwen's processors go from 4 visual tokens up; 1280 is transformers' default upper bound.
FEWEST_TOKENS, MOST_TOKENS = 4, 1280


@dataclass(frozen=True)
class ModelFamily:
    """How a family of models sees pictures and writes boxes."""

    name: str
    factor: int
    coordinates: Coordinates

    @property
    def default_pixels(self) -> tuple[int, int]:
        """The default bounds of a resized picture's area, in pixels."""
        return FEWEST_TOKENS * self.factor**2, MOST_TOKENS * self.factor**2

    def box_space(self, image_size: Size) -> Size:
        """What x and y of a written box are divided by to give fractions."""
        return (1000, 1000) if self.coordinates == "norm1000" else image_size


MODEL_FAMILIES = {
    "qwen2_5_vl": ModelFamily("qwen2_5_vl", 28, "absolute"),
    "qwen3_vl": ModelFamily("qwen3_vl", 32, "norm1000"),
}


@lru_cache(maxsize=4096)
def smart_resize(size: Size, factor: int, min_pixels: int, max_pixels: int) -> Size:
    """The size that Qwen's image processors resize a picture of `size` to.

    Both sides are multiples of `factor`: the nearest ones, or, where their product leaves
    `[min_pixels, max_pixels]`, the picture is scaled to the bound first and the sides are
    rounded (down from above, up from below). Where both bounds are close, rounding can carry the
    result past the other one.

    The formula is the published one of Qwen2-VL, Qwen2.5-VL and, with another factor, Qwen3-VL.
    A side is at least one factor before the area is looked at, as in qwen_vl_utils, which verl
    resizes with; transformers differs from it for sides below half a factor.

    Raises ValueError for a picture without area, more than 200 times as long as wide, or so
    narrow that within `max_pixels` no whole factor of it is left.
    """
    width, height = size
    if min(size) < 1:
        raise ValueError(f"a picture of {width} x {height} pixels has no area")
    if max(size) > LARGEST_ASPECT * min(size):
        raise ValueError(f"a picture of {width} x {height} pixels is too narrow to resize")

    wide, high = max(1, round(width / factor)), max(1, round(height / factor))
    area = wide * high * factor**2
    if area > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        wide = math.floor(width / shrink / factor)
        high = math.floor(height / shrink / factor)
        if min(wide, high) < 1:
            raise ValueError(f"a picture of {width} x {height} pixels is too narrow to resize")
    elif area < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        wide = math.ceil(width * grow / factor)
        high = math.ceil(height * grow / factor)
    return wide * factor, high * factor


@dataclass(frozen=True)
class Frame:
    """The space in which a dataset writes its boxes.

    `size` is None where boxes are in pixels of the original picture. Otherwise the picture was
    brought into `size` by stretching each side, or with `fit` "pad" by scaling it as a whole
    and centring it between bars.
    """

    size: Size | None
    fit: Fit = "stretch"

    def to_unit(self, box: Box, original: Size) -> Box:
        """Maps a box from the frame to fractions of the original picture; unclipped."""
        (left, top), (width, height) = self.place(original)
        x1, y1, x2, y2 = box
        return (
            (x1 - left) / width,
            (y1 - top) / height,
            (x2 - left) / width,
            (y2 - top) / height,
        )

    def from_unit(self, box: Box, original: Size) -> Box:
        """The inverse of `to_unit`."""
        (left, top), (width, height) = self.place(original)
        x1, y1, x2, y2 = box
        return (
            left + x1 * width,
            top + y1 * height,
            left + x2 * width,
            top + y2 * height,
        )

    def place(self, original: Size) -> tuple[tuple[float, float], tuple[float, float]]:
        """Where the picture lies in the frame: its top-left corner and its size."""
        if self.size is None:
            return (0.0, 0.0), original
        if self.fit == "stretch":
            return (0.0, 0.0), self.size
        scale = min(self.size[0] / original[0], self.size[1] / original[1])
        width, height = original[0] * scale, original[1] * scale
        return ((self.size[0] - width) / 2, (self.size[1] - height) / 2), (width, height)


def parse_frame(text: str) -> Size | None:
    """Reads a frame option: "336", "448x336" or "original" (None).

    Raises ValueError for anything else.
    """
    if text == "original":
        return None
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if match is None or 0 in (int(match[1]), int(match[2] or 1)):
        raise ValueError(f"frame {text!r} is not a side, WIDTHxHEIGHT, original or auto")
    return int(match[1]), int(match[2] or match[1])


def scale_box(unit: Box, space: Size) -> Box:
    """Maps a unit box to a space of the given width and height."""
    return (unit[0] * space[0], unit[1] * space[1], unit[2] * space[0], unit[3] * space[1])


def overhang(unit: Box) -> float:
    """How far a unit box reaches outside the picture, as a fraction of a side; 0 inside."""
    return max(0.0, -min(unit), max(unit) - 1.0)


def clip_unit(unit: Box) -> Box:
    x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in unit)
    return (x1, y1, x2, y2)
