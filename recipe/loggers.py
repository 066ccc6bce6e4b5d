"""Set up verl's loggers so that a resumed run has every step once."""

import json
import os
from pathlib import Path

from verl.utils import tracking

from data_prep.program import write_whole
from recipe.sync import HISTOGRAMS, upload_missing


class AppendingFileLogger(tracking.FileLogger):
    """verl's file logger, which appends to an existing file."""

    def __init__(self, project_name: str, experiment_name: str) -> None:
        self.filepath = os.environ["VERL_FILE_LOGGER_PATH"]
        self.fp = open(self.filepath, "ab", buffering=0)  # noqa: SIM115 (verl closes it)


def continue_from(step: int) -> None:
    """Make the loggers of this process continue after `step`; call it before they are created.

    Later steps are removed from the files, since the run logs them again. W&B offline keeps a
    separate folder for each start; `recipe.sync` makes one run of them.
    """
    metrics = Path(os.environ["VERL_FILE_LOGGER_PATH"])
    for file in (metrics, metrics.with_name(HISTOGRAMS)):
        if file.is_file():
            write_whole(file, lines_up_to(file.read_text(encoding="utf-8"), step))
    tracking.FileLogger = AppendingFileLogger
    if os.environ.get("WANDB_MODE") == "online" and metrics.is_file():
        upload_missing(metrics.parent)


def lines_up_to(text: str, step: int) -> str:
    """Return the complete lines of a metrics file up to and including `step`."""
    lines = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if entry["step"] <= step:
            lines.append(line + "\n")
    return "".join(lines)


def continue_tensorboard(run_dir: str, step: int | None) -> None:
    """Make verl's ``tensorboard`` logger of this process write to the run's folder.

    TensorBoard then drops the steps after `step` that earlier starts wrote; with 0 all of them,
    with None nothing. Call it before the logger is created.
    """
    folder = os.environ.setdefault("TENSORBOARD_DIR", str(Path(run_dir) / "tensorboard"))

    class ContinuedAdapter(tracking._TensorboardAdapter):
        def __init__(self, project_name: str, experiment_name: str) -> None:
            from torch.utils.tensorboard import SummaryWriter

            del project_name, experiment_name
            # Step 0 has the validation before the training.
            first = step + 1 if step else step
            self.writer = SummaryWriter(folder, purge_step=first)

    tracking._TensorboardAdapter = ContinuedAdapter
