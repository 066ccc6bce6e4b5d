"""A chest with its findings, drawn as a greyscale picture."""

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from data_prep.coordinates import Size
from phantom.draw.chest import SIDES, Anatomy, Finding, Lung, region_boxes
from reward.boxes_in_text import Box

Points = list[tuple[float, float]]

AIR, BODY, LUNG, HEART, ABDOMEN = 12, 96, 34, 158, 150
BONE, OPACITY, FLUID, METAL = 122, 205, 200, 255


class Canvas:
    """A greyscale picture; positions are fractions of its width and height."""

    def __init__(self, size: Size, background: int = 0) -> None:
        self.image = Image.new("L", size, background)
        self._draw = ImageDraw.Draw(self.image)
        self._width, self._height = size

    def ellipse(self, box: Box, fill: int) -> None:
        self._draw.ellipse(self._pixels([(box[0], box[1]), (box[2], box[3])]), fill=fill)

    def polygon(self, points: Points, fill: int) -> None:
        self._draw.polygon(self._pixels(points), fill=fill)

    def rectangle(self, box: Box, fill: int) -> None:
        x1, y1, x2, y2 = box
        self.polygon([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], fill)

    def line(self, points: Points, fill: int, width: float) -> None:
        """Draw a line; `width` is a fraction of the picture's width."""
        pixels = max(1, round(width * self._width))
        self._draw.line(self._pixels(points), fill=fill, width=pixels, joint="curve")

    def _pixels(self, points: Points) -> Points:
        return [(x * self._width, y * self._height) for x, y in points]


def draw_chest(
    anatomy: Anatomy,
    findings: tuple[Finding, ...],
    size: Size,
    rng: np.random.Generator,
) -> Image.Image:
    """Draw the picture, in mode "L", of `size` (width, height) in pixels.

    The anatomy is already changed by `with_findings`; `rng` draws shapes, exposure and grain.
    """
    canvas = Canvas(size, AIR)
    _draw_body(canvas, anatomy)
    for side in SIDES:
        canvas.polygon(_lung_outline(anatomy.lungs[side]), LUNG)
        _draw_ribs(canvas, anatomy.lungs[side])
    _draw_mediastinum(canvas, anatomy)
    picture = canvas.image.filter(ImageFilter.BoxBlur(size[0] / 130))
    picture = ImageChops.lighter(picture, _soft_findings(anatomy, findings, size, rng))
    picture = _expose(picture, rng)
    return _draw_devices(picture, anatomy, findings)


def _draw_body(canvas: Canvas, anatomy: Anatomy) -> None:
    right, left = anatomy.lungs["right"], anatomy.lungs["left"]
    x1, x2 = right.lateral - 0.075, left.lateral + 0.075
    top, base = right.top, max(right.bottom, left.bottom)
    centre = anatomy.midline
    canvas.polygon(
        [
            (centre - 0.10, 0.0),
            (centre - 0.11, top - 0.03),
            (x1 - 0.03, top + 0.06),
            (x1, base),
            (x1 + 0.02, 1.0),
            (x2 - 0.02, 1.0),
            (x2, base),
            (x2 + 0.03, top + 0.06),
            (centre + 0.11, top - 0.03),
            (centre + 0.10, 0.0),
        ],
        BODY,
    )
    for lung in (right, left):
        edge = [(lung.x_at(share), _dome_y(lung, share)) for share in np.linspace(1.06, -0.1, 16)]
        canvas.polygon([(lung.x_at(1.06), 1.0), *edge, (lung.x_at(-0.25), 1.0)], ABDOMEN)


def _lung_outline(lung: Lung) -> Points:
    down = np.linspace(0.0, 1.0, 20)
    rise = np.sqrt(np.clip(1 - (1 - np.minimum(down / 0.6, 1.0)) ** 2, 0, 1))
    lateral = 0.45 + 0.55 * rise
    medial = 0.45 * np.clip(1 - down / 0.28, 0, 1) ** 2
    ys = lung.top + down * lung.height
    outer = [(lung.x_at(share), y) for share, y in zip(lateral, ys, strict=True)]
    base = [(lung.x_at(share), _dome_y(lung, share)) for share in np.linspace(1, 0, 16)]
    floor = base[-1][1]
    inner = [(lung.x_at(s), y) for s, y in zip(medial, ys, strict=True) if y < floor]
    return outer + base + inner[::-1]


def _dome_y(lung: Lung, share: float) -> float:
    """Return y of the hemidiaphragm at a share of the way from medial (0) to lateral (1)."""
    arch = float(np.sin(np.pi * np.clip(0.15 + 0.85 * share, 0, 1)))
    return lung.bottom - lung.dome * arch


def _draw_ribs(canvas: Canvas, lung: Lung) -> None:
    for share in np.linspace(0.10, 0.86, 7):
        y = lung.top + share * lung.height
        reach = 0.45 + 0.55 * float(np.sqrt(1 - (1 - min((share + 0.06) / 0.6, 1.0)) ** 2))
        steps = np.linspace(0.05, reach - 0.02, 8)
        curve = [
            (lung.x_at(step), y - 0.035 * float(np.sin(np.pi * step)) + 0.05 * step**2)
            for step in steps
        ]
        canvas.line(curve, 62, 0.012)


def _draw_mediastinum(canvas: Canvas, anatomy: Anatomy) -> None:
    middle, heart, spine = anatomy.midline, anatomy.heart, anatomy.spine
    top = anatomy.lungs["right"].top
    canvas.polygon(
        [(middle - 0.045, 0), (middle + 0.045, 0), (middle + 0.06, 1), (middle - 0.06, 1)], 118
    )
    canvas.polygon([(middle - 0.05, top), (middle + 0.05, top),
                    (middle + 0.07, heart[3]), (middle - 0.07, heart[3])], 126)  # fmt: skip
    for side in SIDES:
        canvas.ellipse(anatomy.hila[side], 112)
    canvas.ellipse(anatomy.arch, HEART)
    canvas.ellipse(heart, HEART)
    canvas.line([(spine[0], spine[1]), (spine[0], spine[3])], 168, 0.008)
    canvas.line([(spine[2], spine[1]), (spine[2], spine[3])], 168, 0.008)
    for y in np.linspace(spine[1] + 0.03, spine[3] - 0.03, 13):
        canvas.line([(spine[0], y), (spine[2], y)], 165, 0.008)
    canvas.rectangle(anatomy.trachea, 48)
    for side in SIDES:
        x1, y1, x2, y2 = anatomy.clavicles[side]
        # The outer end is higher than the inner one.
        ends = [(x1, y1), (x2, y2)] if side == "right" else [(x1, y2), (x2, y1)]
        canvas.line(ends, BONE + 60, 0.022)


def _soft_findings(
    anatomy: Anatomy,
    findings: tuple[Finding, ...],
    size: Size,
    rng: np.random.Generator,
) -> Image.Image:
    canvas = Canvas(size)
    boxes = region_boxes(anatomy)
    for finding in findings:
        if finding.kind == "opacity":
            canvas.ellipse(_opacity_box(boxes[finding.region], rng), OPACITY)
        elif finding.kind == "effusion":
            canvas.polygon(_fluid_outline(anatomy.lungs[finding.side]), FLUID)
    return canvas.image.filter(ImageFilter.BoxBlur(size[0] / 70))


def _opacity_box(zone: Box, rng: np.random.Generator) -> Box:
    x1, y1, x2, y2 = zone
    # Near the centre of the zone, a little to one side.
    cx = x1 + (x2 - x1) * float(rng.uniform(0.42, 0.58))
    cy = y1 + (y2 - y1) * float(rng.uniform(0.46, 0.58))
    half_w = (x2 - x1) * float(rng.uniform(0.27, 0.34))
    half_h = (y2 - y1) * float(rng.uniform(0.34, 0.42))
    return (cx - half_w, cy - half_h, cx + half_w, cy + half_h)


def _fluid_outline(lung: Lung) -> Points:
    """Return the outline of fluid between chest wall and diaphragm, with a curved surface."""
    shares = np.linspace(1.02, 0.52, 10)
    depth = np.linspace(1.0, 0.0, 10) ** 1.6
    low = lung.bottom - 0.4 * lung.dome
    surface = [
        (lung.x_at(share), low - 0.26 * lung.height * rise)
        for share, rise in zip(shares, depth, strict=True)
    ]
    return [*surface, (lung.x_at(0.52), lung.bottom + 0.01), (lung.x_at(1.02), lung.bottom + 0.02)]


def _expose(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Vary exposure and contrast, and add grain."""
    gain, offset = rng.uniform(0.88, 1.10), rng.uniform(-8, 14)
    pixels = np.asarray(picture, dtype=np.float32) * np.float32(gain) + np.float32(offset)
    grain = rng.integers(-9, 10, size=pixels.shape, dtype=np.int8)
    return Image.fromarray(np.clip(pixels + grain, 0, 242).astype(np.uint8))


def _draw_devices(
    picture: Image.Image, anatomy: Anatomy, findings: tuple[Finding, ...]
) -> Image.Image:
    """Draw each device: a bright generator in the upper lung zone with a lead into the heart."""
    canvas = Canvas(picture.size)
    canvas.image.paste(picture)
    for finding in findings:
        if finding.kind != "device":
            continue
        x1, y1, x2, y2 = region_boxes(anatomy)[finding.region]
        lung, heart = anatomy.lungs[finding.side], anatomy.heart
        cx, cy = lung.x_at(0.66), y1 + 0.62 * (y2 - y1)
        half_w, half_h = 0.19 * (x2 - x1), 0.22 * (y2 - y1)
        canvas.rectangle((cx - half_w, cy - half_h, cx + half_w, cy + half_h), METAL)
        tip = ((heart[0] + heart[2]) / 2, (heart[1] + 2 * heart[3]) / 3)
        bend = (lung.x_at(0.08), y1 + 0.25 * (y2 - y1))
        canvas.line([(cx, cy - half_h), bend, (bend[0], (bend[1] + tip[1]) / 2), tip], METAL, 0.012)
    return canvas.image
