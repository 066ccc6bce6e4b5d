"""Preprocesses each image of a prompt once.

verl 0.9.1 runs the whole processor three times for each rollout (to build the prompt, to score, to
store), so with eight rollouts of a prompt its image is resized and cut into patches 24 times. This
keeps the results of the image processor for a while, by the content of the images.
"""

import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

from cachetools import LRUCache
from PIL import Image

BYTES = 512 * 1024**2
"""Memory for patches, in each process that preprocesses images."""


class CachedImageProcessor:
    """An image processor that remembers; everything but the call goes to the original."""

    def __init__(self, original: Any, size: int = BYTES) -> None:
        self._original = original
        self._cache: LRUCache[str, Any] = LRUCache(maxsize=size, getsizeof=_bytes_of)
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def __call__(self, images: Any, **options: Any) -> Any:
        """What the original gives for these images and options."""
        key = _key(images, options)
        if key is None:
            return self._original(images, **options)
        with self._lock:
            found = self._cache.get(key)
        if found is None:
            found = self._original(images, **options)
            if _bytes_of(found) <= self._cache.maxsize:
                with self._lock:
                    self._cache[key] = found
        # Callers take entries out of what they get.
        return type(found)(dict(found))


def remember_images(build: Callable[..., Any]) -> Callable[..., Any]:
    """verl's ``build_multimodal_processor_inputs`` with a cache in the processor."""

    def build_with_cache(processor: Any, **inputs: Any) -> Any:
        original = getattr(processor, "image_processor", None)
        if original is not None and not isinstance(original, CachedImageProcessor):
            processor.image_processor = CachedImageProcessor(original)
        return build(processor, **inputs)

    return build_with_cache


def _key(images: Any, options: dict[str, Any]) -> str | None:
    """Name of images with options; None where they are not all PIL pictures."""
    listed = images if isinstance(images, Sequence) else [images]
    if not listed or not all(isinstance(image, Image.Image) for image in listed):
        return None
    digest = hashlib.blake2b(repr(sorted(options.items())).encode())
    for image in listed:
        digest.update(f"|{image.mode}|{image.size}|".encode())
        digest.update(image.tobytes())
    return digest.hexdigest()


def _bytes_of(features: Any) -> int:
    return sum(int(getattr(value, "nbytes", 0)) for value in dict(features).values())
