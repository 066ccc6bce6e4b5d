"""TensorBoard's files of a run: in its folder, and whole over a resume."""

import os
from pathlib import Path
from typing import Any

from verl.utils import tracking


def continue_from(run_dir: str, step: int) -> None:
    """Have verl's ``tensorboard`` logger of this process write to the run's folder.

    A resumed run logs the steps behind `step` again; what an earlier start wrote of them is
    purged by TensorBoard's own means. Call it before the logger is created.
    """
    folder = os.environ.setdefault("TENSORBOARD_DIR", str(Path(run_dir) / "tensorboard"))

    class ContinuedAdapter(tracking._TensorboardAdapter):
        """verl's adapter, with the step from which events of earlier starts do not count."""

        def __init__(self, project_name: str, experiment_name: str) -> None:
            from torch.utils.tensorboard import SummaryWriter

            del project_name, experiment_name
            purge: dict[str, Any] = {"purge_step": step + 1} if step else {}
            self.writer = SummaryWriter(folder, **purge)

    tracking._TensorboardAdapter = ContinuedAdapter
