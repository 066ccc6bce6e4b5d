"""Writes an item in the dataset's style: reasoning with boxes inline, tagged response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

import numpy as np

from data_prep.phantom.findings import Finding, seen_in
from data_prep.phantom.questions import Item

FrameBox = tuple[int, int, int, int]

_CLOSERS = ("So the {}.", "Therefore, the {}.")
_VARIANT_SHARES = (0.88, 0.04, 0.04, 0.04)


def impression(findings: tuple[Finding, ...]) -> str:
    """All findings of a picture in one sentence."""
    names = ", ".join(finding.name for finding in findings)
    return f"Impression: {names or 'no abnormality'}."


def reasoning(
    item: Item,
    findings: tuple[Finding, ...],
    boxes: Mapping[str, FrameBox],
    rng: np.random.Generator,
    further: Sequence[str] = (),
    words: int = 0,
) -> str:
    """All findings of the picture, what is seen in each cited region, then a conclusion.

    What decides on a choice is followed by its letter. Of the regions in `further` so many are
    told about too that the text has about `words` words.

    Boxes are written after the region's name as `[x1, y1, x2, y2]` or `([x1, y1, x2, y2])`.
    """
    bracketed = rng.random() < 0.3
    sentences = [impression(findings)]
    for region, letter in zip_longest((*item.regions, *item.also), item.letters):
        box = f"({_box(boxes[region])})" if bracketed else _box(boxes[region])
        choice = f" (choice {letter})" if letter else ""
        sentences.append(f"The {region} {box} {seen_in(region, findings)}{choice}.")
    cited = {*item.regions, *item.also}
    length = sum(len(sentence.split()) for sentence in sentences)
    for region in further:
        if region not in cited and length < words:
            sentences.append(f"The {region} {_box(boxes[region])} {seen_in(region, findings)}.")
            length += len(sentences[-1].split())
    sentences.append(_CLOSERS[rng.integers(len(_CLOSERS))].format(item.conclusion))
    return " ".join(sentences)


def annotated(regions: Sequence[tuple[str, FrameBox, str | None]]) -> str:
    """What is seen in each region, by (name, box, what is seen), as a table of findings tells it.

    A region of which nothing is told (None) is left out.
    """
    return " ".join(f"The {name} {_box(box)} {seen}." for name, box, seen in regions if seen)


def response(item: Item, boxes: Mapping[str, FrameBox], rng: np.random.Generator) -> str:
    """The answer and its regions, in one of the variants that the dataset's readers meet.

    Mostly repeated `<ref>…</ref><box>…</box>` pairs inside `<response>`; a few without the
    wrapper, and a few with one `<ref>` and one `<box>` that list everything.
    """
    variant = int(rng.choice(4, p=_VARIANT_SHARES))
    written = [_box(boxes[region]) for region in item.regions]
    if variant >= 2:
        mark = ", " if variant == 2 else "; "
        listed = written[0] if len(written) == 1 else f"[{', '.join(written)}]"
        location = f"<ref>{mark.join(item.regions)}</ref><box>{listed}</box>"
    else:
        location = "".join(
            f"<ref>{region}</ref><box>{box}</box>"
            for region, box in zip(item.regions, written, strict=True)
        )
    inner = f"<answer>{item.answer}</answer><location>{location}</location>"
    return inner if variant == 1 else f"<response>{inner}</response>"


def _box(box: FrameBox) -> str:
    return f"[{box[0]}, {box[1]}, {box[2]}, {box[3]}]"
