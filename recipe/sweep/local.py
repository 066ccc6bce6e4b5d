"""Runs the runs of a sweep one after another on this machine."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from recipe.child import leave_on_sigterm, run_child
from recipe.sweep.runs import Run

LOG = "log.txt"


def run_all(runs: Sequence[Run]) -> list[Run]:
    """Start what is not finished; a failed run does not keep the others from starting.

    Returns:
        The runs that failed.
    """
    leave_on_sigterm()
    failed = []
    waiting = [run for run in runs if not run.is_finished]
    for run in (progress := tqdm(waiting, unit="run", disable=not waiting)):
        progress.set_description(run.name)
        run.note_overrides()
        if _train(run, run.folder / LOG) or not run.is_finished:
            failed.append(run)
    return failed


def _train(run: Run, log: Path) -> int:
    """Train in a process of its own; what it says goes to `log`, behind earlier starts."""
    command = [sys.executable, "-m", "recipe.train", *run.overrides]
    with log.open("ab") as stream:
        return run_child(command, stdout=stream, stderr=stream)
