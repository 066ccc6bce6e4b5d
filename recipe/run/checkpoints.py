"""Checkpoints of a run: where the model is, which is the last one, and whether a run can resume.

verl writes `CHECKPOINTS/global_step_N/huggingface` after SFT and `…/actor/huggingface` after GRPO.
That folder always holds configuration, tokenizer and processor; it holds the weights where
`checkpoint.save_contents` has `hf_model`, and otherwise they are in `model_world_size_W_rank_R.pt`
beside it. The marker `latest_checkpointed_iteration.txt` names the last complete checkpoint.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_prep.program import InputError, write_whole

LAST = "latest_checkpointed_iteration.txt"
SHARDS = {"model": "model", "optimizer": "optim", "extra": "extra_state"}
"""Beginnings of the names of a checkpoint's files, by verl's name of the part."""

MOST_KEPT = {"train": "max_actor_ckpt_to_keep", "sft": "max_ckpt_to_keep"}


@dataclass(frozen=True)
class Source:
    """Location of a model."""

    folder: Path  # a Hugging Face folder with configuration and tokenizer
    shards: Path | None = None  # folder of the ranks' shards; None where `folder` has the weights
    lora: bool = False  # whether the shards hold LoRA adapters


def find_model(path: str | Path, key: str) -> Source:
    """Find the model under `path`, the value of an option or `key`.

    It is a Hugging Face folder; or of verl: an `actor` folder, a `global_step_N`, a folder of these
    (the last complete step is used), or a run folder with `checkpoints` in it.

    Raises:
        InputError: there is no model, or the marker of the last step holds something else; the
            message says what is expected.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"{key}={path}: no such folder")
    for folder in _candidates(root):
        huggingface = folder / "huggingface"
        lora = (folder / "lora_train_meta.json").is_file()
        if lora and _has_shards(folder):
            # verl's `hf_model` of a LoRA run has the adapters' parameter names.
            return Source(huggingface, folder, lora=True)
        if _has_weights(huggingface):
            return Source(huggingface)
        if _has_shards(folder) and (huggingface / "config.json").is_file():
            return Source(huggingface, folder)
        if _has_weights(folder):
            return Source(folder)
    raise InputError(
        f"{key}={path}: no model in it; give a folder with config.json and *.safetensors, or a "
        "checkpoint of recipe.sft or recipe.train (global_step_N)"
    )


def _candidates(root: Path) -> list[Path]:
    """Return folders that may be a checkpoint, the most likely one first."""
    for holder in (root, root / "checkpoints"):
        if steps := _steps(holder):
            # The marker is written when a checkpoint is complete.
            folder = holder / f"global_step_{_marked_step(holder) or steps[-1]}"
            return [folder / "actor", folder]
    return [root / "actor", root]


def _has_weights(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _has_shards(folder: Path) -> bool:
    return any(folder.glob("model_world_size_*_rank_*.pt"))


def run_folder(source: Source) -> Path | None:
    """Return the folder of the run that wrote a checkpoint; None for a folder from elsewhere."""
    for parent in source.folder.resolve().parents:
        if parent.name == "checkpoints":
            return parent.parent
    return None


def start_from(config: DictConfig) -> None:
    """Put the Hugging Face folder of a run or checkpoint into ``model.path``, where that names one.

    Raises:
        InputError: its weights are in shards.
    """
    path = config.model.get("path")
    if not path or not Path(path).is_dir() or (Path(path) / "config.json").is_file():
        return
    try:
        source = find_model(path, "model.path")
    except InputError:
        return  # the checks of the run name it with the other problems
    if source.shards is not None:
        raise InputError(
            f"model.path={path}: its weights are in shards: python -m recipe.export {path} OUT, "
            "and model.path=OUT"
        )
    config.model.path = str(source.folder)


def load_json(path: Path) -> dict[str, Any]:
    """Load a JSON object from a file; empty if the file is missing."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def last_step(holder: Path) -> int:
    """Return the step of the last complete checkpoint by the marker; 0 without one.

    An empty marker is written again.

    Raises:
        InputError: the marker holds something other than a step.
    """
    step = _marked_step(holder)
    marker = holder / LAST
    if marker.is_file() and not marker.read_text(encoding="utf-8").strip():
        mark_step(holder, step)
    return step


def _marked_step(holder: Path) -> int:
    """Return the step of `last_step`, and change no file.

    After the last file of a checkpoint, verl 0.9.1's GRPO trainer first empties the marker and then
    writes it. A run that is killed in between leaves it empty; it then means the last checkpoint
    that has all files.
    """
    marker = holder / LAST
    if not marker.is_file():
        return 0
    text = marker.read_text(encoding="utf-8").strip()
    if text.isdecimal():
        return int(text)
    if text:
        raise InputError(
            f"{marker} holds {text!r}, not a step: write the step to resume from into it"
        )
    complete = [
        step
        for step in _steps(holder)
        # verl does not remove data.pt of an old checkpoint
        if (holder / f"global_step_{step}" / "data.pt").is_file()
        and (holder / f"global_step_{step}" / "actor").is_dir()
    ]
    return max(complete, default=0)


def mark_step(holder: Path, step: int) -> None:
    """Make a run with these checkpoints resume from `step`; 0 makes it start over."""
    if step:
        write_whole(holder / LAST, str(step))
    else:
        (holder / LAST).unlink(missing_ok=True)


def _steps(holder: Path) -> list[int]:
    """Return the steps of all checkpoints in a folder, also of incomplete ones, in order."""
    matches = (
        re.fullmatch(r"global_step_(\d+)", path.name) for path in holder.glob("global_step_*")
    )
    return sorted(int(match[1]) for match in matches if match)


def check_resumable(config: DictConfig, program: str) -> None:
    """Refuse to resume a checkpoint that is gone, lacks files, or is of another number of GPUs."""
    mode = config.trainer.get("resume_mode", "auto")
    resume_path = config.trainer.get("resume_from_path")
    if mode not in ("auto", "disable", "resume_path"):
        raise InputError(f"trainer.resume_mode={mode}: choose auto, disable or resume_path")
    if mode == "disable":
        return
    if mode == "resume_path" or (program == "sft" and resume_path):
        _check_checkpoint(_named_folder(resume_path), "trainer.resume_from_path", config, program)
        return
    holder = Path(config.trainer.default_local_dir)
    step = last_step(holder)
    if step:
        folder = holder / f"global_step_{step}"
        if not folder.is_dir():
            raise InputError(_is_gone(holder, step, program))
        _check_checkpoint(folder, str(holder / LAST), config, program)


def _named_folder(path: str | None) -> Path:
    key = "trainer.resume_from_path"
    if not path:
        raise InputError(f"{key} is not set, and trainer.resume_mode=resume_path needs it: set it")
    folder = Path(path)
    if not re.search(r"(^|/)global_step_\d+$", path):
        raise InputError(
            f"{key}={path}: give a folder called global_step_N, without a slash at its end"
        )
    if not folder.is_dir():
        raise InputError(f"{key}={path}: no such folder")
    return folder


def _is_gone(holder: Path, step: int, program: str) -> str:
    existing = ", ".join(map(str, _steps_with_shards(holder, program)))
    instead = f"write another step into it (there are {existing}), or " if existing else ""
    return (
        f"{holder / LAST} names step {step}, and {holder}/global_step_{step} is gone: {instead}"
        "remove that file to start over"
    )


def _check_checkpoint(folder: Path, where: str, config: DictConfig, program: str) -> None:
    part = config.actor_rollout_ref.actor if program == "train" else config
    world = int(config.trainer.nnodes) * int(config.trainer.n_gpus_per_node)
    holder = _shard_folder(folder, program)
    names = {path.name for path in holder.glob("*_world_size_*_rank_*.pt")}
    worlds = {int(name.split("_world_size_")[1].split("_")[0]) for name in names}
    if worlds and world not in worlds:
        raise InputError(
            f"{where}: {folder} was saved by {max(worlds)} GPUs and this run has {world}: run on "
            f"{max(worlds)} (cluster.nodes x cluster.gpus_per_node), or export it "
            "(python -m recipe.export) and start a new run_dir= from that model"
        )
    for content in part.checkpoint.load_contents:
        for rank in range(world if content in SHARDS else 0):
            name = f"{SHARDS[content]}_world_size_{world}_rank_{rank}.pt"
            if name not in names:
                raise InputError(
                    f"{where}: {holder}/{name} is missing: resume from an earlier checkpoint "
                    f"(write its step into {folder.parent / LAST}), or remove that file to start "
                    "over"
                )


def prune(config: DictConfig, program: str) -> None:
    """Remove checkpoints beyond the configured number; verl does not count those of earlier starts.

    The marked checkpoint stays first, then those before it, from the newest to the oldest. All of
    them stay where the user names the one to resume from.
    """
    limit = config.trainer.get(MOST_KEPT[program])
    resumes_last = config.trainer.get("resume_mode", "auto") != "disable"
    resumes_last = resumes_last and not config.trainer.get("resume_from_path")
    holder = Path(config.trainer.default_local_dir)
    marked = last_step(holder)
    if not limit or not marked or not resumes_last:
        return
    steps = _steps_with_shards(holder, program)
    steps.sort(key=lambda step: (step > marked, -step))
    for step in steps[max(1, int(limit)) :]:
        if step != marked:
            shutil.rmtree(holder / f"global_step_{step}", ignore_errors=True)


def _steps_with_shards(holder: Path, program: str) -> list[int]:
    """Return the steps whose model is there; of a GRPO step verl removes only the model."""
    return [
        step
        for step in _steps(holder)
        if _shard_folder(holder / f"global_step_{step}", program).is_dir()
    ]


def _shard_folder(folder: Path, program: str) -> Path:
    return folder / "actor" if program == "train" else folder
