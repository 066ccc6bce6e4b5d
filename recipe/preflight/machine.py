"""What the machine has to offer: GPUs, packages, disk."""

import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from recipe import resources
from recipe.preflight.memory import trained_parameters
from recipe.preflight.services import loggers
from recipe.preflight.shape import ModelShape
from recipe.preflight.values import AFTER_EACH_EPOCH, saves
from recipe.preflight.workload import GIB, Workload

FLASH = ("flash_attention_2", "flash_attention_3")
UNLIMITED = 10
"""Checkpoints that are assumed where all are kept and the number of steps is not given."""

SPARE = 1.05
"""A checkpoint's files beside the tensors: tokenizer, optimizer's names, data loader."""


def gpu_faults(work: Workload) -> Iterator[str]:
    """More GPUs asked for than one node has; other nodes are Ray's to count."""
    if work.on_cpu or resources.joins_a_cluster():
        return
    import torch

    here = torch.cuda.device_count()
    if 0 < here < work.gpus_per_node:
        yield (
            f"cluster.gpus_per_node={work.gpus_per_node}: this machine has {here}: set "
            f"cluster.gpus_per_node={here}"
        )


def package_faults(config: DictConfig, work: Workload) -> Iterator[str]:
    """Packages that the configuration asks for and that do not import here."""
    wanted = {"ray": "install the training stack (make setup, or the extra gpu)"}
    if work.rollout:
        wanted["vllm"] = "install the training stack (make setup, or the extra gpu)"
    if config.cluster.attention in FLASH:
        wanted["flash_attn"] = (
            "build it against the installed torch (docs/install-gpu.md), or set "
            "cluster.attention=sdpa cluster.remove_padding=false"
        )
    model = config.actor_rollout_ref.model if work.rollout else config.model
    if model.get("use_liger", False):
        wanted["liger_kernel"] = "install liger-kernel, or set use_liger=false on the model"
    if {"wandb", "tracking"} & set(loggers(config)):
        wanted["wandb"] = "install wandb, or leave it out of trainer.logger"
    if "tensorboard" in loggers(config):
        wanted["tensorboard"] = "install tensorboard, or leave it out of trainer.logger"
    for name, remedy in wanted.items():
        try:
            importlib.import_module(name)
        except Exception as error:  # a build for another torch fails in its own ways
            reason = " ".join(str(error).split())[:200]
            yield f"the package {name} does not import here ({reason}): {remedy}"


def checkpoint_bytes(shape: ModelShape, work: Workload) -> float:
    """Bytes of one checkpoint: parameters, AdamW's moments, and a Hugging Face folder in bf16."""
    moments = 2 * trained_parameters(shape, work) * work.stored_bytes
    return SPARE * (shape.parameters * (work.stored_bytes + 2) + moments)


def disk_faults(config: DictConfig, shape: ModelShape, work: Workload) -> Iterator[str]:
    """Too little room for the checkpoints that are kept, and one more while it is written."""
    keys = {"train": "max_actor_ckpt_to_keep", "sft": "max_ckpt_to_keep"}
    key = keys[work.program]
    if config.trainer.save_freq == 0:
        return
    kept = _kept(config, key) if saves(config) else 0
    needed = (kept + 1) * checkpoint_bytes(shape, work)
    folder = Path(config.trainer.default_local_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    held = sum(file.stat().st_size for file in _files(config) if file.is_file())
    if free + held < needed:
        yield (
            f"trainer.default_local_dir={config.trainer.default_local_dir}: {kept + 1} checkpoints "
            f"take {needed / GIB:.0f} GiB and {(free + held) / GIB:.0f} are free on {folder}: "
            f"lower trainer.{key}, or set run_dir to a larger disk"
        )


def _kept(config: DictConfig, key: str) -> int:
    """Checkpoints that are kept; where that is unlimited (null), all that the run will save."""
    if config.trainer[key]:
        return int(config.trainer[key])
    steps = config.trainer.get("total_training_steps")
    if not steps or config.trainer.save_freq == AFTER_EACH_EPOCH:
        return UNLIMITED
    return max(1, int(steps) // int(config.trainer.save_freq))


def _files(config: DictConfig) -> Iterator[Path]:
    """Checkpoints of this run that are there already and will give way to new ones."""
    return Path(config.trainer.default_local_dir).glob("global_step_*/**/*")
