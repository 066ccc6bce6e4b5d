"""Infers from the boxes in which frame a dataset writes them, and how pictures were fitted in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.coordinates import Fit, Size
from reward.numbers import Box

KNOWN_SIDES = (224, 336)
FEWEST_BOXES = 200
# A side is believed if the largest coordinate comes this close to it: boxes of true sets reach 222
# of 224, and 333 of 336 and more. One unit more is rounding.
REACH, ROUNDING = 0.985, 1.0
# A box that reaches outside by more than this is a stray, whose row is going to be rejected. So
# many of all boxes may be strays; so many of the others may exceed the side by less.
SLACK, STRAYS, EXCEEDING = 1.02, 0.01, 0.001
# Original pixels: boxes fill the pictures' longer sides to this share.
ORIGINAL_REACH = 0.9
# A given frame is doubted if no box comes this close to one of its sides.
GIVEN_REACH = 0.96

# The fit shows where a picture's shape differs from the frame's: padding leaves bands at two sides.
# A band counts from this share of the frame's side on, …
NARROWEST_BAND = 0.03
# … and a box is in it if it reaches further than this from the picture's edge (also a share).
BAND_SLACK = 0.01
# Stretched: at least so many boxes and this share of those beside bands lie in them, and this share
# of as many as would if pictures had been stretched, where that is known.
FEWEST_IN_BAND, SHARE_IN_BAND, SHARE_OF_EXPECTED = 5, 0.01, 0.4
# Padded: at most this share does, where so many would if pictures had been stretched. How many
# would is told by as many pictures at least that have no band on that side.
STRAYS_IN_BAND, FEWEST_EXPECTED = 0.002, 40.0
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
    fits = [(side, note) for side in KNOWN_SIDES if (note := _reaches(corners, side)) is not None]
    inside = (corners[:, 2:] <= SLACK * sizes).all(axis=1)
    original_too = (
        inside.mean() >= 1 - STRAYS
        and _reach_of_large(corners[inside], sizes[inside]) >= ORIGINAL_REACH
    )
    if fits and not original_too:
        side, note = fits[0]
        return (side, side), f"{len(boxes)} boxes, {note}: a frame of {side} x {side}"
    seen = f"{len(boxes)} boxes, largest coordinate {corners.max():g}"
    if original_too and not fits:
        return None, f"{seen}, {inside.mean():.1%} inside of their picture: original pixels"
    reason = "which fits two frames" if fits else "which fits no known frame"
    raise ThinEvidence(f"--frame auto cannot tell: {seen}, {reason}: name the frame")


def _reaches(corners: np.ndarray, side: int) -> str | None:
    """What says that boxes fill a frame of this side and stay inside; None where they do not."""
    largest = np.sort(corners.max(axis=1))
    strays = int((largest > SLACK * side).sum())
    kept = largest[: len(largest) - strays]
    if strays > STRAYS * len(largest) or not len(kept):
        return None
    top = float(kept[len(kept) - 1 - int(EXCEEDING * len(kept))])
    if not REACH * side <= top <= side + ROUNDING:
        return None
    return f"largest coordinate {top:g}" + (f" but for {strays} boxes outside" if strays else "")


def doubt_frame(boxes: Boxes, size: Size | None) -> str | None:
    """What speaks against a given frame (None: original pixels), or None where nothing does.

    Raises ThinEvidence where there are too few boxes to tell.
    """
    if len(boxes) < FEWEST_BOXES:
        raise ThinEvidence(f"not checked, for that takes {FEWEST_BOXES} boxes, found {len(boxes)}")
    corners, sizes = _arrays(boxes)
    sides = sizes if size is None else np.array(size, dtype=float)
    used = (corners[:, 2:] / sides).max(axis=1)
    strays = float((used > SLACK).mean())
    if strays > STRAYS:
        return f"{len(boxes)} boxes, {strays:.1%} reach outside of it"
    inside = used <= SLACK
    if size is None:
        reach, least = _reach_of_large(corners[inside], sizes[inside]), ORIGINAL_REACH
    else:
        reach, least = float(used[inside].max()), GIVEN_REACH
    if reach < least:
        return f"{len(boxes)} boxes, none reaches further than {reach:.0%} of its sides"
    return None


def _reach_of_large(corners: np.ndarray, sizes: np.ndarray) -> float:
    """How much of the longer half of all sides the boxes use: near 1 in original pixels.

    In a frame the coordinates do not grow with the picture, so they fill its small sides only.
    """
    large = sizes >= np.median(sizes)
    return float((corners[:, 2:] / sizes)[large].max(initial=0.0))


def _arrays(boxes: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """Boxes as (n, 4) and sizes as (n, 2)."""
    corners = np.array([box for box, _ in boxes], dtype=float).reshape(-1, 4)
    sizes = np.array([size for _, size in boxes], dtype=float).reshape(-1, 2)
    return corners, sizes


@dataclass(frozen=True)
class BandEvidence:
    """How boxes lie to the bands that padding would leave.

    `boxes` are those in pictures with bands wide enough to tell; `in_band` of them reach into a
    band, and `expected` would if pictures had been stretched. `expected` is 0 where too few
    pictures without such a band tell how far boxes reach. `widest` is the widest band there is,
    as a share of the frame's side.
    """

    boxes: int
    in_band: int
    expected: float
    widest: float

    @property
    def share(self) -> float:
        return self.in_band / self.boxes if self.boxes else 0.0


def band_evidence(boxes: Boxes, frame: Size) -> BandEvidence:
    """Measures the boxes against the bands that padding into `frame` (width, height) implies."""
    corners, sizes = _arrays(boxes)
    sides = np.array(frame, dtype=float)
    scale = (sides / sizes).min(axis=1, keepdims=True)
    # Bands left and right in the first column, above and below in the second, as shares of the
    # frame's side: in each row one of them is 0. The same for the gap from a box to the frame.
    bands = (sides - sizes * scale) / 2 / sides
    gaps = np.minimum(corners[:, :2], sides - corners[:, 2:]) / sides
    counted = in_band = 0
    expected = 0.0
    for axis in (0, 1):
        tells = bands[:, axis] >= NARROWEST_BAND
        limits = bands[tells, axis] - BAND_SLACK
        counted += int(tells.sum())
        in_band += int((gaps[tells, axis] < limits).sum())
        # Boxes in pictures without a band here lie the same whatever the fit is.
        free = np.sort(gaps[bands[:, axis] <= SAME_BAND, axis])
        if len(free) >= FEWEST_BOXES:
            expected += float(np.searchsorted(free, limits).sum() / len(free))
    return BandEvidence(counted, in_band, expected, float(bands.max(initial=0.0)))


def infer_fit(boxes: Boxes, frame: Size) -> tuple[Fit, str]:
    """How pictures were brought into `frame`, and the evidence in a sentence.

    Raises ThinEvidence where too few pictures differ in shape from the frame, or where boxes do
    not enter the bands and would hardly do so in stretched pictures either.
    """
    found = band_evidence(boxes, frame)
    if len(boxes) >= FEWEST_BOXES and found.widest <= SAME_BAND:
        return "stretch", "all pictures have the frame's shape: stretched or padded is the same"
    seen = (
        f"{found.boxes} boxes in pictures that padding would give bands: {found.in_band} reach "
        f"into them, about {found.expected:.0f} would if stretched"
    )
    if found.boxes < FEWEST_BOXES:
        raise ThinEvidence(
            f"--fit auto needs {FEWEST_BOXES} boxes in pictures whose shape differs from the "
            f"frame's, found {found.boxes}: name the fit"
        )
    is_as_expected = (
        found.expected < FEWEST_EXPECTED or found.in_band >= SHARE_OF_EXPECTED * found.expected
    )
    if found.in_band >= FEWEST_IN_BAND and found.share >= SHARE_IN_BAND and is_as_expected:
        return "stretch", f"{seen}: stretched"
    if found.share <= STRAYS_IN_BAND and found.expected >= FEWEST_EXPECTED:
        return "pad", f"{seen}: padded"
    raise ThinEvidence(f"--fit auto cannot tell: {seen}: name the fit")
