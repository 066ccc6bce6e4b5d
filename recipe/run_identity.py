"""One W&B run for one run folder: a run that is started again continues its curves."""

import os
import secrets
from pathlib import Path

from recipe.evaluation.files import write_text_atomically

FILE = "wandb_run_id"
PASSED_ON = ("VERL_FILE_LOGGER_PATH", "WANDB_DIR", "WANDB_MODE", "WANDB_RESUME", "WANDB_RUN_ID")
"""Variables that the process which logs needs; it may run on another node than the program."""


def run_id(run_dir: Path) -> str:
    """The id of this folder's W&B run: ``WANDB_RUN_ID``, or the one kept there, or a new one."""
    path = run_dir / FILE
    kept = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    chosen = os.environ.get("WANDB_RUN_ID") or kept or secrets.token_hex(4)
    if chosen != kept:
        write_text_atomically(path, chosen + "\n")
    return chosen


def set_variables(run_dir: Path) -> dict[str, str]:
    """Set the variables of the loggers of a run in `run_dir`, where the user has not.

    Returns:
        Those in `PASSED_ON`, as they are now.
    """
    os.environ["VERL_FILE_LOGGER_PATH"] = str(run_dir / "metrics.jsonl")
    os.environ.setdefault("WANDB_DIR", str(run_dir))
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ["WANDB_RUN_ID"] = run_id(run_dir)
    os.environ.setdefault("WANDB_RESUME", "allow")
    return {name: os.environ[name] for name in PASSED_ON}
