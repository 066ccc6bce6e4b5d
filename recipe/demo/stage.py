"""A stage of the demo: a command that is run once, and again only where it or its input changed."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recipe.child import run_child
from recipe.evaluation.files import write_text_atomically

POLL_SECONDS = 0.5
LOG_TAIL = 25


@dataclass(frozen=True)
class Stage:
    """One step of the demo.

    Attributes:
        name: short name; its marker and its log bear it.
        title: what the stage does, for the reader of the terminal.
        arguments: command line behind ``python -m``.
        output: folder that the stage writes and no other stage does.
        metrics: file with one line for each training step, for the progress bar; None where the
            command shows its own progress.
        steps: training steps in all, with `metrics`.
    """

    name: str
    title: str
    arguments: tuple[str, ...]
    output: Path
    metrics: Path | None = None
    steps: int = 0


class StageFailed(Exception):
    """A stage ended with an error; the message says where its log is."""


class Ledger:
    """Remembers in a folder which stages are done, with which command, and how long they took."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def _path(self, stage: Stage) -> Path:
        return self.folder / f"{stage.name}.json"

    def _read(self, stage: Stage) -> dict[str, object]:
        path = self._path(stage)
        entry: dict[str, object] = json.loads(path.read_text()) if path.is_file() else {}
        return entry if entry.get("command") == list(stage.arguments) else {}

    def is_done(self, stage: Stage) -> bool:
        """Whether the stage has ended well with this very command, and its output is there."""
        return bool(self._read(stage).get("done")) and stage.output.is_dir()

    def was_begun(self, stage: Stage) -> bool:
        """Whether the stage was begun with this very command, so that it may go on."""
        return bool(self._read(stage))

    def seconds(self, stage: Stage) -> float:
        """Wall time of the stage so far, interrupted attempts included."""
        return float(str(self._read(stage).get("seconds", 0.0)))

    def record(self, stage: Stage, seconds: float, done: bool) -> None:
        """Add `seconds` to the stage."""
        entry = {
            "command": list(stage.arguments),
            "seconds": round(self.seconds(stage) + seconds, 2),
            "done": done,
        }
        write_text_atomically(self._path(stage), json.dumps(entry, indent=2) + "\n")

    def forget(self, stages: Sequence[Stage]) -> None:
        """Have these stages run again."""
        for stage in stages:
            self._path(stage).unlink(missing_ok=True)


def run_stage(stage: Stage, ledger: Ledger, logs: Path) -> None:
    """Run the stage to its end and record it.

    Raises:
        StageFailed: the command ended with an error.
    """
    if not ledger.was_begun(stage):
        # What another command left there is no part of this one.
        shutil.rmtree(stage.output, ignore_errors=True)
    ledger.record(stage, 0.0, done=False)
    start = time.monotonic()
    done = False
    try:
        if stage.metrics is None:
            code, log = run_child([sys.executable, "-m", *stage.arguments]), None
        else:
            logs.mkdir(parents=True, exist_ok=True)
            log = logs / f"{stage.name}.log"
            code = _run_with_bar(stage, stage.metrics, log)
        done = code == 0
    finally:
        ledger.record(stage, time.monotonic() - start, done)
    if not done:
        raise StageFailed(_failure(stage, code, log))


def _run_with_bar(stage: Stage, metrics: Path, log: Path) -> int:
    """Run with the output in `log` and a bar that follows the metrics file."""
    with (
        log.open("ab") as output,
        tqdm(total=stage.steps, desc=stage.name, unit="step", dynamic_ncols=True) as bar,
    ):
        bar.set_postfix_str("starting")
        return run_child(
            [sys.executable, "-m", *stage.arguments],
            while_running=lambda: _move(bar, metrics),
            every=POLL_SECONDS,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def _move(bar: Any, metrics: Path) -> None:
    """Set the bar to the last step in the metrics file, with its loss or reward."""
    if not metrics.is_file():
        return
    lines = metrics.read_bytes().splitlines()
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that is being written
        shown = {"train/loss": "loss", "critic/score/mean": "reward"}
        for name, label in shown.items():
            if name in entry["data"]:
                bar.n = entry["step"]
                bar.set_postfix_str(f"{label} {entry['data'][name]:.3f}")
                return


def _failure(stage: Stage, code: int, log: Path | None) -> str:
    if log is None:
        return f"stage {stage.name} ended with code {code}"
    tail = log.read_text(errors="replace").splitlines()[-LOG_TAIL:]
    shown = "\n".join(tail)
    return f"{shown}\nstage {stage.name} ended with code {code}; the whole log is {log}"


def announce(stage: Stage, number: int, count: int, note: str) -> None:
    """Say which stage comes, and why it is or is not run."""
    print(f"[{number}/{count}] {stage.title}{note}", file=sys.stderr, flush=True)
