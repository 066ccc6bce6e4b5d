"""Pictures of an external set: their places, 8-bit copies where needed, originals' sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data_prep.coordinates import Size
from data_prep.dicom import SUFFIXES as DICOM_SUFFIXES
from data_prep.external.items import Item, Reading, read_table
from data_prep.images import make_copies
from data_prep.pictures import DEEP, Folder, Picture, Recipe, find_pictures
from data_prep.program import InputError
from data_prep.settings import Settings

COPIES = "pictures"
COPY_RECIPE = Recipe(long_side=2048, ending="jpg", quality=95)


def find_set_pictures(
    items: Sequence[Item], settings: Settings, is_dicom: bool, sizes: Path | None
) -> tuple[dict[str, Picture | str], list[str]]:
    """Return the pictures by name, or what is wrong with them, and the name of each item's picture.

    Copies with 8 bits a channel are made of DICOM files and of deeper greyscale.

    Args:
        items: The questions.
        settings: Their folder of images, and where copies go.
        is_dicom: Boxes are in pixels of DICOM files, so the size of these must be known.
        sizes: Table of these sizes, for pictures that were resized from DICOM files.
    """
    folder = Folder(settings.images)
    known: dict[tuple[str, ...], str] = {}
    for item in items:
        images = tuple(item.images)
        if images not in known:
            known[images] = next((name for name in images if folder.locate(name)), images[0])
    pictures = find_pictures(known.values(), settings.images, settings.workers)
    deep = [name for name, picture in pictures.items() if picture == DEEP]
    if deep:
        pictures |= _copies(settings, folder, deep)
    known_sizes = _original_sizes(sizes) if sizes is not None else {}
    for name, picture in pictures.items():
        if is_dicom and isinstance(picture, Picture):
            pictures[name] = _with_original(picture, name, folder, known_sizes)
    return pictures, [known[tuple(item.images)] for item in items]


def _copies(settings: Settings, folder: Folder, names: list[str]) -> dict[str, Picture | str]:
    out = settings.out / COPIES
    located = {name: folder.locate(name) for name in names}
    relative = {
        name: path.relative_to(settings.images)
        for name, path in located.items()
        if path is not None
    }
    paths = sorted(set(relative.values()))
    make_copies(paths, settings.images, out, COPY_RECIPE, settings.workers)
    copies = find_pictures((str(path) for path in paths), out, settings.workers)
    # A copy that could not be made is missing: the original does not decode.
    return {
        name: picture if isinstance(picture := copies[str(path)], Picture) else "unreadable_image"
        for name, path in relative.items()
    }


def _original_sizes(path: Path) -> dict[str, Size]:
    rows = read_table(path, Reading(), ("image_id", "width", "height"), known=None)
    try:
        sizes = {row["image_id"]: (int(row["width"]), int(row["height"])) for row in rows}
    except ValueError:
        raise InputError(f"--sizes {path}: width and height must be whole numbers") from None
    for image, size in sizes.items():
        if min(size) < 1:
            raise InputError(f"--sizes {path}: {image} has no area: give its width and height")
    return sizes


def _with_original(
    picture: Picture, name: str, folder: Folder, sizes: Mapping[str, Size]
) -> Picture | str:
    """Return a picture with its original's size; other formats than DICOM do not say it."""
    if size := sizes.get(Path(name).stem):
        return replace(picture, original=size)
    located = folder.locate(name)
    # A copy of a picture that was resized already has the size of that one in its manifest.
    is_known = located and (located.suffix.lower() in DICOM_SUFFIXES or folder.is_windowed(located))
    return picture if is_known else "unknown_size"
