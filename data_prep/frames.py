"""Infers from the boxes in which frame a dataset writes them, and how pictures were fitted in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.coordinates import Fit, Size
from reward.numbers import Box

KNOWN_SIDES = (224, 336)
FEWEST_BOXES = 200
# A side is believed if the largest coordinate comes this close to it, …
REACH = 0.9
# … and all but this share of the boxes stay inside it, by this much.
STRAYS, SLACK = 0.001, 1.02

# The fit shows where a picture's shape differs from the frame's: padding leaves bands at two sides.
# A band counts from this share of the frame's side on, …
NARROWEST_BAND = 0.03
# … and a box is in it if it reaches further than this from the picture's edge (also a share).
BAND_SLACK = 0.01
# Boxes that are near the picture's edge without entering the band end this close to it.
NEAR = 0.08
# Stretched: at least so many boxes and this share of those beside bands lie in them.
FEWEST_IN_BAND, SHARE_IN_BAND = 5, 0.01
# Padded: at most this share does, while so many end near the edge.
STRAYS_IN_BAND, FEWEST_NEAR = 0.002, 20
# Below this share of the frame's side in all pictures, both fits give the same boxes.
SAME_BAND = 0.002

Boxes = Sequence[tuple[Box, Size]]


class ThinEvidence(Exception):
    """The boxes do not tell the frame or the fit; the text says why and what to do."""


def infer_frame(boxes: Boxes) -> tuple[Size | None, str]:
    """The frame's size, None for original pixels, and the evidence in a sentence.

    `boxes` are pairs of a box and its picture's original (width, height). Raises ThinEvidence
    where there are too few boxes, or where they fit no frame or two.
    """
    if len(boxes) < FEWEST_BOXES:
        raise ThinEvidence(
            f"--frame auto needs {FEWEST_BOXES} boxes, found {len(boxes)}: name the frame"
        )
    corners, sizes = _arrays(boxes)
    largest = np.sort(corners.max(axis=1))
    # The largest coordinate but for the strays.
    top = float(largest[max(0, len(largest) - 1 - int(STRAYS * len(largest)))])
    seen = f"{len(boxes)} boxes, largest coordinate {top:g}"
    inside = float((corners[:, 2:] <= SLACK * sizes).all(axis=1).mean())
    fits = [side for side in KNOWN_SIDES if REACH * side <= top <= SLACK * side]
    # Whether the boxes use their pictures' whole size, not just a corner of it.
    reaches = float((corners[:, 2:] / sizes).max()) >= REACH
    original_too = inside >= 1 - STRAYS and reaches
    if fits and not original_too:
        return (fits[0], fits[0]), f"{seen}: a frame of {fits[0]} x {fits[0]}"
    if original_too and not fits:
        return None, f"{seen}, {inside:.1%} inside of their picture: original pixels"
    reason = "which fits two frames" if fits else "which fits no known frame"
    raise ThinEvidence(f"--frame auto cannot tell: {seen}, {reason}: name the frame")


def _arrays(boxes: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """Boxes as (n, 4) and sizes as (n, 2)."""
    corners = np.array([box for box, _ in boxes], dtype=float).reshape(-1, 4)
    sizes = np.array([size for _, size in boxes], dtype=float).reshape(-1, 2)
    return corners, sizes


@dataclass(frozen=True)
class BandEvidence:
    """How boxes lie to the bands that padding would leave.

    `boxes` are those in pictures with bands wide enough to tell, `pictures` the number of their
    different shapes; `in_band` of them reach into a band and `near` end close to it.
    `widest` is the widest band there is, as a share of the frame's side.
    """

    boxes: int
    shapes: int
    in_band: int
    near: int
    widest: float

    @property
    def share(self) -> float:
        return self.in_band / self.boxes if self.boxes else 0.0


def band_evidence(boxes: Boxes, frame: Size) -> BandEvidence:
    """Measures the boxes against the bands that padding into `frame` (width, height) implies."""
    corners, sizes = _arrays(boxes)
    sides = np.array(frame, dtype=float)
    scale = (sides / sizes).min(axis=1, keepdims=True)
    # Width of the band at the left (and right), at the top (and bottom): one of them is 0.
    bands = (sides - sizes * scale) / 2
    axis = (bands / sides).argmax(axis=1)
    rows = np.arange(len(corners))
    band, side = bands[rows, axis], sides[axis]
    tells = band >= NARROWEST_BAND * side
    depth = np.maximum(
        band - corners[rows, axis], corners[rows, axis + 2] - (side - band)
    )  # how far into a band, in the frame's pixels; negative inside the picture
    enters = tells & (depth > BAND_SLACK * side)
    near = tells & ~enters & (depth >= -NEAR * side)
    shapes = np.unique(np.round(sizes[tells] * scale[tells]), axis=0)
    return BandEvidence(
        boxes=int(tells.sum()),
        shapes=len(shapes),
        in_band=int(enters.sum()),
        near=int(near.sum()),
        widest=float((band / side).max(initial=0.0)),
    )


def infer_fit(boxes: Boxes, frame: Size) -> tuple[Fit, str]:
    """How pictures were brought into `frame`, and the evidence in a sentence.

    Raises ThinEvidence where too few pictures differ in shape from the frame, or where boxes
    neither enter the bands nor come near them.
    """
    found = band_evidence(boxes, frame)
    if len(boxes) >= FEWEST_BOXES and found.widest <= SAME_BAND:
        return "stretch", "all pictures have the frame's shape: stretched or padded is the same"
    seen = (
        f"{found.boxes} boxes in pictures that padding would give bands: {found.in_band} reach "
        f"into them ({found.share:.1%}), {found.near} end close to them"
    )
    if found.boxes < FEWEST_BOXES:
        raise ThinEvidence(
            f"--fit auto needs {FEWEST_BOXES} boxes in pictures whose shape differs from the "
            f"frame's, found {found.boxes}: name the fit"
        )
    if found.in_band >= FEWEST_IN_BAND and found.share >= SHARE_IN_BAND:
        return "stretch", f"{seen}: stretched"
    if found.share <= STRAYS_IN_BAND and found.near >= FEWEST_NEAR:
        return "pad", f"{seen}: padded"
    raise ThinEvidence(f"--fit auto cannot tell: {seen}: name the fit")
