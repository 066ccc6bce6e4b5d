"""Guards against faults of verl 0.9.1, which verl loads in every process.

verl finds this module by the entry-point group ``verl.plugins``; the installed package is never
edited. The CPU platform is installed only where ``VERL_PLATFORM=cpu`` asks for it, as
``cluster=cpu`` does: on a GPU cluster no `cpu_…` of `recipe.verl_fixes` is imported.

Equal lengths
    Multimodal position ids of one sample have shape (4, L): text, time, height, width. verl keeps a
    batch of them as a jagged nested tensor that is ragged over L. Where every L is the same, torch
    builds it ragged over the axis of length 4 instead (offsets 0, 4, 8, ...), and verl's
    ``maybe_fix_3d_position_ids`` only renames the ragged axis without rebuilding the offsets. The
    actor update then fails in ``split_with_sizes``. The guard rebuilds such a tensor.

Features of a group
    The rollouts of a prompt store their multimodal inputs once; the guard completes the rows that
    verl reads (`recipe.verl_fixes.group_features`).

Log-probabilities token by token
    Without flash-attn, verl computes the log-sum-exp of each row of the logits in Python. The rows
    of an actor's logits are tokens, some 7,000 for a micro-batch, so that this takes a third of an
    update on a CPU. The guard computes many rows at a time.

Micro-batches of text only
    verl adds an empty picture to rows without one, such as those that pad a batch, so that all
    ranks run the vision tower, and takes the mean of its output. Since transformers 5 the output is
    no tensor, and the step fails. The guard adds a method ``mean`` to the output.

Weights of two runs on one machine
    Both would use the same socket; the guard names it after the run
    (`recipe.verl_fixes.weight_socket`).

TRL's value head
    If TRL is installed, verl imports a class from one of two modules to patch it. TRL 1.16 has
    neither, so that no engine starts. This recipe trains no value head: for verl, TRL is not
    installed.
"""

import importlib.metadata
import os
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

GUARDED_VERL = "0.9.1"
ROWS_AT_ONCE = 1024
"""Tokens whose log-probabilities are computed at a time: a bound of the memory."""

CHANNELS = 4
"""Rows of Qwen-VL's position ids: text, time, height, width."""


def load() -> None:
    """Install the guards and, if ``VERL_PLATFORM=cpu``, the CPU platform."""
    install_guards()
    if os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu":
        from recipe.verl_fixes import cpu_platform

        cpu_platform.install()


def install_guards() -> None:
    """Replace the faulty functions of verl wherever they were imported.

    Raises:
        RuntimeError: the installed verl is not the version that the guards were written for.
    """
    version = importlib.metadata.version("verl")
    if version != GUARDED_VERL:
        raise RuntimeError(
            f"verl {version} is installed, the guards of this recipe are for {GUARDED_VERL}: "
            f"install verl=={GUARDED_VERL} or review recipe/verl_fixes/plugin.py"
        )
    from transformers.modeling_outputs import BaseModelOutputWithPooling
    from verl.utils import import_utils, tensordict_utils, torch_functional, transferqueue_utils
    from verl.workers.rollout import base as rollouts

    from recipe.verl_fixes import group_features

    BaseModelOutputWithPooling.mean = mean_of_features
    _replace(import_utils, "is_trl_available", lambda: False)
    rollouts._ROLLOUT_REGISTRY["vllm", "async"] = "recipe.verl_fixes.weight_socket.AdapterOfRun"
    _replace(tensordict_utils, "maybe_fix_3d_position_ids", fix_position_ids)
    by_row = torch_functional.logprobs_from_logits_v2
    _replace(torch_functional, "logprobs_from_logits_v2", log_probs_of(by_row))
    read = transferqueue_utils._async_meta_to_realdata
    _replace(transferqueue_utils, "_async_meta_to_realdata", group_features.read_whole(read))


def _replace(home: ModuleType, name: str, new: Any) -> None:
    """Replace a function of a verl module there and in every module that imported it."""
    original = getattr(home, name)
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("verl.") and (
            getattr(module, name, None) is original
        ):
            setattr(module, name, new)


def ragged_over_length(position_ids: torch.Tensor) -> torch.Tensor:
    """Return `position_ids` as a nested tensor that is ragged over its last axis.

    Args:
        position_ids: jagged nested tensor of B samples of shape (4, L_b), ragged over either axis.

    Returns:
        The same samples with values of shape (4, sum of L_b) and offsets along the lengths.
    """
    values, offsets = position_ids._values, position_ids._offsets
    samples = offsets.numel() - 1
    # Ragged over the lengths, values are (channels, sum of lengths); over the channels, (4 B, L).
    # The last offset alone does not decide it, since L may be 4 B.
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


LogProbs = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def log_probs_of(by_row: LogProbs) -> LogProbs:
    """Wrap verl's ``logprobs_from_logits_v2``, which loops over the first axis.

    Returns:
        A function of logits (..., V) and labels (...) that returns log-probabilities (...).
    """

    def log_probs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if logits.dim() != 2:
            return by_row(logits, labels)
        # In float32 at least: steps of bfloat16 are 0.016 at -3, which would enter ratio and KL.
        kind = torch.promote_types(logits.dtype, torch.float32)
        sums = torch.cat([rows.to(kind).logsumexp(dim=-1) for rows in logits.split(ROWS_AT_ONCE)])
        return logits.gather(-1, labels[:, None]).squeeze(-1).to(kind) - sums

    return log_probs


def mean_of_features(output: Any) -> torch.Tensor:
    """Return the mean of a vision tower's features, a plain tensor before transformers 5."""
    from verl.models.transformers.qwen2_vl import unpack_visual_output

    return unpack_visual_output(output)[0].mean()


try:
    load()
except Exception as error:
    # verl catches exceptions of a plugin, logs them at DEBUG level and continues without the
    # guards. It does not catch SystemExit.
    traceback.print_exc()
    raise SystemExit(
        f"thinkvg-rl: its verl plugin did not load: {error} "
        "(VERL_USE_EXTERNAL_PLUGINS=none uses verl without it)"
    ) from error
