"""The pictures that rows name: which are missing, their sizes, and smaller copies for a model."""

import hashlib
import io
import json
import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from data_prep import dicom
from data_prep.coordinates import Size
from data_prep.program import InputError, whole_file

MANIFEST = "manifest.jsonl"
"""The list that `data_prep.images` writes with its copies, a line of JSON for each."""
MANIFEST_LOG = ".manifest.log"
"""The log that replaces the manifest while copies are made."""
MISSING = "missing_images.txt"
DEEP = "deep_image"
"""Reject code of pictures that training cannot read as they are: DICOM, and greyscale of more than
8 bits a channel, which it would cut off. Copies of `data_prep.images` replace them."""
PICTURE_ERRORS = (
    *(OSError, ValueError, SyntaxError, Image.DecompressionBombError),
    *dicom.DAMAGE,
)
"""What Pillow and `data_prep.dicom` raise for files that are no picture."""
PHYSIONET = "https://physionet.org/files/mimic-cxr-jpg/2.1.0"
COPY_SUFFIXES = (".jpg", ".png", ".webp")
_SUBJECT = re.compile(r"(?:^|/)(p\d{6,})/(?:(s\d+)/)?")
_LAYOUT = re.compile(r"(p\d\d/p\d+/s\d+/[^/\s]+\.jpg)$")


@dataclass(frozen=True)
class Picture:
    """A picture: its absolute path, its (width, height) in pixels, and those of its original.

    The sizes differ for a copy made by `data_prep.images`; boxes still refer to the original.
    `turned` says how the copy of a DICOM file was turned (`data_prep.dicom.turn_unit`).
    """

    path: str
    size: Size
    original: Size
    turned: str = ""


def patient_and_study(image_path: str) -> tuple[str, str] | None:
    """Return `("p10000032", "s50414267")` from a path in MIMIC-CXR's layout; None for others."""
    match = _SUBJECT.search(image_path)
    return (match[1], match[2] or "") if match else None


class Folder:
    """A folder of pictures in MIMIC-CXR-JPG's layout, with or without `files/`."""

    def __init__(self, folder: Path) -> None:
        self._originals = read_manifest(folder)
        # The likelier folder first, which saves time on slow disks.
        self._roots = [folder / "files", folder] if (folder / "files").is_dir() else [folder]

    def measure(self, name: str) -> Picture | str:
        """Return the picture of that name, measured by its header, or a reject code."""
        path = self.locate(name)
        if path is None:
            return "missing_image"
        try:
            if path.suffix.lower() in dicom.SUFFIXES:
                dicom.dicom_size(path)
                return DEEP
            with Image.open(path) as picture:
                size, mode = picture.size, picture.mode
        except PICTURE_ERRORS:
            return "unreadable_image"
        if is_deep(mode):
            return DEEP
        original = self._original(path) if self._originals else Original(size)
        return Picture(str(path), size, original.size, original.turned)

    @property
    def holds_copies(self) -> bool:
        return bool(self._originals)

    def is_windowed(self, path: Path) -> bool:
        """Return whether a file is the copy of a DICOM file, or of other deep greyscale."""
        return self.holds_copies and self._original(path).windowed

    def _original(self, path: Path) -> "Original":
        original = self._originals.get(_key(path.relative_to(self._roots[-1])))
        if original is None:
            raise InputError(
                f"{path} is not in the {MANIFEST} of its folder, so its original's size is not "
                "known: remove it and run data_prep.images again"
            )
        return original

    def locate(self, name: str) -> Path | None:
        """Return the file of that name, or its copy or DICOM file; None if there is none."""
        relative = name.strip().lstrip("/")
        if not relative or "\0" in relative or ".." in relative.split("/"):
            return None
        paths = [root / relative for root in self._roots]
        if relative.startswith("files/"):
            paths.append(self._roots[-1] / relative.removeprefix("files/"))
        suffixes = COPY_SUFFIXES if self._originals else dicom.SUFFIXES
        for path in paths:
            try:
                for candidate in (path, *map(path.with_suffix, suffixes)):
                    if candidate.is_file():
                        return candidate
            except OSError:  # the name is too long for the file system
                continue
        return None


def _key(path: Path) -> str:
    """Return a path below the folder of pictures, without ``files/`` and without its suffix."""
    return path.with_suffix("").as_posix().removeprefix("files/")


class Original(NamedTuple):
    """The (width, height) of a copy's original, how it was turned, and whether it was windowed."""

    size: Size
    turned: str = ""
    windowed: bool = False


def read_manifest(folder: Path) -> dict[str, Original]:
    """Return the originals of the copies in a folder; refuse unfinished copies."""
    originals: dict[str, Original] = {}
    roots = [folder, folder.parent] if folder.name == "files" else [folder]
    for root in roots:
        if (root / MANIFEST_LOG).is_file():
            raise InputError(f"{root} holds unfinished copies: run data_prep.images again")
    for file in (root / MANIFEST for root in roots if (root / MANIFEST).is_file()):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            try:
                entry = json.loads(line)
                width, height = entry["original_size"]
                turned = str(entry.get("turned", ""))
                key = _key(Path(entry["path"]))
                originals[key] = Original(
                    (int(width), int(height)), turned, bool(entry.get("windowed"))
                )
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    f"{file} line {number} is damaged: run data_prep.images again"
                ) from None
    return originals


def find_pictures(names: Iterable[str], folder: Path, workers: int) -> dict[str, Picture | str]:
    """Return the picture of each name, sorted by name, or its reject code.

    Sizes come from the headers of the files, without decoding pixels. There are four threads for
    each of `workers`, since they mostly wait for the disk.
    """
    ordered = sorted(set(names))
    with (
        ThreadPoolExecutor(4 * max(1, workers)) as pool,
        tqdm(total=len(ordered), desc="reading image headers", unit="image") as bar,
    ):
        pictures = {}
        for name, picture in zip(ordered, pool.map(Folder(folder).measure, ordered), strict=True):
            pictures[name] = picture
            bar.update()
    return pictures


def missing_urls(pictures: Mapping[str, Picture | str]) -> list[str]:
    """Return the addresses on PhysioNet of missing pictures, if in MIMIC-CXR-JPG's layout."""
    matches = (
        _LAYOUT.search(name) for name, picture in pictures.items() if picture == "missing_image"
    )
    return sorted({f"{PHYSIONET}/files/{match[1]}" for match in matches if match})


def copy_command(images: Path) -> str:
    """Return the command that makes 8-bit copies of a folder's pictures."""
    return f"python -m data_prep.images --images {shlex.quote(str(images))} --out COPIES"


def download_command(list_file: Path, images: Path) -> str:
    """Return the command that fetches the listed pictures into the folder of images."""
    root = images.parent if images.name == "files" else images
    # --cut-dirs removes files/mimic-cxr-jpg/2.1.0 from the path of the address.
    return (
        f"wget --continue --force-directories --no-host-directories --cut-dirs=3 "
        f"--user PHYSIONET_USER --ask-password --directory-prefix {shlex.quote(str(root))} "
        f"--input-file {shlex.quote(str(list_file))}"
    )


FILTER = Image.Resampling.BILINEAR
"""A triangle filter, which Pillow widens when it shrinks, so it does not alias. It takes half the
time of the bicubic one, and costs less quality than JPEG at quality 90."""
FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


def is_deep(mode: str) -> bool:
    """Return whether pictures in a mode of Pillow have more than 8 bits a channel."""
    # No colour mode has: Pillow reads only the upper 8 bits of deeper colour.
    return mode.startswith("I") or mode == "F"


def to_gray_or_rgb(picture: Image.Image) -> Image.Image:
    """Return the picture in mode L or RGB, of the same size."""
    mode = picture.mode
    if mode in ("L", "RGB"):
        return picture
    if is_deep(mode):
        return _windowed(picture)
    if mode == "RGBA":
        white = Image.new("RGB", picture.size, "white")
        white.paste(picture, mask=picture.getchannel("A"))
        return white
    return picture.convert("L" if mode in ("1", "LA") else "RGB")


def to_rgb8(picture: Image.Image) -> Image.Image:
    return to_gray_or_rgb(picture).convert("RGB")


def _windowed(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture, dtype=np.float64)
    grey = dicom.scaled(values, dicom.window(values))
    return Image.fromarray((255 * grey).round().astype(np.uint8))


def read_picture(
    source: Path | BinaryIO, check: Callable[[Size], None] = dicom.any_size
) -> Image.Image:
    """Return the picture of any file that Pillow or pydicom reads, in mode L or RGB, of full size.

    Greyscale of more than 8 bits a channel is windowed. A DICOM file is shown as `data_prep.dicom`
    says. A stream may be given in place of a path, such as an upload. `check` gets the (width,
    height) before pixels are decoded, and may raise: a small file may hold a huge picture.

    Raises:
        ValueError: The file is no picture, or does not decode; one line says why.
        OSError: The file cannot be read at all.
    """
    try:
        if dicom.is_dicom(source):
            return dicom.read_dicom(source, check).picture
        with Image.open(source) as picture:
            check(picture.size)
            return to_gray_or_rgb(picture).copy()
    except UnidentifiedImageError:  # its message names an object of Python
        raise ValueError("no known format") from None
    except PICTURE_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(str(error) or type(error).__name__) from None


@dataclass(frozen=True)
class Recipe:
    """How copies are made: their longest side in pixels, file suffix, and quality."""

    long_side: int
    ending: str
    quality: int

    def target(self, size: Size) -> Size:
        """Return the (width, height) of a copy of a picture of `size`, which is never enlarged."""
        scale = min(1.0, self.long_side / max(size))
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def draft_size(target: Size) -> Size:
    """Return the smallest (width, height) at which to decode a JPEG for a copy of `target` size."""
    return math.ceil(1.25 * target[0]), math.ceil(1.25 * target[1])


def make_copy(source: Path, target: Path, recipe: Recipe) -> dict[str, Any]:
    """Write a copy of `source` and return its entry in the manifest, without `path`.

    A JPEG is decoded at a half, a quarter or an eighth of its size if that leaves a quarter more
    pixels than needed on each side.

    Raises:
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: The file is no picture.
    """
    small, about = (
        _shrink_dicom(source, recipe) if dicom.is_dicom(source) else _shrink(source, recipe)
    )
    buffer = io.BytesIO()
    options: dict[str, Any] = {} if recipe.ending == "png" else {"quality": recipe.quality}
    small.save(buffer, FORMATS[recipe.ending], **options)
    content = buffer.getvalue()
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as temporary:
        temporary.write_bytes(content)
    return {
        "size": list(small.size),
        **about,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }


def _shrink(source: Path, recipe: Recipe) -> tuple[Image.Image, dict[str, Any]]:
    """Return a smaller picture, and what the manifest says of its original."""
    with Image.open(source) as picture:
        about: dict[str, Any] = {"original_size": list(picture.size)}
        size = recipe.target(picture.size)
        picture.draft(picture.mode, draft_size(size))
        picture.load()
        if is_deep(picture.mode):
            about["windowed"] = True
        return to_gray_or_rgb(picture).resize(size, FILTER, reducing_gap=1.5), about


def _shrink_dicom(source: Path, recipe: Recipe) -> tuple[Image.Image, dict[str, Any]]:
    picture, original, turned = dicom.read_dicom(source)
    about = {"original_size": list(original), "windowed": True}
    about |= {"turned": turned} if turned else {}
    return picture.resize(recipe.target(picture.size), FILTER, reducing_gap=1.5), about
