"""Findings: which there are, where they can be, and how each is put into words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from data_prep.phantom.anatomy import SIDES, ZONES, Side

Kind = Literal["opacity", "effusion", "raised", "enlarged", "device"]

ZONE_REGIONS = tuple(f"{side} {zone} lung zone" for side in SIDES for zone in ZONES)
HEART = "cardiac silhouette"
# Regions that are drawn and boxed, and never carry a finding.
QUIET_REGIONS = (
    "trachea",
    "aortic arch",
    "spine",
    "right clavicle",
    "left clavicle",
    "right hilar structures",
    "left hilar structures",
)


@dataclass(frozen=True, order=True)
class Finding:
    """A finding of one kind in one named region."""

    kind: Kind
    region: str

    @property
    def side(self) -> Side:
        """The side it is on; "right" and "left" only, so not for the heart."""
        return "right" if self.region.startswith("right") else "left"

    @property
    def name(self) -> str:
        """As a noun phrase without an article, e.g. "opacity in the left lung"."""
        return {
            "opacity": f"opacity in the {self.region}",
            "effusion": f"pleural effusion at the {self.region}",
            "raised": f"raised {self.region}",
            "enlarged": "enlarged heart",
            "device": f"device in the {self.region}",
        }[self.kind]


SEEN = {
    "opacity": "shows an opacity",
    "effusion": "shows a pleural effusion",
    "raised": "is raised",
    "enlarged": "is enlarged",
    "device": "shows a device",
}
THING = {
    "opacity": "an opacity",
    "effusion": "a pleural effusion",
    "raised": "elevation",
    "enlarged": "enlargement",
    "device": "a device",
}


def possible_findings() -> tuple[Finding, ...]:
    """Every finding that a picture can have, in a fixed order."""
    found = [Finding("opacity", region) for region in ZONE_REGIONS]
    found += [Finding("effusion", f"{side} costophrenic angle") for side in SIDES]
    found += [Finding("raised", f"{side} hemidiaphragm") for side in SIDES]
    found += [Finding("enlarged", HEART)]
    found += [Finding("device", f"{side} upper lung zone") for side in SIDES]
    return tuple(found)


def sample_findings(rng: np.random.Generator) -> tuple[Finding, ...]:
    """The findings of one picture: none in about one of twelve, most often two."""
    found: list[Finding] = []
    if rng.random() < 0.42:
        found.append(Finding("enlarged", HEART))
    for side in SIDES:
        if rng.random() < 0.21:
            found.append(Finding("effusion", f"{side} costophrenic angle"))
    if rng.random() < 0.34:
        found.append(Finding("raised", f"{SIDES[rng.integers(2)]} hemidiaphragm"))
    if rng.random() < 0.36:
        found.append(Finding("device", f"{SIDES[rng.integers(2)]} upper lung zone"))
    taken = {finding.region for finding in found}
    free = [region for region in ZONE_REGIONS if region not in taken]
    count = int(rng.choice(3, p=[0.35, 0.45, 0.20]))
    picked = rng.choice(len(free), size=count, replace=False)
    found += [Finding("opacity", free[index]) for index in sorted(picked)]
    return tuple(sorted(found))


def asked_regions() -> tuple[str, ...]:
    """Every region that a finding can be in."""
    return tuple(dict.fromkeys(finding.region for finding in possible_findings()))


def seen_in(region: str, findings: tuple[Finding, ...]) -> str:
    """What a region looks like, as a verb phrase, e.g. "shows an opacity"."""
    for finding in findings:
        if finding.region == region:
            return SEEN[finding.kind]
    if region in ZONE_REGIONS:
        return "is clear"
    if region.endswith("costophrenic angle"):
        return "is sharp"
    return "are normal" if region.endswith("structures") else "is normal"


def sentence_about(region: str, findings: tuple[Finding, ...]) -> str:
    """What a region looks like, as an answer, e.g. "Raised left hemidiaphragm."."""
    for finding in findings:
        if finding.region == region:
            return f"{finding.name[0].upper()}{finding.name[1:]}."
    if region == HEART:
        return "The heart is normal in size."
    return f"The {region} {seen_in(region, findings)}."
