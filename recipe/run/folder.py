"""The folder of a run: its lock, its start, the request to stop, and which run it holds.

A run keeps its settings and its W&B id here, so that a later start is refused where it would mix
two runs, and is the same run for W&B.
"""

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from data_prep import program
from data_prep.program import InputError, write_whole
from recipe import console
from recipe.run.checkpoints import LAST, prune

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


def set_variables(run_dir: Path, begins_anew: bool = False) -> dict[str, str]:
    """Set variables of the loggers that the user has not set; return the values of `PASSED_ON`.

    A run that `begins_anew` gets an id of its own in W&B, which would keep the points of the steps
    that the folder's run has done.
    """
    os.environ["VERL_FILE_LOGGER_PATH"] = str(run_dir / "metrics.jsonl")
    os.environ.setdefault("WANDB_DIR", str(run_dir))
    os.environ.setdefault("WANDB_MODE", "offline")
    if begins_anew:
        os.environ["WANDB_RUN_ID"] = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
    else:
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
NEXT = "run_to_begin.json"
"""The same of a run that begins anew in the folder, but has not begun yet."""

COMMON = (
    "seed",
    "data.apply_chat_template_kwargs",
    "data.reasoning",
    "data.seed",
    "data.train_batch_size",
    "data.train_files",
    "data.train_max_samples",
)
# A resumed run takes the learning rate from the checkpoint: another value would change nothing.
OPTIMIZER = (
    "clip_grad",
    "lr",
    "lr_scheduler_type",
    "lr_warmup_steps",
    "lr_warmup_steps_ratio",
    "override_optimizer_config",
    "weight_decay",
)
MODEL = (
    "custom_chat_template",
    "exclude_modules",
    "lora_alpha",
    "lora_rank",
    "path",
    "target_modules",
)
POLICY_LOSS = ("loss_mode", "clip_cov_ratio", "clip_cov_lb", "clip_cov_ub", "kl_cov_ratio")
ACTOR = (
    "clip_ratio",
    "clip_ratio_c",
    "clip_ratio_high",
    "clip_ratio_low",
    "entropy_coeff",
    "freeze_vision_tower",
    "kl_loss_coef",
    "kl_loss_type",
    "loss_agg_mode",
    "loss_scale_factor",
    *(f"policy_loss.{name}" for name in POLICY_LOSS),
    "ppo_epochs",
    "ppo_mini_batch_size",
    "use_kl_loss",
)
ROLLOUT = ("n", "temperature", "top_k", "top_p")
OF_PROGRAM = {
    "train": (
        "algorithm",
        "data.filter_overlong_prompts",
        "data.max_prompt_length",
        "data.max_response_length",
        "data.shuffle",
        "reward.custom_reward_function",
        *(f"actor_rollout_ref.model.{name}" for name in MODEL),
        *(f"actor_rollout_ref.actor.{name}" for name in ACTOR),
        *(f"actor_rollout_ref.actor.optim.{name}" for name in OPTIMIZER),
        *(f"actor_rollout_ref.rollout.{name}" for name in ROLLOUT),
    ),
    "sft": (
        *(f"model.{name}" for name in MODEL),
        "data.max_length",
        "data.filter_overlong_rows",
        "coordinate_smoothing",
        *(f"optim.{name}" for name in OPTIMIZER),
    ),
}
"""Settings of which another value changes what a resumed run learns."""

OF_MACHINE = "fused"
"""An entry of a group of them that follows the machine, which may change, and changes no result."""
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
    different = differences(config, program)
    if different:
        more = f" and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
        raise InputError(
            f"run_dir={config.run_dir}: holds another run ({'; '.join(different[:SHOWN])}{more}): "
            "choose another run_dir=, or remove it"
        )


def resume_mode(config: DictConfig, program: str) -> str:
    """Return a start's mode: ``auto`` (from the last checkpoint), ``disable``, ``resume_path``."""
    mode = config.trainer.get("resume_mode", "auto")
    if mode == "auto" and program == "sft" and config.trainer.get("resume_from_path"):
        return "resume_path"  # as verl's SFT trainer takes it
    return str(mode)


def begins_anew(config: DictConfig, program: str) -> bool:
    """Return whether the start drops steps that the folder's run may have done."""
    return resume_mode(config, program) != "auto" and not config.trainer.get("val_only")


def note_settings(config: DictConfig, program: str) -> None:
    """Store the settings of the run; those of one that begins anew only for `replace_run`.

    So a start that fails before its first step leaves the folder to the run that it holds.
    """
    name = NEXT if resume_mode(config, program) != "auto" else FILE
    text = json.dumps(settings(config, program), indent=2) + "\n"
    write_whole(Path(config.run_dir) / name, text)


def replace_run(run_dir: Path) -> None:
    """Make the folder that of the run that begins anew there."""
    if (run_dir / NEXT).is_file():
        (run_dir / NEXT).replace(run_dir / FILE)
    wandb_run_id(run_dir)


def differences(config: DictConfig, program: str) -> list[str]:
    """Return ``KEY=STORED VALUE, here THIS VALUE`` for each setting that differs from the folder's.

    They are sorted. A stored file that is missing or broken differs in nothing, and a setting that
    an earlier version did not store is not compared.
    """
    try:
        stored = json.loads((Path(config.run_dir) / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []  # of an earlier version, or cut off by a kill
    current = settings(config, program)
    keys = (*COMMON, *OF_PROGRAM[program])
    known = [key for key in keys if any(is_within(name, key) for name in stored)]
    return [
        f"{name}={stored.get(name)}, here {current.get(name)}"
        for name in sorted({*stored, *current})
        if stored.get(name) != current.get(name)
        and (name in stored or any(is_within(name, key) for key in known))
    ]


def is_within(name: str, key: str) -> bool:
    """Return whether a setting is that of `key` or one of the group `key`."""
    return name == key or name.startswith(f"{key}.")


def settings(config: DictConfig, program: str) -> dict[str, Any]:
    """Return the settings that distinguish this run from others, by key."""
    values: dict[str, Any] = {}
    for key in (*COMMON, *OF_PROGRAM[program]):
        value = OmegaConf.select(config, key)
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=True)
        if isinstance(value, dict):
            value.pop(OF_MACHINE, None)
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
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(f"{key}.{name}", inner)
    else:
        # An empty group is stored as well, so that a value in it differs.
        yield key, None if value == {} else value


def _has_begun(config: DictConfig) -> bool:
    metrics = Path(config.run_dir) / "metrics.jsonl"
    has_metrics = metrics.is_file() and metrics.stat().st_size > 0
    return has_metrics or any(Path(config.trainer.default_local_dir).glob("global_step_*"))


LOCK = "lock"
PATIENCE_S = 150.0
"""Seconds that a requeued job waits for the lock of a node that died (NFS frees it in 90 s)."""

VARIABLE = "THINKVG_STOP_FILE"
"""Environment variable that a launcher sets: the file with which it asks this run to stop."""

STOPPED = 75
"""Exit code of a program that ended on request: EX_TEMPFAIL of sysexits.h, try again."""

STOPPED_AFTER = (
    "stopped on request after step {}, its checkpoint is saved: run the same command to resume"
)

_locks: dict[Path, FileLock | None] = {}


def open_run(config: DictConfig) -> None:
    """Open a run's folder in the program that a user started.

    Make the paths absolute, redirect output to the run's log and remove an earlier run's request.

    Raises:
        InputError: another program is running in the folder.
    """
    resolve_paths(config)
    run_dir = Path(config.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    check_free(run_dir)
    console.begin(run_dir)
    StopRequest(config.stop_file).begin()


def take_run(config: DictConfig, program: str) -> dict[str, str]:
    """Take a run's folder in the process that logs; the paths are absolute already.

    Lock the folder, store the run's settings, remove checkpoints beyond the configured number, and
    return the environment variables of the loggers, which are set here as well.

    Raises:
        InputError: another program is running in the folder.
    """
    run_dir = Path(config.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    lock(run_dir)
    note_settings(config, program)
    prune(config, program)
    marker = Path(config.trainer.default_local_dir).absolute() / LAST
    StopRequest(config.stop_file).tell_marker(marker)
    return set_variables(run_dir, begins_anew(config, program))


def resolve_paths(config: DictConfig) -> None:
    """Make the run's folder and the file that asks it to stop absolute."""
    with open_dict(config):
        config.run_dir = str(Path(config.run_dir).resolve())
        config.stop_file = str(Path(config.stop_file).resolve())


def lock(run_dir: Path, patience: float | None = None) -> None:
    """Lock the folder until this process ends.

    `patience` is the seconds to wait for another program to end. By default only a job that SLURM
    has requeued waits.

    Raises:
        InputError: another program is running there.
    """
    path = run_dir / LOCK
    if path in _locks:
        return
    if patience is None:
        patience = PATIENCE_S if os.environ.get("SLURM_RESTART_COUNT", "0") != "0" else 0.0
    _locks[path] = program.lock(path, "run_dir=", patience)


def check_free(run_dir: Path) -> None:
    """Refuse a folder in which another program is running; a child of this one may lock it then."""
    lock(run_dir)
    folder_lock = _locks.pop(run_dir / LOCK)
    if folder_lock:
        folder_lock.release()


class StopRequest:
    """A request to stop, a file at `path` on a file system that all nodes share."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._answer = Path(f"{path}.done")

    def asked(self) -> bool:
        return self._path.exists()

    def answer(self, step: int) -> None:
        """Record that the checkpoint of `step` is complete and that the training ends."""
        write_whole(self._answer, f"{step}\n")
        self._path.unlink(missing_ok=True)

    def answered(self) -> int | None:
        """Return the saved step; None if the training did not end on request."""
        return int(self._answer.read_text()) if self._answer.exists() else None

    def tell_marker(self, marker: Path) -> None:
        """Write the path of the last checkpoint's marker for a launcher, to see the progress."""
        if VARIABLE in os.environ:
            write_whole(Path(f"{self._path}.marker"), f"{marker}\n")

    def begin(self) -> None:
        """Remove an earlier run's answer and request.

        A launcher's request (`VARIABLE` is set) belongs to this start only: it stays, since it may
        arrive while the run is starting.
        """
        self._answer.unlink(missing_ok=True)
        if VARIABLE not in os.environ:
            self._path.unlink(missing_ok=True)
