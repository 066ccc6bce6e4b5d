"""Keeps the metrics file and the offline W&B run of a resumed run whole.

verl 0.9.1's ``file`` logger opens its file anew at every start, so a resumed run would lose the
curve up to its checkpoint. Here the lines up to the resumed step stay, later ones, which the run
will log again, go, and the logger appends. Offline W&B files lose these later steps as well (W&B's
server drops what comes twice by itself), and get those that W&B had not yet written when the run
was killed.
"""

import json
import os
from pathlib import Path

from verl.utils import tracking

from recipe import wandb_files
from recipe.evaluation.files import write_text_atomically


class AppendingFileLogger(tracking.FileLogger):
    """verl's file logger, appending to what is there."""

    def __init__(self, project_name: str, experiment_name: str) -> None:
        self.filepath = os.environ["VERL_FILE_LOGGER_PATH"]
        self.fp = open(self.filepath, "ab", buffering=0)  # noqa: SIM115 (verl closes it)


def lines_up_to(text: str, step: int) -> str:
    """The lines of a metrics file whose step is not after `step`; a cut-off last line goes."""
    kept = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if entry["step"] <= step:
            kept.append(line + "\n")
    return "".join(kept)


def values_by_step(text: str) -> dict[int, dict[str, float]]:
    """The values that the lines of a metrics file have for each step."""
    found: dict[int, dict[str, float]] = {}
    for entry in map(json.loads, text.splitlines()):
        found.setdefault(entry["step"], {}).update(entry["data"])
    return found


def continue_from(step: int) -> None:
    """Have the loggers of this process go on behind `step`; before they are created."""
    path = Path(os.environ.get("VERL_FILE_LOGGER_PATH", ""))
    if path.is_file():
        write_text_atomically(path, lines_up_to(path.read_text(encoding="utf-8"), step))
    tracking.FileLogger = AppendingFileLogger
    if "WANDB_RUN_ID" in os.environ:
        folder = Path(os.environ.get("WANDB_DIR", "."))
        name = os.environ["WANDB_RUN_ID"]
        wandb_files.forget_after(folder, name, step)
        if path.is_file():
            wandb_files.fill_in(folder, name, values_by_step(path.read_text(encoding="utf-8")))
