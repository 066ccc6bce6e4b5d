"""Keeps two different runs apart that are given the same folder: ``RUN_DIR/run.json``.

It holds the settings that a run must have in common with itself to go on: model, data, reward,
algorithm, seed. How long it is, what it logs, how often it saves, on how many machines and which
server judges may change.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.errors import InputError
from recipe.evaluation.files import write_text_atomically

FILE = "run.json"
COMMON = ("seed", "data.train_files", "data.reasoning", "data.train_batch_size")
OWN = {
    "train": (
        "algorithm",
        "data.max_prompt_length",
        "data.max_response_length",
        "reward.custom_reward_function",
        "actor_rollout_ref.model.path",
        "actor_rollout_ref.model.lora_rank",
        "actor_rollout_ref.rollout.n",
        "actor_rollout_ref.actor.ppo_mini_batch_size",
        "actor_rollout_ref.actor.policy_loss.loss_mode",
        "actor_rollout_ref.actor.loss_agg_mode",
        "actor_rollout_ref.actor.use_kl_loss",
        "actor_rollout_ref.actor.kl_loss_coef",
        "actor_rollout_ref.actor.kl_loss_type",
        # a checkpoint brings its learning rate with it: another one would change nothing
        "actor_rollout_ref.actor.optim.lr",
    ),
    "sft": ("model.path", "model.lora_rank", "data.max_length", "coordinate_smoothing", "optim.lr"),
}
PATHS = ("data.train_files", "model.path", "actor_rollout_ref.model.path")
JUDGE = "reward.custom_reward_function.reward_kwargs.judge."
SHOWN = 4


def settings(config: DictConfig, program: str) -> dict[str, Any]:
    """The settings that tell this run from others, by key."""
    found: dict[str, Any] = {}
    for key in (*COMMON, *OWN[program]):
        value = OmegaConf.select(config, key)
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=True)
        if key in PATHS and value is not None and Path(str(value)).exists():
            value = os.path.realpath(str(value))
        found.update(_flat(key, value))
    kept = {
        key: value
        for key, value in found.items()
        if not key.startswith(JUDGE) or key == f"{JUDGE}model"
    }
    same: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    return same


def check_same_run(config: DictConfig, program: str) -> None:
    """Check that the run's folder holds this very run, or none that has got anywhere.

    Raises:
        InputError: it holds another; names the settings that differ.
    """
    folder = Path(config.run_dir)
    if config.trainer.get("resume_mode", "auto") == "disable" or not _has_begun(config):
        return
    try:
        kept = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # of an earlier version, or cut off by a kill: nothing to compare with
    now = settings(config, program)
    different = [key for key in sorted({*kept, *now}) if kept.get(key) != now.get(key)]
    if different:
        told = [f"{key}={kept.get(key)}, here {now.get(key)}" for key in different[:SHOWN]]
        more = f" and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
        raise InputError(
            f"run_dir={config.run_dir}: holds another run ({'; '.join(told)}{more}): give another "
            "run_dir=, or remove it"
        )


def note_settings(config: DictConfig, program: str) -> None:
    """Keep the settings of this run in its folder."""
    text = json.dumps(settings(config, program), indent=2) + "\n"
    write_text_atomically(Path(config.run_dir) / FILE, text)


def _has_begun(config: DictConfig) -> bool:
    metrics = Path(config.run_dir) / "metrics.jsonl"
    logged = metrics.is_file() and metrics.stat().st_size > 0
    return logged or any(Path(config.trainer.default_local_dir).glob("global_step_*"))


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{key}.{name}", inner)
    else:
        yield key, value
