"""Which run a folder holds: its W&B run, its configuration, and whether it is this run."""

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_prep.program import InputError, write_whole

WANDB_ID = "wandb_run_id"
PASSED_ON = ("VERL_FILE_LOGGER_PATH", "WANDB_DIR", "WANDB_MODE", "WANDB_RESUME", "WANDB_RUN_ID")
"""Variables that the logging process needs; it may run on another node than the program."""


def wandb_run_id(run_dir: Path) -> str:
    """Return the id of this folder's W&B run: ``WANDB_RUN_ID``, else the saved or a new id."""
    path = run_dir / WANDB_ID
    saved = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    run_id = os.environ.get("WANDB_RUN_ID") or saved or secrets.token_hex(4)
    if run_id != saved:
        write_whole(path, run_id + "\n")
    return run_id


def set_variables(run_dir: Path) -> dict[str, str]:
    """Set variables of the loggers that the user has not set; return the values of `PASSED_ON`."""
    os.environ["VERL_FILE_LOGGER_PATH"] = str(run_dir / "metrics.jsonl")
    os.environ.setdefault("WANDB_DIR", str(run_dir))
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ["WANDB_RUN_ID"] = wandb_run_id(run_dir)
    os.environ.setdefault("WANDB_RESUME", "allow")
    return {name: os.environ[name] for name in PASSED_ON}


def read_run_config(run_dir: Path) -> dict[str, Any]:
    """Read the configuration that Hydra saved in a run folder; empty if there is none."""
    file = run_dir / ".hydra" / "config.yaml"
    if not file.is_file():
        return {}
    from recipe.program import plain, register_resolvers

    register_resolvers()
    loaded: Any = OmegaConf.load(file)
    try:
        return plain(loaded)
    except OmegaConfBaseException:
        unresolved: Any = OmegaConf.to_container(loaded)
        return dict(unresolved)


FILE = "run.json"
COMMON = ("seed", "data.train_files", "data.reasoning", "data.train_batch_size")
OF_PROGRAM = {
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
        # a resumed run takes it from the checkpoint, so that another value would change nothing
        "actor_rollout_ref.actor.optim.lr",
    ),
    "sft": (
        "model.path",
        "model.lora_rank",
        "data.max_length",
        "data.filter_overlong_rows",
        "coordinate_smoothing",
        "optim.lr",
    ),
}
PATHS = ("data.train_files", "model.path", "actor_rollout_ref.model.path")
JUDGE = "reward.custom_reward_function.reward_kwargs.judge."
SHOWN = 4
"""Number of settings that a message names."""

MORE_EPOCHS = "raise trainer.total_epochs, or lower trainer.total_training_steps"


class EndedEarly(Exception):
    """A run ended with fewer steps than configured; the message is one line."""


def check_steps(done: int, asked: int) -> None:
    """Raise `EndedEarly` if a run that has ended has not done all of its steps."""
    if done < asked:
        raise EndedEarly(
            f"only {done} of {asked} steps are done, since its epochs hold no more rows: "
            f"{MORE_EPOCHS}"
        )


def check_same_run(config: DictConfig, program: str) -> None:
    """Refuse a folder that holds another run, if that has trained or saved; name what differs."""
    if config.trainer.get("resume_mode", "auto") == "disable" or not _has_begun(config):
        return
    different = differences(Path(config.run_dir) / FILE, settings(config, program))
    if different:
        more = f" and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
        raise InputError(
            f"run_dir={config.run_dir}: holds another run ({'; '.join(different[:SHOWN])}{more}): "
            "choose another run_dir=, or remove it"
        )


def note_settings(config: DictConfig, program: str) -> None:
    text = json.dumps(settings(config, program), indent=2) + "\n"
    write_whole(Path(config.run_dir) / FILE, text)


def differences(path: Path, current: Mapping[str, Any]) -> list[str]:
    """Return ``KEY=FILE'S VALUE, here CURRENT VALUE`` for each key that differs from a JSON file's.

    They are sorted. A file that is missing or broken differs in nothing.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []  # of an earlier version, or cut off by a kill
    return [
        f"{key}={stored.get(key)}, here {current.get(key)}"
        for key in sorted({*stored, *current})
        if stored.get(key) != current.get(key)
    ]


def settings(config: DictConfig, program: str) -> dict[str, Any]:
    """Return the settings that distinguish this run from others, by key."""
    values: dict[str, Any] = {}
    for key in (*COMMON, *OF_PROGRAM[program]):
        value = OmegaConf.select(config, key)
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=True)
        if key in PATHS and value is not None and Path(str(value)).exists():
            value = os.path.realpath(str(value))
        values.update(_flat(key, value))
    compared = {
        key: value
        for key, value in values.items()
        # a judge may move to another address
        if not key.startswith(JUDGE) or key == f"{JUDGE}model"
    }
    return json.loads(json.dumps(compared, default=str))


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{key}.{name}", inner)
    else:
        yield key, value


def _has_begun(config: DictConfig) -> bool:
    metrics = Path(config.run_dir) / "metrics.jsonl"
    has_metrics = metrics.is_file() and metrics.stat().st_size > 0
    return has_metrics or any(Path(config.trainer.default_local_dir).glob("global_step_*"))
