"""Images are preprocessed once, and come out as without the cache."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessor

from recipe.image_cache import CachedImageProcessor

OPTIONS = {"return_tensors": "pt", "min_pixels": 12544, "max_pixels": 15680}


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (120, 100, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


class Counting:
    """An image processor that counts its calls."""

    def __init__(self) -> None:
        self.original = Qwen2VLImageProcessor()
        self.calls = 0

    def __call__(self, images: Any, **options: Any) -> Any:
        self.calls += 1
        return self.original(images, **options)


@pytest.fixture
def counting() -> Counting:
    return Counting()


def test_the_same_picture_is_preprocessed_once(counting: Counting) -> None:
    cached = CachedImageProcessor(counting)
    first = cached([picture(1)], **OPTIONS)
    again = cached([picture(1)], **OPTIONS)
    assert counting.calls == 1
    plain = counting.original([picture(1)], **OPTIONS)
    for found in (first, again):
        assert set(found) == set(plain)
        assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_other_pictures_and_options_are_not_mixed_up(counting: Counting) -> None:
    cached = CachedImageProcessor(counting)
    one = cached([picture(1)], **OPTIONS)
    other = cached([picture(2)], **OPTIONS)
    larger = cached([picture(1)], **{**OPTIONS, "min_pixels": 50176, "max_pixels": 50176})
    assert counting.calls == 3
    assert not torch.equal(one["pixel_values"], other["pixel_values"])
    assert larger["pixel_values"].shape != one["pixel_values"].shape


def test_taking_an_entry_out_leaves_the_cache_whole(counting: Counting) -> None:
    cached = CachedImageProcessor(counting)
    cached([picture(1)], **OPTIONS).pop("pixel_values")
    assert "pixel_values" in cached([picture(1)], **OPTIONS)


def test_memory_is_bounded(counting: Counting) -> None:
    size = counting.original([picture(1)], **OPTIONS)["pixel_values"].nbytes
    cached = CachedImageProcessor(counting, size=2 * size + 1000)
    for seed in (1, 2, 3, 1):
        cached([picture(seed)], **OPTIONS)
    assert counting.calls == 4
    tiny = CachedImageProcessor(counting, size=10)
    assert "pixel_values" in tiny([picture(1)], **OPTIONS)


def test_what_is_no_picture_passes(counting: Counting) -> None:
    cached = CachedImageProcessor(counting)
    pixels = torch.zeros(3, 112, 112, dtype=torch.uint8)
    for _ in range(2):
        cached([pixels], **OPTIONS)
    assert counting.calls == 2


def test_attributes_are_the_originals() -> None:
    original = Qwen2VLImageProcessor()
    assert CachedImageProcessor(original).merge_size == original.merge_size
