"""Pictures of which it is known what they show, from `data_prep.phantom`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from PIL import Image

from data_prep.coordinates import smart_resize
from recipe.errors import InputError

COLUMNS = ("image_path", "impression", "findings", "regions")
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Picture:
    """What is known of a picture.

    Attributes:
        image: of the rollout row: a path, with the bounds of its size in pixels.
        findings: (name, region) of each.
        regions: box of each named region, (x1, y1, x2, y2) as fractions of width and height.
        impression: a sentence with all findings.
        seen: what each region that may be described looks like, as a verb phrase.
    """

    image: dict[str, Any]
    findings: tuple[tuple[str, str], ...]
    regions: dict[str, Box]
    impression: str = ""
    seen: dict[str, str] | None = None


def training_pictures(truth: Path, rollouts: Path) -> list[Picture]:
    """The pictures of a rollout parquet that a table of `data_prep.phantom` describes, by path.

    Args:
        truth: ``pictures.parquet``.
        rollouts: ``train.parquet``; its pictures and no others are used.
    """
    images = {
        row["extra_info"]["image_path"]: row["images"][0]
        for row in pq.read_table(rollouts, columns=["images", "extra_info"]).to_pylist()
    }
    known = {row["image_path"]: row for row in pq.read_table(truth).to_pylist()}
    return [_picture(images[path], known[path]) for path in sorted(images.keys() & known.keys())]


def check_images(pictures: Sequence[Picture], cell: int) -> None:
    """Check that all images are there and become equally large.

    Args:
        pictures: with the bounds of the rollout rows.
        cell: side in pixels of what becomes one image token.

    Raises:
        InputError: the first image that is missing, or of another size.
    """
    first: tuple[int, int] | None = None
    for picture in pictures:
        path, low, high = (picture.image[name] for name in ("image", "min_pixels", "max_pixels"))
        try:
            with Image.open(path) as image:
                size = smart_resize(image.size, cell, low, high)
        except OSError as error:
            raise InputError(f"{path}: this picture cannot be read ({error})") from error
        first = first or size
        if size != first:
            raise InputError(
                f"{path}: becomes {size[0]}x{size[1]}, others {first[0]}x{first[1]}: run "
                "python -m data_prep.thinkvg with --min-pixels 12544 --max-pixels 15680"
            )


def _picture(image: dict[str, Any], row: dict[str, Any]) -> Picture:
    return Picture(
        image=image,
        findings=tuple((each["name"], each["region"]) for each in row["findings"]),
        regions={each["name"]: tuple(each["box"]) for each in row["regions"]},
        impression=row["impression"],
        seen={each["name"]: each["seen"] for each in row["regions"] if each["seen"]},
    )


def pixel_values(processor: Any, pictures: Sequence[Picture]) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches of all pictures, (patches, values), and the grid of each, (pictures, 3)."""
    images = []
    for picture in pictures:
        with Image.open(picture.image["image"]) as image:
            images.append(image.convert("RGB"))
    bounds = {name: pictures[0].image[name] for name in ("min_pixels", "max_pixels")}
    inputs = processor.image_processor(images=images, return_tensors="pt", **bounds)
    return inputs["pixel_values"], inputs["image_grid_thw"]
