"""One picture to a smaller copy of it."""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from data_prep.coordinates import Size
from data_prep.files import whole_file

FILTER = Image.Resampling.BILINEAR
"""A triangle as wide as the pixels are merged (Pillow's filters do not alias). It takes half the
time of the bicubic one; what the copies lose by it is less than what JPEG of quality 90 loses."""
FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


@dataclass(frozen=True)
class Recipe:
    """How copies are made: the longest side in pixels, the format's ending, and its quality."""

    long_side: int
    ending: str
    quality: int

    def target(self, size: Size) -> Size:
        """The (width, height) of the copy of a picture of `size`; never larger than it."""
        scale = min(1.0, self.long_side / max(size))
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def draft_size(target: Size) -> Size:
    """The least (width, height) at which a JPEG is decoded for a copy of the `target` size."""
    return math.ceil(1.25 * target[0]), math.ceil(1.25 * target[1])


def make_copy(source: Path, target: Path, recipe: Recipe) -> dict[str, Any]:
    """Writes a copy of `source` and returns its line of the manifest, but for `path`.

    A JPEG is decoded at a half, a quarter or an eighth of its size where that leaves a quarter more
    pixels than needed on each side. Raises OSError, ValueError, SyntaxError or PIL's
    DecompressionBombError for what is no picture.
    """
    with Image.open(source) as picture:
        original = picture.size
        size = recipe.target(original)
        picture.draft(picture.mode, draft_size(size))
        picture.load()
        plain = picture if picture.mode in ("L", "RGB") else _plain(picture)
        small = plain.resize(size, FILTER, reducing_gap=1.5)
    buffer = io.BytesIO()
    options: dict[str, Any] = {} if recipe.ending == "png" else {"quality": recipe.quality}
    small.save(buffer, FORMATS[recipe.ending], **options)
    content = buffer.getvalue()
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as temporary:
        temporary.write_bytes(content)
    return {
        "size": list(size),
        "original_size": list(original),
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }


def _plain(picture: Image.Image) -> Image.Image:
    """The picture with 8 bits a channel: deep greyscale is scaled to its own range."""
    if picture.mode.startswith("I") or picture.mode == "F":
        import numpy as np  # for these pictures only

        values = np.asarray(picture, dtype=np.float64)
        low, high = float(values.min()), float(values.max())
        scaled = (values - low) * (255 / max(high - low, 1e-9))
        return Image.fromarray(scaled.round().astype(np.uint8))
    return picture.convert("L" if picture.mode in ("1", "LA") else "RGB")
