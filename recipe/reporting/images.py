"""Images as data URIs, so that the page carries them itself, each of them once."""

import base64
import io
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

# A page opens in about a second for every 15 MB: the more images, the smaller each of them.
# Most images -> longest side in pixels and quality of WebP, about 25, 11 and 5 kB each.
_FORMS = ((150, 640, 75), (600, 384, 70))
_SMALLEST = (320, 60)


class ImageMissing(Exception):
    """An image cannot be shown; the message says why."""


@dataclass(frozen=True)
class Embedded:
    """Images of many questions: `uris` without repeats, and for each key its place in them.

    `problems` says for the other keys why they have none.
    """

    uris: tuple[str, ...]
    places: Mapping[int, int]
    problems: Mapping[int, str]


def embed(images: Mapping[int, Any], folders: tuple[Path, ...] = ()) -> Embedded:
    """Encode every distinct image once; the values are as in `data_uri`."""
    sources: dict[Any, list[int]] = {}
    for key, image in images.items():
        sources.setdefault(_identity(image), []).append(key)
    firsts = [images[keys[0]] for keys in sources.values()]
    made = _encode_all(firsts, folders, form_for(len(firsts)))
    uris: list[str] = []
    places: dict[int, int] = {}
    problems: dict[int, str] = {}
    for keys, (uri, problem) in zip(sources.values(), made, strict=True):
        if uri is None:
            problems |= dict.fromkeys(keys, problem)
        else:
            places |= dict.fromkeys(keys, len(uris))
            uris.append(uri)
    return Embedded(tuple(uris), places, problems)


def form_for(count: int) -> tuple[int, int]:
    """The longest side in pixels and the quality at which `count` images go into a page."""
    fitting = (form for most, *form in _FORMS if count <= most)
    side, quality = next(fitting, _SMALLEST)
    return side, quality


def data_uri(image: Any, folders: tuple[Path, ...] = (), form: tuple[int, int] = _SMALLEST) -> str:
    """The image as a WebP data URI, never enlarged.

    Args:
        image: what the rollout parquet's `images[].image` holds: a path, bytes, or a struct with
            `bytes` or `path`.
        folders: a relative path is looked for here, in this order.
        form: longest side in pixels, quality from 0 to 100.

    Raises:
        ImageMissing: there is no such file, or it is not an image.
    """
    source, name = _source(image, folders)
    try:
        with Image.open(source) as opened:
            opened.draft("RGB", (2 * form[0], 2 * form[0]))
            picture = opened.convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise ImageMissing(f"{name} is not a readable image") from error
    picture.thumbnail((form[0], form[0]))
    stream = io.BytesIO()
    # Method 1 takes a quarter of the default's time for a twentieth more bytes.
    picture.save(stream, "WEBP", quality=form[1], method=1)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _encode_all(
    images: Iterable[Any], folders: tuple[Path, ...], form: tuple[int, int]
) -> Iterable[tuple[str | None, str]]:
    def encode(image: Any) -> tuple[str | None, str]:
        try:
            return data_uri(image, folders, form), ""
        except ImageMissing as error:
            return None, str(error)

    wanted = list(images)
    with ThreadPoolExecutor() as pool:
        progress = tqdm(
            pool.map(encode, wanted), total=len(wanted), desc="images", unit="image", delay=2
        )
        yield from progress


def _identity(image: Any) -> Any:
    """What is equal for equal images."""
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    return image


def _source(image: Any, folders: tuple[Path, ...]) -> tuple[io.BytesIO | Path, str]:
    image = _identity(image)
    if isinstance(image, bytes):
        return io.BytesIO(image), "the embedded image"
    if not isinstance(image, str) or not image:
        raise ImageMissing("the row has no image")
    path = Path(image.removeprefix("file://"))
    for candidate in (path, *(folder / path for folder in folders)):
        if candidate.is_file():
            return candidate, str(path)
    raise ImageMissing(f"{path} does not exist")
