"""The CPU as a platform of verl's registry: gloo, float tensors in host memory, no IPC handles.

Two more things need an accelerator in verl 0.9.1 and are adapted here:

- ``initialize_global_process_group`` asks torch for the backends ``cpu:gloo,cpu:gloo``, and torch
  refuses to name a device twice: the backend becomes ``cpu:gloo``.
- The reference model's ``CPUOffloadPolicy(pin_memory=True)`` pins memory through an accelerator:
  it is left unpinned.
"""

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch.distributed.fsdp import CPUOffloadPolicy
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

from recipe.verl_fixes import cpu_device as device


class PlatformCPU(PlatformBase):
    """Each worker process counts as one device; Ray counts them as logical GPUs."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module: ModuleType = device

    def is_available(self) -> bool:
        return True

    def current_device(self) -> str:  # verl passes it on to Tensor.to
        return device.current_device()

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        device.set_device(device_index)

    def synchronize(self, device_index: int | None = None) -> None:
        return

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        return

    def empty_cache(self) -> None:
        return

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        return

    def profiler_stop(self) -> None:
        return

    def ray_resource_name(self) -> str:
        # verl counts the resources GPU and NPU only; the cluster is started with logical GPUs.
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> Any:
        return None


@functools.cache
def install() -> None:
    """Add the platform that ``VERL_PLATFORM=cpu`` picks, and adapt torch in this process."""
    PlatformRegistry.register(platform="cpu")(PlatformCPU)
    # verl imports an engine for each kind of link. This one imports a part of vLLM, for a second in
    # every process, and works on Ascend only; without it, verl notes that it could not be imported.
    sys.modules.setdefault("verl.checkpoint_engine.hccl_checkpoint_engine", None)  # type: ignore[arg-type]
    _name_each_device_once()
    _offload_without_pinning()


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
