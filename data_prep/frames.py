"""Infers from the boxes in which frame a dataset writes them."""

from __future__ import annotations

from collections.abc import Sequence

from data_prep.coordinates import Size
from reward.numbers import Box

KNOWN_SIDES = (224, 336)
FEWEST_BOXES = 200
# A side is believed if the largest coordinate comes this close to it, …
REACH = 0.9
# … and all but this share of the boxes stay inside it, by this much.
STRAYS, SLACK = 0.001, 1.02


class ThinEvidence(Exception):
    """The boxes do not tell the frame; the text says why and what to do."""


def infer_frame(boxes: Sequence[tuple[Box, Size]]) -> tuple[Size | None, str]:
    """The frame's size, None for original pixels, and the evidence in a sentence.

    `boxes` are pairs of a box and its picture's original (width, height). Raises ThinEvidence
    where there are too few boxes, or where they fit no frame or two.
    """
    if len(boxes) < FEWEST_BOXES:
        raise ThinEvidence(
            f"--frame auto needs {FEWEST_BOXES} boxes, found {len(boxes)}: name the frame"
        )
    largest = sorted(max(box) for box, _ in boxes)
    # The largest coordinate but for the strays.
    top = largest[max(0, len(largest) - 1 - int(STRAYS * len(largest)))]
    seen = f"{len(boxes)} boxes, largest coordinate {top:g}"
    inside = sum(
        box[2] <= SLACK * size[0] and box[3] <= SLACK * size[1] for box, size in boxes
    ) / len(boxes)
    fits = [side for side in KNOWN_SIDES if REACH * side <= top <= SLACK * side]
    original_too = inside >= 1 - STRAYS and _reaches_edges(boxes)
    if fits and not original_too:
        return (fits[0], fits[0]), f"{seen}: a frame of {fits[0]} x {fits[0]}"
    if original_too and not fits:
        return None, f"{seen}, {inside:.1%} inside of their picture: original pixels"
    reason = "which fits two frames" if fits else "which fits no known frame"
    raise ThinEvidence(f"--frame auto cannot tell: {seen}, {reason}: name the frame")


def _reaches_edges(boxes: Sequence[tuple[Box, Size]]) -> bool:
    """Whether the boxes use their pictures' whole size, not just a corner of it."""
    return max(max(box[2] / size[0], box[3] / size[1]) for box, size in boxes) >= REACH
