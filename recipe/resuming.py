"""Whether a run can go on from what its folder holds; verl begins anew or fails late."""

import re
import shutil
from pathlib import Path

from omegaconf import DictConfig

from recipe.checkpoints import LAST, last_step
from recipe.errors import InputError

SHARDS = {"model": "model", "optimizer": "optim", "extra": "extra_state"}
KEPT = {"train": "max_actor_ckpt_to_keep", "sft": "max_ckpt_to_keep"}


def check_resumable(config: DictConfig, program: str) -> None:
    """Check the checkpoint that a run would go on from, where there is one.

    Raises:
        InputError: it is gone, lacks files, or was saved by another number of GPUs.
    """
    mode = config.trainer.get("resume_mode", "auto")
    given = config.trainer.get("resume_from_path")
    if mode not in ("auto", "disable", "resume_path"):
        raise InputError(f"trainer.resume_mode={mode}: choose auto, disable or resume_path")
    if mode == "disable":
        return
    if mode == "resume_path" or (program == "sft" and given):
        _check_checkpoint(_given_folder(given), "trainer.resume_from_path", config, program)
        return
    holder = Path(config.trainer.default_local_dir)
    step = last_step(holder)
    if step:
        folder = holder / f"global_step_{step}"
        if not folder.is_dir():
            raise InputError(_is_gone(holder, step))
        _check_checkpoint(folder, str(holder / LAST), config, program)


def prune(config: DictConfig, program: str) -> None:
    """Remove checkpoints above the number that is kept; verl forgets those of earlier starts.

    The marked one stays, then those before it, the newest first.
    """
    most = config.trainer.get(KEPT[program])
    holder = Path(config.trainer.default_local_dir)
    marked = last_step(holder)
    if not most or not marked or config.trainer.get("resume_mode", "auto") == "disable":
        return
    parts = {
        step: _shard_folder(holder / f"global_step_{step}", program) for step in _steps(holder)
    }
    steps = [step for step, folder in parts.items() if folder.is_dir()]
    steps.sort(key=lambda step: (step > marked, -step))
    for step in steps[max(1, int(most)) :]:
        if step != marked:
            shutil.rmtree(holder / f"global_step_{step}", ignore_errors=True)


def _steps(holder: Path) -> list[int]:
    found = (re.fullmatch(r"global_step_(\d+)", path.name) for path in holder.glob("global_step_*"))
    return sorted(int(match[1]) for match in found if match)


def _given_folder(given: str | None) -> Path:
    key = "trainer.resume_from_path"
    if not given:
        raise InputError(f"{key} is not set, and trainer.resume_mode=resume_path wants it: set it")
    folder = Path(given)
    if not re.search(r"(^|/)global_step_\d+$", given):
        raise InputError(
            f"{key}={given}: give a folder called global_step_N, without a slash behind"
        )
    if not folder.is_dir():
        raise InputError(f"{key}={given}: no such folder")
    return folder


def _is_gone(holder: Path, step: int) -> str:
    others = ", ".join(map(str, _steps(holder)))
    instead = f"write another step into it (there are {others}), or " if others else ""
    return (
        f"{holder / LAST} names step {step}, and {holder}/global_step_{step} is gone: {instead}"
        "remove that file to begin anew"
    )


def _shard_folder(folder: Path, program: str) -> Path:
    return folder / "actor" if program == "train" else folder


def _check_checkpoint(folder: Path, where: str, config: DictConfig, program: str) -> None:
    part = config.actor_rollout_ref.actor if program == "train" else config
    world = int(config.trainer.nnodes) * int(config.trainer.n_gpus_per_node)
    holder = _shard_folder(folder, program)
    names = {path.name for path in holder.glob("*_world_size_*_rank_*.pt")}
    worlds = {int(name.split("_world_size_")[1].split("_")[0]) for name in names}
    if worlds and world not in worlds:
        raise InputError(
            f"{where}: {folder} was saved by {max(worlds)} GPUs and this run has {world}: run on "
            f"{max(worlds)} (cluster.nodes x cluster.gpus_per_node), or make a model of it "
            "(python -m recipe.export) and start a new run_dir= from that"
        )
    for content in part.checkpoint.load_contents:
        for rank in range(world if content in SHARDS else 0):
            name = f"{SHARDS[content]}_world_size_{world}_rank_{rank}.pt"
            if name not in names:
                raise InputError(
                    f"{where}: {holder}/{name} is missing: go on from an earlier checkpoint (write "
                    f"its step into {folder.parent / LAST}), or remove that file to begin anew"
                )
