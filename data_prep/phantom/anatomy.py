"""The parametric chest: where every region lies in one picture.

All coordinates here are fractions of the picture's width and height, x to the right and
y down. As in a radiograph, the patient's right lung is on the left of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Side = Literal["right", "left"]
UnitBox = tuple[float, float, float, float]

SIDES: tuple[Side, Side] = ("right", "left")
ZONES = ("upper", "mid", "lower")
# How far a raised hemidiaphragm stands above its usual place, in lung heights.
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
    def box(self) -> UnitBox:
        x1, x2 = sorted((self.medial, self.lateral))
        return (x1, self.top, x2, self.bottom)

    @property
    def width(self) -> float:
        return abs(self.lateral - self.medial)

    @property
    def height(self) -> float:
        return self.bottom - self.top

    def x_at(self, share: float) -> float:
        """x at a share of the way from the medial (0) to the lateral edge (1)."""
        return self.medial + share * (self.lateral - self.medial)


@dataclass(frozen=True)
class Anatomy:
    """What is drawn, and what the boxes are read from."""

    lungs: dict[Side, Lung]
    midline: float
    heart: UnitBox
    trachea: UnitBox
    arch: UnitBox
    spine: UnitBox
    hila: dict[Side, UnitBox]
    clavicles: dict[Side, UnitBox]


def sample_anatomy(rng: np.random.Generator) -> Anatomy:
    """A patient's chest without findings.

    The lungs of a patient share most of their jitter in height (so that a raised
    hemidiaphragm can be told by comparing sides), and have their own in width.
    """
    scale_x, scale_y = 1 + 0.085 * _bell(rng, 2)
    midline = 0.5 + 0.038 * float(_bell(rng))
    middle = 0.43 + 0.038 * float(_bell(rng))
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
            midline + 0.012 * float(_bell(rng)),
            lungs["right"].top + 0.07 * scale_y,
            0.10 * _stretch(rng),
            0.29 * scale_y * _stretch(rng),
        ),
        arch=_around(
            midline + 0.065 * scale_x + 0.012 * float(_bell(rng)),
            lungs["left"].top + (0.30 + 0.03 * float(_bell(rng))) * lungs["left"].height,
            0.14 * scale_x * _stretch(rng),
            0.14 * scale_y * _stretch(rng),
        ),
        spine=_around(midline, 0.5, 0.105 * _stretch(rng), 0.94),
        hila={side: _sample_hilum(rng, lungs[side]) for side in SIDES},
        clavicles={side: _sample_clavicle(rng, lungs[side], midline) for side in SIDES},
    )


def reposition(anatomy: Anatomy, rng: np.random.Generator) -> Anatomy:
    """The same patient in another picture: moved a little as a whole."""
    dx, dy = 0.015 * _bell(rng, 2)

    def move(box: UnitBox) -> UnitBox:
        return _inside((box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy))

    def move_lung(lung: Lung) -> Lung:
        return replace(
            lung,
            medial=_clip(lung.medial + dx),
            lateral=_clip(lung.lateral + dx),
            top=_clip(lung.top + dy),
            bottom=_clip(lung.bottom + dy),
        )

    return Anatomy(
        lungs={side: move_lung(lung) for side, lung in anatomy.lungs.items()},
        midline=anatomy.midline + dx,
        heart=move(anatomy.heart),
        trachea=move(anatomy.trachea),
        arch=move(anatomy.arch),
        spine=move(anatomy.spine),
        hila={side: move(box) for side, box in anatomy.hila.items()},
        clavicles={side: move(box) for side, box in anatomy.clavicles.items()},
    )


def with_enlarged_heart(anatomy: Anatomy, rng: np.random.Generator) -> Anatomy:
    """The anatomy with a heart of more than half the chest's width."""
    return replace(anatomy, heart=_sample_heart(rng, anatomy.lungs, anatomy.midline, enlarged=True))


def with_raised_diaphragm(anatomy: Anatomy, side: Side) -> Anatomy:
    """The anatomy with one lung's base, and so its hemidiaphragm, pushed up."""
    lung = anatomy.lungs[side]
    raised = replace(
        lung, bottom=lung.bottom - RAISED_BY * lung.height, dome=min(1.35 * lung.dome, 0.16)
    )
    return replace(anatomy, lungs={**anatomy.lungs, side: raised})


def region_boxes(anatomy: Anatomy) -> dict[str, UnitBox]:
    """Every named region's box, as fractions of the picture."""
    boxes: dict[str, UnitBox] = {
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
        boxes[f"{side} costophrenic angle"] = _angle_box(lung)
        boxes[f"{side} hilar structures"] = anatomy.hila[side]
        boxes[f"{side} clavicle"] = anatomy.clavicles[side]
    return {name: _inside(box) for name, box in boxes.items()}


def further_boxes(anatomy: Anatomy) -> dict[str, UnitBox]:
    """The regions that `region_boxes` leaves out, so that together they are the published 29.

    Where they lie follows from the others: they are in the picture whether or not they are named.
    """
    right, left, middle = anatomy.lungs["right"], anatomy.lungs["left"], anatomy.midline
    heart, trachea, arch = anatomy.heart, anatomy.trachea, anatomy.arch
    top, base, split = (
        min(right.top, left.top),
        max(right.bottom, left.bottom),
        max(heart[1], arch[3]),
    )
    carina = trachea[3]
    # An enlarged heart may reach up to the arch.
    svc = (middle - 0.085, arch[1], middle - 0.015, max(heart[1], arch[1] + 0.08) + 0.03)
    boxes: dict[str, UnitBox] = {
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


def _angle_box(lung: Lung) -> UnitBox:
    x1, x2 = sorted((lung.x_at(0.42), lung.x_at(1.06)))
    return (x1, lung.bottom - 0.32 * lung.height, x2, lung.bottom + 0.03)


def _sample_lung(
    rng: np.random.Generator, side: Side, midline: float, top: float, height: float, scale: float
) -> Lung:
    away = -1 if side == "right" else 1
    gap = 0.065 * scale * float(_stretch(rng))
    width = 0.31 * scale * (1 + 0.075 * float(_bell(rng)))
    own_top = top + 0.010 * float(_bell(rng))
    return Lung(
        side=side,
        medial=_clip(midline + away * gap),
        lateral=_clip(midline + away * (gap + width)),
        top=_clip(own_top),
        bottom=_clip(own_top + height * (1 + 0.02 * float(_bell(rng)))),
        dome=0.095 * float(_stretch(rng)),
    )


def _sample_heart(
    rng: np.random.Generator, lungs: dict[Side, Lung], midline: float, *, enlarged: bool
) -> UnitBox:
    chest = abs(lungs["left"].lateral - lungs["right"].lateral)
    ratio = (0.64 if enlarged else 0.42) + 0.022 * float(_bell(rng))
    width = ratio * chest
    height = (0.78 if enlarged else 0.86) * width * (1 + 0.05 * float(_bell(rng)))
    centre = midline + 0.14 * width + 0.008 * float(_bell(rng))
    base = max(lungs["left"].bottom, lungs["right"].bottom) - 0.02
    return _inside((centre - width / 2, base - height, centre + width / 2, base))


def _sample_hilum(rng: np.random.Generator, lung: Lung) -> UnitBox:
    return _around(
        lung.x_at(0.16 + 0.03 * float(_bell(rng))),
        lung.top + (0.46 + 0.03 * float(_bell(rng))) * lung.height,
        0.17 * float(_stretch(rng)),
        0.22 * float(_stretch(rng)),
    )


def _sample_clavicle(rng: np.random.Generator, lung: Lung, midline: float) -> UnitBox:
    rise = 0.095 * float(_stretch(rng))
    y = lung.top + (0.13 + 0.03 * float(_bell(rng))) * lung.height
    inner = midline + (0.03 if lung.side == "left" else -0.03)
    x1, x2 = sorted((inner, lung.x_at(0.95)))
    return _inside((x1, y - rise - 0.01, x2, y + 0.02))


def _bell(rng: np.random.Generator, size: int | None = None) -> np.ndarray:
    """Normal deviates cut at 2.2, so that no chest leaves the picture."""
    return np.clip(rng.standard_normal(size), -2.2, 2.2)


def _stretch(rng: np.random.Generator) -> float:
    return 1 + 0.08 * float(_bell(rng))


def _around(x: float, y: float, width: float, height: float) -> UnitBox:
    return _inside((x - width / 2, y - height / 2, x + width / 2, y + height / 2))


def _clip(value: float) -> float:
    return float(min(max(value, 0.01), 0.99))


def _inside(box: UnitBox) -> UnitBox:
    return (_clip(box[0]), _clip(box[1]), _clip(box[2]), _clip(box[3]))
