"""A parametric chest: where every region lies in one picture, and its possible findings.

All coordinates here are fractions of the picture's width and height, x to the right and
y down. As in a radiograph, the patient's right lung is on the left of the picture.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from reward.boxes_in_text import Box

Side = Literal["right", "left"]
Kind = Literal["opacity", "effusion", "raised", "enlarged", "device"]

SIDES: tuple[Side, Side] = ("right", "left")
ZONES = ("upper", "mid", "lower")
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
# Each kind of finding as a verb phrase about its region, …
SEEN = {
    "opacity": "shows an opacity",
    "effusion": "shows a pleural effusion",
    "raised": "is raised",
    "enlarged": "is enlarged",
    "device": "shows a device",
}
# … and as a noun.
THING = {
    "opacity": "an opacity",
    "effusion": "a pleural effusion",
    "raised": "elevation",
    "enlarged": "enlargement",
    "device": "a device",
}
# How far a raised hemidiaphragm lies above its usual position, in lung heights.
RAISED_BY = 0.22


@dataclass(frozen=True)
class Lung:
    """One lung: the straight edges that its outline touches."""

    side: Side
    medial: float
    lateral: float
    top: float
    bottom: float
    dome: float

    @property
    def box(self) -> Box:
        x1, x2 = sorted((self.medial, self.lateral))
        return (x1, self.top, x2, self.bottom)

    @property
    def height(self) -> float:
        return self.bottom - self.top

    def x_at(self, share: float) -> float:
        """Return x at a share of the way from the medial (0) to the lateral edge (1)."""
        return self.medial + share * (self.lateral - self.medial)


@dataclass(frozen=True)
class Anatomy:
    """Shapes of one chest, from which both the picture and the boxes are made."""

    lungs: dict[Side, Lung]
    midline: float
    heart: Box
    trachea: Box
    arch: Box
    spine: Box
    hila: dict[Side, Box]
    clavicles: dict[Side, Box]


def sample_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw a patient's chest without findings.

    The two lungs share most of their variation in height, so that comparing the sides shows a
    raised hemidiaphragm; their widths vary independently.
    """
    scale_x, scale_y = (1 + 0.085 * _bell(rng) for _ in range(2))
    midline = 0.5 + 0.038 * _bell(rng)
    middle = 0.43 + 0.038 * _bell(rng)
    height = 0.58 * scale_y
    lungs = {
        side: _sample_lung(rng, side, midline, middle - height / 2, height, scale_x)
        for side in SIDES
    }
    return Anatomy(
        lungs=lungs,
        midline=midline,
        heart=_sample_heart(rng, lungs, midline, enlarged=False),
        trachea=_around(
            midline + 0.012 * _bell(rng),
            lungs["right"].top + 0.07 * scale_y,
            0.10 * _stretch(rng),
            0.29 * scale_y * _stretch(rng),
        ),
        arch=_around(
            midline + 0.065 * scale_x + 0.012 * _bell(rng),
            lungs["left"].top + (0.30 + 0.03 * _bell(rng)) * lungs["left"].height,
            0.14 * scale_x * _stretch(rng),
            0.14 * scale_y * _stretch(rng),
        ),
        spine=_around(midline, 0.5, 0.105 * _stretch(rng), 0.94),
        hila={side: _sample_hilum(rng, lungs[side]) for side in SIDES},
        clavicles={side: _sample_clavicle(rng, lungs[side], midline) for side in SIDES},
    )


def reposition(anatomy: Anatomy, rng: np.random.Generator) -> Anatomy:
    """Return the same patient in another picture, shifted a little."""
    dx, dy = (0.015 * _bell(rng) for _ in range(2))

    def move(box: Box) -> Box:
        return _inside((box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy))

    lungs = {
        side: replace(
            lung,
            medial=_clip(lung.medial + dx),
            lateral=_clip(lung.lateral + dx),
            top=_clip(lung.top + dy),
            bottom=_clip(lung.bottom + dy),
        )
        for side, lung in anatomy.lungs.items()
    }
    return Anatomy(
        lungs=lungs,
        midline=anatomy.midline + dx,
        heart=move(anatomy.heart),
        trachea=move(anatomy.trachea),
        arch=move(anatomy.arch),
        spine=move(anatomy.spine),
        hila={side: move(box) for side, box in anatomy.hila.items()},
        clavicles={side: move(box) for side, box in anatomy.clavicles.items()},
    )


def region_boxes(anatomy: Anatomy) -> dict[str, Box]:
    boxes: dict[str, Box] = {
        "cardiac silhouette": anatomy.heart,
        "trachea": anatomy.trachea,
        "aortic arch": anatomy.arch,
        "spine": anatomy.spine,
    }
    for side in SIDES:
        lung = anatomy.lungs[side]
        x1, top, x2, bottom = lung.box
        boxes[f"{side} lung"] = lung.box
        cuts = [top + share * lung.height for share in (0.0, 1 / 3, 2 / 3, 1.0)]
        for zone, y1, y2 in zip(ZONES, cuts, cuts[1:], strict=False):
            boxes[f"{side} {zone} lung zone"] = (x1, y1, x2, y2)
        boxes[f"{side} hemidiaphragm"] = (x1, bottom - lung.dome - 0.035, x2, bottom + 0.035)
        near, far = sorted((lung.x_at(0.42), lung.x_at(1.06)))
        angle = (near, bottom - 0.32 * lung.height, far, bottom + 0.03)
        boxes[f"{side} costophrenic angle"] = angle
        boxes[f"{side} hilar structures"] = anatomy.hila[side]
        boxes[f"{side} clavicle"] = anatomy.clavicles[side]
    return {name: _inside(box) for name, box in boxes.items()}


def further_boxes(anatomy: Anatomy) -> dict[str, Box]:
    """Return the regions that `region_boxes` leaves out; together they are the published 29.

    Their boxes follow from the others: the picture is the same whether or not they are named.
    """
    right, left, middle = anatomy.lungs["right"], anatomy.lungs["left"], anatomy.midline
    heart, trachea, arch = anatomy.heart, anatomy.trachea, anatomy.arch
    top, base = min(right.top, left.top), max(right.bottom, left.bottom)
    split, carina = max(heart[1], arch[3]), trachea[3]
    # An enlarged heart may reach up to the arch.
    svc = (middle - 0.085, arch[1], middle - 0.015, max(heart[1], arch[1] + 0.08) + 0.03)
    boxes: dict[str, Box] = {
        f"{side} apical zone": (*lung.box[:2], lung.box[2], lung.top + 0.18 * lung.height)
        for side, lung in anatomy.lungs.items()
    }
    boxes |= {
        "mediastinum": (middle - 0.11, top, max(middle + 0.11, arch[2]), heart[3]),
        "upper mediastinum": (middle - 0.11, top, max(middle + 0.11, arch[2]), split),
        "svc": svc,
        "carina": (middle - 0.045, carina - 0.045, middle + 0.045, carina + 0.045),
        "right atrium": (heart[0], (heart[1] + heart[3]) / 2, middle, heart[3]),
        "cavoatrial junction": (svc[0] - 0.01, svc[3] - 0.035, svc[2] + 0.015, svc[3] + 0.035),
        "abdomen": (right.lateral - 0.03, base, left.lateral + 0.03, 0.99),
    }
    return {name: _inside(box) for name, box in boxes.items()}


@dataclass(frozen=True, order=True)
class Finding:
    """A finding of one kind in one named region."""

    kind: Kind
    region: str

    @property
    def side(self) -> Side:
        """Side of its region, which must have one: not for the heart."""
        return "right" if self.region.startswith("right") else "left"

    @property
    def name(self) -> str:
        """Noun phrase without an article, such as "opacity in the left lung"."""
        return {
            "opacity": f"opacity in the {self.region}",
            "effusion": f"pleural effusion at the {self.region}",
            "raised": f"raised {self.region}",
            "enlarged": "enlarged heart",
            "device": f"device in the {self.region}",
        }[self.kind]


def possible_findings() -> tuple[Finding, ...]:
    """Return every finding that a picture can have, in a fixed order."""
    findings = [Finding("opacity", region) for region in ZONE_REGIONS]
    findings += [Finding("effusion", f"{side} costophrenic angle") for side in SIDES]
    findings += [Finding("raised", f"{side} hemidiaphragm") for side in SIDES]
    findings += [Finding("enlarged", HEART)]
    findings += [Finding("device", f"{side} upper lung zone") for side in SIDES]
    return tuple(findings)


def sample_findings(rng: np.random.Generator) -> tuple[Finding, ...]:
    """Draw the findings of one picture: none in about one of twelve pictures, most often two."""
    findings: list[Finding] = []
    if rng.random() < 0.42:
        findings.append(Finding("enlarged", HEART))
    for side in SIDES:
        if rng.random() < 0.21:
            findings.append(Finding("effusion", f"{side} costophrenic angle"))
    if rng.random() < 0.34:
        findings.append(Finding("raised", f"{SIDES[rng.integers(2)]} hemidiaphragm"))
    if rng.random() < 0.36:
        findings.append(Finding("device", f"{SIDES[rng.integers(2)]} upper lung zone"))
    abnormal = {finding.region for finding in findings}
    free = [region for region in ZONE_REGIONS if region not in abnormal]
    count = int(rng.choice(3, p=[0.35, 0.45, 0.20]))
    indices = rng.choice(len(free), size=count, replace=False)
    findings += [Finding("opacity", free[index]) for index in sorted(indices)]
    return tuple(sorted(findings))


def asked_regions() -> tuple[str, ...]:
    """Return every region that a finding can be in."""
    return tuple(dict.fromkeys(finding.region for finding in possible_findings()))


def seen_in(region: str, findings: tuple[Finding, ...]) -> str:
    """Return what a region looks like, as a verb phrase such as "shows an opacity"."""
    for finding in findings:
        if finding.region == region:
            return SEEN[finding.kind]
    if region in ZONE_REGIONS:
        return "is clear"
    if region.endswith("costophrenic angle"):
        return "is sharp"
    return "are normal" if region.endswith("structures") else "is normal"


def sentence_about(region: str, findings: tuple[Finding, ...]) -> str:
    """Return what a region looks like, as an answer such as "Raised left hemidiaphragm."."""
    for finding in findings:
        if finding.region == region:
            return f"{finding.name[0].upper()}{finding.name[1:]}."
    if region == HEART:
        return "The heart is normal in size."
    return f"The {region} {seen_in(region, findings)}."


def with_findings(
    anatomy: Anatomy, findings: tuple[Finding, ...], rng: np.random.Generator
) -> Anatomy:
    """Return the anatomy with raised hemidiaphragms and an enlarged heart, if they are found."""
    lungs = dict(anatomy.lungs)
    for finding in findings:
        if finding.kind == "raised":
            lung = lungs[finding.side]
            bottom, dome = lung.bottom - RAISED_BY * lung.height, min(1.35 * lung.dome, 0.16)
            lungs[finding.side] = replace(lung, bottom=bottom, dome=dome)
    heart = anatomy.heart
    if any(finding.kind == "enlarged" for finding in findings):
        heart = _sample_heart(rng, lungs, anatomy.midline, enlarged=True)
    return replace(anatomy, lungs=lungs, heart=heart)


def _sample_lung(
    rng: np.random.Generator, side: Side, midline: float, top: float, height: float, scale: float
) -> Lung:
    direction = -1 if side == "right" else 1
    gap = 0.065 * scale * _stretch(rng)
    width = 0.31 * scale * (1 + 0.075 * _bell(rng))
    top_of_side = top + 0.010 * _bell(rng)
    return Lung(
        side=side,
        medial=_clip(midline + direction * gap),
        lateral=_clip(midline + direction * (gap + width)),
        top=_clip(top_of_side),
        bottom=_clip(top_of_side + height * (1 + 0.02 * _bell(rng))),
        dome=0.095 * _stretch(rng),
    )


def _sample_heart(
    rng: np.random.Generator, lungs: dict[Side, Lung], midline: float, *, enlarged: bool
) -> Box:
    chest = abs(lungs["left"].lateral - lungs["right"].lateral)
    ratio = (0.64 if enlarged else 0.42) + 0.022 * _bell(rng)
    width = ratio * chest
    height = (0.78 if enlarged else 0.86) * width * (1 + 0.05 * _bell(rng))
    centre = midline + 0.14 * width + 0.008 * _bell(rng)
    base = max(lungs["left"].bottom, lungs["right"].bottom) - 0.02
    return _inside((centre - width / 2, base - height, centre + width / 2, base))


def _sample_hilum(rng: np.random.Generator, lung: Lung) -> Box:
    return _around(
        lung.x_at(0.16 + 0.03 * _bell(rng)),
        lung.top + (0.46 + 0.03 * _bell(rng)) * lung.height,
        0.17 * _stretch(rng),
        0.22 * _stretch(rng),
    )


def _sample_clavicle(rng: np.random.Generator, lung: Lung, midline: float) -> Box:
    rise = 0.095 * _stretch(rng)
    y = lung.top + (0.13 + 0.03 * _bell(rng)) * lung.height
    inner = midline + (0.03 if lung.side == "left" else -0.03)
    x1, x2 = sorted((inner, lung.x_at(0.95)))
    return _inside((x1, y - rise - 0.01, x2, y + 0.02))


def _bell(rng: np.random.Generator) -> float:
    """Draw a normal deviate, cut at 2.2 so that no chest leaves the picture."""
    return min(max(rng.standard_normal(), -2.2), 2.2)


def _stretch(rng: np.random.Generator) -> float:
    return 1 + 0.08 * _bell(rng)


def _around(x: float, y: float, width: float, height: float) -> Box:
    return _inside((x - width / 2, y - height / 2, x + width / 2, y + height / 2))


def _clip(value: float) -> float:
    return float(min(max(value, 0.01), 0.99))


def _inside(box: Box) -> Box:
    return (_clip(box[0]), _clip(box[1]), _clip(box[2]), _clip(box[3]))
