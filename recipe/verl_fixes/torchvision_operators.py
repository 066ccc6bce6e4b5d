"""Lets torchvision's CUDA build import beside torch's CPU build.

The package registry has torchvision for CUDA only. Its compiled part does not load beside CPU
torch, and its import then ends at the missing operators ``torchvision::nms`` and ``qnms``, although
transformers needs nothing compiled from it. Naming the two operators first makes it import; a call
of either still fails, as it should.

`define` is an entry point of torch's own group ``torch.backends``: torch calls it at the end of
``import torch`` in every process, before anybody imports torchvision.
"""

import importlib.metadata

import torch

_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_libraries: list[torch.library.Library] = []


def is_needed() -> bool:
    """Return whether torch is a CPU build and torchvision is not."""
    if torch.version.cuda is not None or torch.version.hip is not None:
        return False
    try:
        return "+cpu" not in importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        return False


def define() -> None:
    """Define the operators that torchvision's Python code refers to at import."""
    if _libraries or not is_needed():
        return
    library = torch.library.Library("torchvision", "DEF")
    library.define(f"nms{_NMS}")
    library.define(f"qnms{_NMS}")
    _libraries.append(library)  # the operators live as long as the library object
