"""The frame that boxes are read in: as given and checked, or inferred."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from data_prep.coordinates import Frame, Size, parse_frame
from data_prep.errors import InputError
from data_prep.frames import Boxes, ThinEvidence, doubt_frame, infer_fit, infer_frame
from data_prep.pictures import Picture
from data_prep.scan import Scan, sampled_boxes
from data_prep.settings import Settings


@dataclass(frozen=True)
class FrameChoice:
    """The frame that boxes are read in, and what is known for and against it."""

    frame: Frame
    evidence: str
    doubts: list[str]


def choose_frame(
    settings: Settings, found: Scan, pictures: Mapping[str, Picture | str]
) -> FrameChoice:
    """The frame and fit as given or inferred; what is given is checked against the boxes.

    Raises InputError where something is to be inferred and the evidence is thin.
    """
    boxes = sampled_boxes(found.sample, pictures)
    seen, doubts = [], []
    try:
        size, evidence = infer_frame(boxes)
        inferred: str | None = evidence
    except ThinEvidence as doubt:
        if settings.frame == "auto":
            raise InputError(str(doubt)) from None
        size, inferred = None, None
    if settings.frame == "auto":
        seen.append(evidence)
    else:
        given = parse_frame(settings.frame)
        doubt_of, note = _check_given(boxes, given, inferred if size != given else None)
        if doubt_of:
            doubts.append(f"--frame {settings.frame} is at odds with the boxes ({doubt_of})")
        seen.append(f"frame as given by --frame{note}")
        size = given
    if size is None:
        return FrameChoice(Frame(None), "; ".join(seen), doubts)
    try:
        fit, evidence = infer_fit(boxes, size)
        if settings.fit == "auto":
            seen.append(evidence)
        elif fit != settings.fit and not doubts:
            doubts.append(f"--fit {settings.fit} is at odds with the boxes ({evidence})")
    except ThinEvidence as doubt:
        if settings.fit == "auto":
            raise InputError(str(doubt)) from None
        fit = "stretch"
    if settings.fit != "auto":
        fit = "pad" if settings.fit == "pad" else "stretch"
        seen.append("fit as given by --fit")
    return FrameChoice(Frame(size, fit), "; ".join(seen), doubts)


def _check_given(boxes: Boxes, given: Size | None, other: str | None) -> tuple[str | None, str]:
    """What speaks against a given frame, and what is to be said of its check.

    `other` is the evidence for another frame, where there is such.
    """
    try:
        return other or doubt_frame(boxes, given), ""
    except ThinEvidence as doubt:
        return None, f", {doubt}"
