"""Guards against faults of verl 0.9.1, in one place; the installed package is never edited.

Equal lengths
    Multimodal position ids of one sample have shape (4, L): text, time, height, width. verl keeps a
    batch of them as a jagged nested tensor that is ragged over L. Where every L is the same, torch
    builds it ragged over the axis of length 4 instead (offsets 0, 4, 8, ...), and verl's
    ``maybe_fix_3d_position_ids`` only renames the ragged axis without rebuilding the offsets. The
    actor update then fails in ``split_with_sizes``. The guard rebuilds such a tensor.

Repeated preprocessing
    See `recipe.image_cache`.

Micro-batches of text only
    verl gives rows without a picture, such as those that fill up a batch, an empty one, so that all
    ranks run the vision tower, and takes the mean of what comes out. Since transformers 5 that is
    no tensor, and the step fails. The output gets the mean that verl asks for.

TRL's value head
    Wherever TRL is installed, verl imports a class from it to patch it, from two places of which
    TRL 1.16 has neither: every engine then fails to start. This recipe trains no value head, so
    verl is told that there is no TRL.
"""

import importlib.metadata
import sys
from types import ModuleType
from typing import Any

import torch

from recipe.image_cache import remember_images

GUARDED_VERL = "0.9.1"
CHANNELS = 4
"""Rows of Qwen-VL's position ids: text, time, height, width."""


def ragged_over_length(position_ids: torch.Tensor) -> torch.Tensor:
    """Return `position_ids` as a nested tensor that is ragged over its last axis.

    Args:
        position_ids: jagged nested tensor of B samples of shape (4, L_b), ragged over either axis.

    Returns:
        The same samples with values of shape (4, sum of L_b) and offsets along the lengths.
    """
    values, offsets = position_ids._values, position_ids._offsets
    samples = offsets.numel() - 1
    # Over the lengths, values are (channels, sum of lengths); over the channels (4 B, L). The last
    # offset alone does not tell, since L may be 4 B.
    channels = values.shape[0] // samples
    if int(offsets[-1]) != values.shape[0] or channels < CHANNELS:
        position_ids._ragged_idx = 2
        return position_ids
    length = values.shape[-1]
    packed = values.reshape(samples, channels, length).transpose(0, 1).reshape(channels, -1)
    starts = torch.arange(samples + 1, device=values.device, dtype=offsets.dtype) * length
    return torch.nested.nested_tensor_from_jagged(
        packed.contiguous(), starts, jagged_dim=2, min_seqlen=length, max_seqlen=length
    )


def fix_position_ids(data: Any) -> None:
    """Make ``data["position_ids"]`` ragged over the sequence length, in place."""
    if "position_ids" not in data.keys():  # noqa: SIM118 (a TensorDict iterates over its rows)
        return
    position_ids = data["position_ids"]
    if position_ids.dim() == 3 and position_ids.is_nested:
        data["position_ids"] = ragged_over_length(position_ids)


def mean_of_features(output: Any) -> torch.Tensor:
    """The mean of a vision tower's features, as verl asks it of what was a tensor once."""
    from verl.models.transformers.qwen2_vl import unpack_visual_output

    features: torch.Tensor = unpack_visual_output(output)[0]
    return features.mean()


def install() -> None:
    """Replace the faulty functions of verl wherever they were imported.

    Raises:
        RuntimeError: the installed verl is not the version that the guards were written for.
    """
    version = importlib.metadata.version("verl")
    if version != GUARDED_VERL:
        raise RuntimeError(
            f"verl {version} is installed, the guards of this recipe are for {GUARDED_VERL}: "
            f"install verl=={GUARDED_VERL} or review recipe/verl_guards.py"
        )
    from transformers.modeling_outputs import BaseModelOutputWithPooling
    from verl.utils import import_utils, tensordict_utils
    from verl.utils.tokenizer import tokenizer

    BaseModelOutputWithPooling.mean = mean_of_features
    _replace(import_utils, "is_trl_available", lambda: False)
    _replace(tensordict_utils, "maybe_fix_3d_position_ids", fix_position_ids)
    build = tokenizer.build_multimodal_processor_inputs
    _replace(tokenizer, "build_multimodal_processor_inputs", remember_images(build))


def _replace(home: ModuleType, name: str, new: Any) -> None:
    """Replace a function of a verl module there and in every module that imported it."""
    original = getattr(home, name)
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("verl.") and (
            getattr(module, name, None) is original
        ):
            setattr(module, name, new)
