"""Questions and reports that the tiny model is pre-trained on, about pictures with known content.

They have the parts that answers of the data set are made of, not its questions: what regions look
like, with boxes, and the letters of choices.
"""

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep.coordinates import Size
from reward.boxes_in_text import Box

COLUMNS = ("image_path", "impression", "findings", "regions")
"""Columns of `pictures.parquet`, which `phantom.draw` writes."""
REGIONS = 4  # regions in a report, and choices of a question
ABNORMAL = 2  # of the regions in a report, drawn first among those with a finding
FORM_SHARES = {"regions": 0.25, "letters": 0.25, "selection": 0.5}


@dataclass(frozen=True)
class Picture:
    """A picture and its content."""

    image: dict[str, Any]  # of the rollout row: its path and the bounds of its size in pixels
    findings: tuple[tuple[str, str], ...]  # (name, region) of each finding
    regions: dict[str, Box]  # box of each named region, as fractions of width and height
    impression: str = ""  # a sentence with all findings
    seen: dict[str, str] | None = None  # verb phrase about each region that may be described


def training_pictures(truth: Path, rollouts: Path) -> list[Picture]:
    """Return the pictures that are in ``pictures.parquet`` and the rollout rows, by path."""
    images = {
        row["extra_info"]["image_path"]: row["images"][0]
        for row in pq.read_table(rollouts, columns=["images", "extra_info"]).to_pylist()
    }
    known = {row["image_path"]: row for row in pq.read_table(truth).to_pylist()}
    return [_picture(images[path], known[path]) for path in sorted(images.keys() & known.keys())]


def _picture(image: dict[str, Any], row: dict[str, Any]) -> Picture:
    return Picture(
        image=image,
        findings=tuple((finding["name"], finding["region"]) for finding in row["findings"]),
        regions={region["name"]: tuple(region["box"]) for region in row["regions"]},
        impression=row["impression"],
        seen={region["name"]: region["seen"] for region in row["regions"] if region["seen"]},
    )


@dataclass(frozen=True)
class Report:
    """A question and its answer."""

    question: str  # text of the user's turn
    text: str  # the answer, which the model learns to write
    beginning: str = ""  # what comes before it in the assistant's turn, and is not learned


class Reporter:
    """Draws questions about pictures, and writes their reports."""

    def __init__(self, pictures: Sequence[Picture], draw: random.Random) -> None:
        self.draw = draw
        self.findings = sorted({pair for picture in pictures for pair in picture.findings})

    def report(self, picture: Picture, size: Size) -> Report:
        """Return a report about a picture that is shown, with boxes in pixels of `size`."""
        question, sentences = self._ask(picture, size)
        return Report(question, f"<think>{' '.join([picture.impression, *sentences])}</think>")

    def reading(self, picture: Picture) -> Report:
        """Return practice with letters: the findings are written, and no picture is shown."""
        question, sentences = self._ask(picture, None)
        beginning = f"<think>{picture.impression}"
        return Report(question, f" {' '.join(sentences)}</think>", beginning)

    def _ask(self, picture: Picture, size: Size | None) -> tuple[str, list[str]]:
        """Return a question and the sentences of its report, without boxes if `size` is None."""
        (form,) = self.draw.choices(list(FORM_SHARES), list(FORM_SHARES.values()))
        if form == "selection" and len(picture.findings) > 0:
            return self._select(picture, size)
        regions = self._regions(picture)
        if form == "regions":
            question = f"Describe the {', the '.join(regions)}."
            return question, [_sentence(picture, name, size) for name in regions]
        letters, choices = self._choices(regions)
        question = f"Describe these regions. {choices}"
        return question, [_sentence(picture, name, size, letters[name]) for name in regions]

    def _regions(self, picture: Picture) -> list[str]:
        """Draw regions to describe, in random order, those with a finding first."""
        seen = picture.seen or {}
        abnormal = sorted({region for _, region in picture.findings} & seen.keys())
        regions = self.draw.sample(abnormal, min(ABNORMAL, len(abnormal)))
        remaining = sorted(seen.keys() - set(regions))
        regions += self.draw.sample(remaining, min(REGIONS - len(regions), len(remaining)))
        return self.draw.sample(regions, len(regions))

    def _select(self, picture: Picture, size: Size | None) -> tuple[str, list[str]]:
        """Offer findings or their regions, some of which the picture has; report on those."""
        findings = list(picture.findings)
        abnormal = {region for _, region in findings}
        present = self.draw.sample(findings, self.draw.randint(1, min(len(findings), REGIONS)))
        by_region = self.draw.random() < 0.5
        others = [
            pair
            for pair in self.findings
            if pair not in findings and not (by_region and pair[1] in abnormal)
        ]
        if by_region:
            others = list({region: (name, region) for name, region in others}.values())
        wrong = self.draw.sample(others, min(REGIONS - len(present), len(others)))
        column = 1 if by_region else 0
        letters, choices = self._choices([pair[column] for pair in [*present, *wrong]])
        named = sorted((letters[pair[column]], pair[1]) for pair in present)
        sentences = [_sentence(picture, region, size, letter) for letter, region in named]
        sentences.append(f"Reported: {', '.join(letter for letter, _ in named)}.")
        noun = "regions" if by_region else "findings"
        return f"Report those of these {noun} that are seen. {choices}", sentences

    def _choices(self, options: Sequence[str]) -> tuple[dict[str, str], str]:
        """Return the letter of each option, drawn at random, and the choices as a text."""
        order = self.draw.sample(options, len(options))
        letters = dict(zip(order, string.ascii_uppercase, strict=False))
        listed = ", ".join(f"{letter}: {option}" for option, letter in letters.items())
        return letters, f"<choices>: [{listed}]"


def _sentence(picture: Picture, region: str, size: Size | None, letter: str = "") -> str:
    """Return what a region looks like, with its box and the letter of its choice."""
    words = [f"The {region}"]
    if size is not None:
        edges = zip(picture.regions[region], (*size, *size), strict=True)
        words.append(str([round(share * side) for share, side in edges]))
    words.append((picture.seen or {})[region])
    if letter:
        words.append(f"(choice {letter})")
    return f"{' '.join(words)}."
