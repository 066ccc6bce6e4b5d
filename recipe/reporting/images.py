"""Images as data URIs, so that the page carries them itself."""

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

LONGEST_SIDE = 640


class ImageMissing(Exception):
    """An image cannot be shown; the message says why."""


def data_uri(image: Any, folders: tuple[Path, ...] = ()) -> str:
    """The image as a JPEG data URI of at most `LONGEST_SIDE` pixels a side.

    Args:
        image: what the rollout parquet's `images[].image` holds: a path, bytes, or a struct with
            `bytes` or `path`.
        folders: a relative path is looked for here, in this order.

    Raises:
        ImageMissing: there is no such file, or it is not an image.
    """
    source, name = _source(image, folders)
    try:
        with Image.open(source) as opened:
            picture = opened.convert("RGB")
    except OSError as error:
        raise ImageMissing(f"{name} is not a readable image") from error
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _source(image: Any, folders: tuple[Path, ...]) -> tuple[io.BytesIO | Path, str]:
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, bytes):
        return io.BytesIO(image), "the embedded image"
    if not isinstance(image, str) or not image:
        raise ImageMissing("the row has no image")
    path = Path(image.removeprefix("file://"))
    for candidate in (path, *(folder / path for folder in folders)):
        if candidate.is_file():
            return candidate, str(path)
    raise ImageMissing(f"{path} does not exist")
