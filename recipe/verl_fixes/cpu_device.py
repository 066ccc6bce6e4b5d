"""The module that stands in for ``torch.cuda``: ``torch.cpu`` and the calls that it lacks.

verl asks the device module for memory figures, random state and device properties. Memory is that
of this process and of the machine, in bytes.
"""

from typing import Any

import psutil
import torch
from torch.cpu import (
    Event,
    Stream,
    current_stream,
    device_count,
    is_available,
    is_initialized,
    stream,
    synchronize,
)
from torch.random import get_rng_state as _get_rng_state
from torch.random import set_rng_state as _set_rng_state

__all__ = ["Event", "Stream", "current_stream", "device_count", "is_available", "stream"]
__all__ += ["is_initialized", "synchronize"]


def current_device() -> str:
    """Return the device as ``Tensor.to`` takes it."""
    return "cpu"


def set_device(device: Any) -> None:
    """Do nothing: there is one device."""


def empty_cache() -> None:
    """Do nothing: there is no allocator cache."""


def ipc_collect() -> None:
    """Do nothing: there are no device handles."""


def set_per_process_memory_fraction(fraction: float, device: Any = None) -> None:
    """Do nothing: the operating system shares out memory."""


def memory_allocated(device: Any = None) -> int:
    """Return the resident memory of this process, bytes."""
    return int(psutil.Process().memory_info().rss)


memory_reserved = memory_allocated
max_memory_allocated = memory_allocated
max_memory_reserved = memory_allocated


def reset_peak_memory_stats(device: Any = None) -> None:
    """Do nothing: resident memory keeps no peak."""


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """Return free and total memory of the machine, bytes."""
    memory = psutil.virtual_memory()
    return int(memory.available), int(memory.total)


def get_device_name(device: Any = None) -> str:
    """Return the name under which verl looks up peak FLOPS."""
    return "CPU"


def get_rng_state(device: Any = None) -> torch.Tensor:
    """Return the state of torch's CPU generator."""
    return _get_rng_state()


def set_rng_state(state: torch.Tensor, device: Any = None) -> None:
    """Restore torch's CPU generator."""
    _set_rng_state(state)
