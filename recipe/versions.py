"""Versions of the packages that a result depends on."""

import importlib.metadata
import platform

PACKAGES = ("verl", "ray", "vllm", "torch", "transformers", "TransferQueue", "datasets")


def versions() -> dict[str, str]:
    """Of Python and of `PACKAGES`, as installed."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }
