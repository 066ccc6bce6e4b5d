"""The frame and the fit of a dataset: those of the options, checked, or inferred from the boxes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.convert.examples import Scan, sampled_boxes
from data_prep.coordinates import Fit, Frame, Size, parse_frame
from data_prep.pictures import Picture
from data_prep.program import InputError
from data_prep.settings import Settings
from reward.boxes_in_text import Box

KNOWN_SIDES = (224, 336)
FEWEST_BOXES = 200
# A frame fits if the largest coordinate is at least the share REACH of its side (in published sets
# 222 of 224, and 333 of 336 or more) and at most ROUNDING units above it.
REACH, ROUNDING = 0.985, 1.0
# A box beyond SLACK sides is a stray, whose row will be rejected. At most the share STRAYS of all
# boxes may be strays; at most the share EXCEEDING of the others may be beyond the side.
SLACK, STRAYS, EXCEEDING = 1.02, 0.01, 0.001
# In original pixels, boxes reach at least this share of the longer sides of the pictures.
ORIGINAL_REACH = 0.9
# The frame of the option is doubted if no box reaches this share of one of its sides.
OPTION_REACH = 0.96

# Pictures of another shape than the frame show the fit: padding leaves bands at two sides.
# A band counts if it is at least this share of the frame's side.
NARROWEST_BAND = 0.03
# A box is in a band if it extends more than this share of the frame's side into it.
BAND_SLACK = 0.01
# Stretched, if the boxes in bands are at least FEWEST_IN_BAND, at least the share SHARE_IN_BAND of
# the boxes in such pictures, and, if the number expected of stretched pictures is known, at least
# the share SHARE_OF_EXPECTED of it.
FEWEST_IN_BAND, SHARE_IN_BAND, SHARE_OF_EXPECTED = 5, 0.01, 0.4
# Padded, if at most the share STRAYS_IN_BAND is in bands and stretching would put at least
# FEWEST_EXPECTED boxes there.
STRAYS_IN_BAND, FEWEST_EXPECTED = 0.002, 40.0
# If no band is wider than this share of the frame's side, both fits give the same boxes.
SAME_BAND = 0.002

Boxes = Sequence[tuple[Box, Size]]
"""Boxes in the frame, each with its picture's original (width, height)."""


class ThinEvidence(Exception):
    """The boxes are not enough to show the frame or the fit; the text says why and what to do."""


def infer_frame(boxes: Boxes) -> tuple[Size | None, str]:
    """Return the size of the frame, None for original pixels, and the evidence.

    Raises:
        ThinEvidence: Boxes are too few, or fit no known frame or two.
    """
    if len(boxes) < FEWEST_BOXES:
        raise ThinEvidence(
            f"--frame auto needs {FEWEST_BOXES} boxes, found {len(boxes)}: name the frame"
        )
    corners, sizes = _arrays(boxes)
    fits = [(side, note) for side in KNOWN_SIDES if (note := _reaches(corners, side)) is not None]
    inside = (corners[:, 2:] <= SLACK * sizes).all(axis=1)
    fits_original = (
        inside.mean() >= 1 - STRAYS
        and _reach_of_large(corners[inside], sizes[inside]) >= ORIGINAL_REACH
    )
    if fits and not fits_original:
        side, note = fits[0]
        return (side, side), f"{len(boxes)} boxes, {note}: a frame of {side} x {side}"
    evidence = f"{len(boxes)} boxes, largest coordinate {corners.max():g}"
    if fits_original and not fits:
        return None, f"{evidence}, {inside.mean():.1%} inside of their picture: original pixels"
    reason = "which fits two frames" if fits else "which fits no known frame"
    raise ThinEvidence(f"--frame auto cannot tell: {evidence}, {reason}: name the frame")


def _reaches(corners: np.ndarray, side: int) -> str | None:
    """Return the evidence that boxes fill a frame of this side and stay inside it, or None."""
    largest = np.sort(corners.max(axis=1))
    strays = int((largest > SLACK * side).sum())
    inside = largest[: len(largest) - strays]
    if strays > STRAYS * len(largest) or not len(inside):
        return None
    top = float(inside[len(inside) - 1 - int(EXCEEDING * len(inside))])
    if not REACH * side <= top <= side + ROUNDING:
        return None
    return f"largest coordinate {top:g}" + (f" but for {strays} boxes outside" if strays else "")


def doubt_frame(boxes: Boxes, size: Size | None) -> str | None:
    """Return the evidence against a frame (None: original pixels), None if there is none.

    Raises:
        ThinEvidence: Boxes are too few.
    """
    if len(boxes) < FEWEST_BOXES:
        raise ThinEvidence(f"not checked, for that takes {FEWEST_BOXES} boxes, found {len(boxes)}")
    corners, sizes = _arrays(boxes)
    sides = sizes if size is None else np.array(size, dtype=float)
    extents = (corners[:, 2:] / sides).max(axis=1)
    inside = extents <= SLACK
    strays = float((~inside).mean())
    if strays > STRAYS:
        return f"{len(boxes)} boxes, {strays:.1%} reach outside of it"
    if size is None:
        reach, least = _reach_of_large(corners[inside], sizes[inside]), ORIGINAL_REACH
    else:
        reach, least = float(extents[inside].max()), OPTION_REACH
    if reach < least:
        return f"{len(boxes)} boxes, none reaches further than {reach:.0%} of its sides"
    return None


def _reach_of_large(corners: np.ndarray, sizes: np.ndarray) -> float:
    """Return the share of the longer half of all sides that boxes reach: near 1 in original pixels.

    In a frame, coordinates do not grow with the picture, so boxes only reach across small pictures.
    """
    large = sizes >= np.median(sizes)
    return float((corners[:, 2:] / sizes)[large].max(initial=0.0))


def _arrays(boxes: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes as (n, 4) and sizes as (n, 2)."""
    corners = np.array([box for box, _ in boxes], dtype=float).reshape(-1, 4)
    sizes = np.array([size for _, size in boxes], dtype=float).reshape(-1, 2)
    return corners, sizes


@dataclass(frozen=True)
class BandEvidence:
    """How boxes lie relative to the bands that padding would leave."""

    boxes: int  # in pictures with bands wide enough to count
    in_band: int  # those of them that reach into a band
    # Their number if pictures had been stretched; 0 if too few pictures without such a band show
    # how far boxes reach.
    expected: float
    widest: float  # the widest band, as a share of the frame's side

    @property
    def share(self) -> float:
        return self.in_band / self.boxes if self.boxes else 0.0


def band_evidence(boxes: Boxes, frame: Size) -> BandEvidence:
    """Measure the boxes against the bands that padding into `frame` (width, height) implies."""
    corners, sizes = _arrays(boxes)
    sides = np.array(frame, dtype=float)
    scale = (sides / sizes).min(axis=1, keepdims=True)
    # Width of a band at the left and right (first column) and above and below (second column), of
    # which one is 0, and the gap from a box to the frame: all as shares of the frame's side.
    bands = (sides - sizes * scale) / 2 / sides
    gaps = np.minimum(corners[:, :2], sides - corners[:, 2:]) / sides
    counted = in_band = 0
    expected = 0.0
    for axis in (0, 1):
        is_wide = bands[:, axis] >= NARROWEST_BAND
        limits = bands[is_wide, axis] - BAND_SLACK
        counted += int(is_wide.sum())
        in_band += int((gaps[is_wide, axis] < limits).sum())
        # In pictures without a band on this axis, both fits give the same boxes.
        usual_gaps = np.sort(gaps[bands[:, axis] <= SAME_BAND, axis])
        if len(usual_gaps) >= FEWEST_BOXES:
            expected += float(np.searchsorted(usual_gaps, limits).sum() / len(usual_gaps))
    return BandEvidence(counted, in_band, expected, float(bands.max(initial=0.0)))


def infer_fit(boxes: Boxes, frame: Size) -> tuple[Fit, str]:
    """Infer how pictures were fitted into `frame`; return it with the evidence as text.

    Raises:
        ThinEvidence: Too few pictures differ in shape from the frame, or boxes do not reach into
            bands but would hardly do so in stretched pictures either.
    """
    bands = band_evidence(boxes, frame)
    if len(boxes) >= FEWEST_BOXES and bands.widest <= SAME_BAND:
        return "stretch", "all pictures have the frame's shape: stretched or padded is the same"
    evidence = (
        f"{bands.boxes} boxes in pictures that padding would give bands: {bands.in_band} reach "
        f"into them, about {bands.expected:.0f} would if stretched"
    )
    if bands.boxes < FEWEST_BOXES:
        raise ThinEvidence(
            f"--fit auto needs {FEWEST_BOXES} boxes in pictures whose shape differs from the "
            f"frame's, found {bands.boxes}: name the fit"
        )
    is_as_expected = (
        bands.expected < FEWEST_EXPECTED or bands.in_band >= SHARE_OF_EXPECTED * bands.expected
    )
    if bands.in_band >= FEWEST_IN_BAND and bands.share >= SHARE_IN_BAND and is_as_expected:
        return "stretch", f"{evidence}: stretched"
    if bands.share <= STRAYS_IN_BAND and bands.expected >= FEWEST_EXPECTED:
        return "pad", f"{evidence}: padded"
    raise ThinEvidence(f"--fit auto cannot tell: {evidence}: name the fit")


@dataclass(frozen=True)
class FrameChoice:
    """The frame of the dataset's boxes, the evidence for it and the doubts about it."""

    frame: Frame
    evidence: str
    doubts: list[str]


def choose_frame(
    settings: Settings, scanned: Scan, pictures: Mapping[str, Picture | str]
) -> FrameChoice:
    """Return the frame and fit of the options, checked, or those that enough boxes show."""
    boxes = sampled_boxes(scanned.sample, pictures)
    size, evidence, doubts = _choose_size(settings.frame, boxes)
    if size is None:
        return FrameChoice(Frame(None), evidence, doubts)
    try:
        fit, fit_evidence = infer_fit(boxes, size)
    except ThinEvidence as thin:
        if settings.fit == "auto":
            raise InputError(str(thin)) from None
    else:
        if settings.fit == "auto":
            return FrameChoice(Frame(size, fit), f"{evidence}; {fit_evidence}", doubts)
        if fit != settings.fit and not doubts:
            doubts = [f"--fit {settings.fit} is at odds with the boxes ({fit_evidence})"]
    fit = "pad" if settings.fit == "pad" else "stretch"
    return FrameChoice(Frame(size, fit), f"{evidence}; fit as given by --fit", doubts)


def _choose_size(option: str, boxes: Boxes) -> tuple[Size | None, str, list[str]]:
    """Return the size of the frame, the evidence for it, and doubts about the option."""
    try:
        inferred, evidence = infer_frame(boxes)
    except ThinEvidence as thin:
        if option == "auto":
            raise InputError(str(thin)) from None
        inferred, evidence = None, ""
    if option == "auto":
        return inferred, evidence, []
    size, note = parse_frame(option), ""
    try:
        doubt = evidence if evidence and inferred != size else doubt_frame(boxes, size)
    except ThinEvidence as thin:
        doubt, note = None, f", {thin}"
    doubts = [f"--frame {option} is at odds with the boxes ({doubt})"] if doubt else []
    return size, f"frame as given by --frame{note}", doubts
