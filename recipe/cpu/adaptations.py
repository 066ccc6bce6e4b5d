"""What verl 0.9.1 does that needs an accelerator, adapted; all of it in this file.

- ``initialize_global_process_group`` asks torch for the backends ``cpu:gloo,cpu:gloo``, and torch
  refuses to name a device twice: the backend becomes ``cpu:gloo``.
- The reference model's ``CPUOffloadPolicy(pin_memory=True)`` pins memory through an accelerator:
  it is left unpinned.
"""

import functools
from typing import Any

import torch
from torch.distributed.fsdp import CPUOffloadPolicy


def _name_each_device_once() -> None:
    original = torch.distributed.init_process_group

    @functools.wraps(original)
    def init_process_group(backend: Any = None, *args: Any, **kwargs: Any) -> Any:
        if backend == "cpu:gloo,cpu:gloo":
            backend = "cpu:gloo"
        return original(backend, *args, **kwargs)

    torch.distributed.init_process_group = init_process_group


def _offload_without_pinning() -> None:
    original = CPUOffloadPolicy.__init__

    @functools.wraps(original)
    def init(self: CPUOffloadPolicy, pin_memory: bool = False) -> None:
        original(self, pin_memory=False)

    CPUOffloadPolicy.__init__ = init


@functools.cache
def install() -> None:
    """Adapt torch in this process, once."""
    _name_each_device_once()
    _offload_without_pinning()
