"""Stages: commands that run one after the other, and resume where they stopped."""

import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.coordinates import MODEL_FAMILIES
from data_prep.program import write_whole
from recipe import console
from recipe.run.host import run_child

POLL_SECONDS = 0.5
# Image tokens of a picture: allows 4 x 4 for every picture of the phantom set, whatever its aspect
# ratio.
FEWEST_TOKENS, MOST_TOKENS = 16, 20


@dataclass(frozen=True)
class Stage:
    """One step of the demo."""

    name: str  # also of its record and its log
    title: str  # what it does, as shown on the terminal
    arguments: tuple[str, ...]  # after ``python -m``
    output: Path  # a folder that only this stage writes
    # A file with a line for each of `steps`; None if the command shows its own progress.
    metrics: Path | None = None
    steps: int = 0


class StageFailed(SystemExit):
    """A stage ended with an error; these lines end the program, and the last names the log."""


class Ledger:
    """A folder that records which stages are done, by which command, and how long they took."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def _path(self, stage: Stage) -> Path:
        return self.folder / f"{stage.name}.json"

    def _read(self, stage: Stage) -> dict[str, Any]:
        path = self._path(stage)
        entry: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        return entry if entry.get("command") == list(stage.arguments) else {}

    def is_done(self, stage: Stage) -> bool:
        """Return whether the stage succeeded with the same command, and its output exists."""
        return bool(self._read(stage).get("done")) and stage.output.is_dir()

    def was_begun(self, stage: Stage) -> bool:
        """Return whether the stage was started with the same command, so that it may resume."""
        return bool(self._read(stage))

    def seconds(self, stage: Stage) -> float:
        """Return the wall time of the stage so far, interrupted attempts included."""
        return float(self._read(stage).get("seconds", 0.0))

    def record(self, stage: Stage, seconds: float, done: bool) -> None:
        """Add `seconds` to the time of the stage, and record whether it is done."""
        entry = {
            "command": list(stage.arguments),
            "seconds": round(self.seconds(stage) + seconds, 2),
            "done": done,
        }
        write_whole(self._path(stage), json.dumps(entry, indent=2) + "\n")

    def owns(self, stage: Stage) -> bool:
        """Return whether the stage was ever started, with whatever command."""
        return self._path(stage).is_file()

    def forget(self, stages: Sequence[Stage]) -> None:
        """Let these stages run again from their beginning."""
        for stage in stages:
            if self.owns(stage):
                write_whole(self._path(stage), "{}\n")


def run_stage(stage: Stage, ledger: Ledger, logs: Path) -> None:
    """Run the stage to its end and record it.

    Raises:
        StageFailed: its command fails, or its folder holds files of something else.
    """
    if not ledger.was_begun(stage):
        _clear_output(stage, ledger)
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


def _clear_output(stage: Stage, ledger: Ledger) -> None:
    """Remove what the stage left with another command; refuse a folder that it did not write."""
    is_used = stage.output.is_dir() and any(stage.output.iterdir())
    if is_used and not ledger.owns(stage):
        raise StageFailed(
            f"{console.ERROR}{stage.output} is not of an earlier run of this command: "
            "name another folder with --out, or move it away"
        )
    shutil.rmtree(stage.output, ignore_errors=True)


def _run_with_bar(stage: Stage, metrics: Path, log: Path) -> int:
    """Run the stage, logged, with a bar that follows the metrics; return its exit code."""
    with (
        log.open("wb") as output,
        console.progress(total=stage.steps, desc=stage.name, unit="step") as bar,
    ):
        bar.set_postfix_str("starting", refresh=False)
        return run_child(
            [sys.executable, "-m", *stage.arguments],
            while_running=lambda: _move_bar(bar, metrics),
            every=POLL_SECONDS,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def _move_bar(bar: Any, metrics: Path) -> None:
    """Set the bar to the last step in the metrics file, with its loss or reward."""
    if not metrics.is_file():
        return
    labels = {"train/loss": "loss", "critic/score/mean": "reward"}
    for line in reversed(metrics.read_bytes().splitlines()):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # a line that is being written
        for name, label in labels.items():
            if name in entry["data"]:
                bar.set_postfix_str(f"{label} {entry['data'][name]:.3f}", refresh=False)
                bar.update(entry["step"] - bar.n)
                return


def _failure(stage: Stage, code: int, log: Path | None) -> str:
    """Return the message about a failed stage: its last error in the log, and the log's path."""
    lines = log.read_text(errors="replace").splitlines() if log else []
    errors = [line for line in lines if line.startswith(console.ERROR)]
    message = f"stage {stage.name} ended with code {code}; run the same command to resume"
    engine_log = stage.output / console.LOG
    shown_log = engine_log if engine_log.is_file() else log
    return "\n".join([*errors[-1:], message, *([f"log: {shown_log}"] if shown_log else [])])


def announce(stage: Stage, number: int, count: int, note: str) -> None:
    """Print the stage's title, with a note such as " (done)"."""
    print(f"[{number}/{count}] {stage.title}{note}", file=sys.stderr, flush=True)


def _command(module: str, **options: object) -> tuple[str, ...]:
    """Return a command line after ``python -m``; `min_pixels` becomes ``--min-pixels``."""
    pairs = ((f"--{name.replace('_', '-')}", str(value)) for name, value in options.items())
    return (module, *itertools.chain(*pairs))


def draw_stage(root: Path, images: int, seed: int) -> Stage:
    out = root / "phantom"
    command = _command("phantom.draw", out=out, images=images, seed=seed)
    return Stage("phantom", f"draw {images} synthetic chest X-rays with questions", command, out)


def prepare_stage(root: Path, seed: int, test: float, family: str = "qwen2_5_vl") -> Stage:
    """Return the stage that turns the phantom set below `root` into training files.

    `test` is the share of the patients that are kept for the test split.
    """
    phantom, out = root / "phantom", root / "data"
    folders = {"source": phantom, "images": phantom / "files", "out": out}
    cell = MODEL_FAMILIES[family].factor ** 2
    options = {
        "model_family": family,
        "min_pixels": FEWEST_TOKENS * cell,
        "max_pixels": MOST_TOKENS * cell,
    }
    command = _command("data_prep.thinkvg", **folders, **options, val=0.02, test=test, seed=seed)
    return Stage("data", "turn them into rollout and SFT parquet", command, out)


def tiny_stage(root: Path, out: Path, seed: int, letters: int, epochs: int) -> Stage:
    """Return the stage that makes a tiny model, pre-trained on the phantom set below `root`."""
    pictures = root / "phantom" / "pictures.parquet"
    folders = {"data": root / "data", "out": out, "pictures": pictures}
    command = _command("phantom.tiny", **folders, letters=letters, epochs=epochs, seed=seed)
    title = "make a tiny model and pre-train it on grounded reports"
    return Stage("model", title, command, out)


def program(name: str, data: Path, seed: int, *overrides: str) -> tuple[str, ...]:
    """Return the command of a program of the recipe for the tiny model."""
    settings = ("cluster=cpu", "model=tiny", f"data.dir={data}", f"seed={seed}")
    return (f"recipe.{name}", *settings, *overrides)


def training_stage(
    name: str, title: str, command: tuple[str, ...], model: Path, run: Path, steps: int
) -> Stage:
    """Return a stage with a command of `program` that trains `model` in the run folder `run`."""
    arguments = (
        *command,
        f"model.path={model}",
        f"run_dir={run}",
        f"trainer.total_training_steps={steps}",
    )
    return Stage(name, title, arguments, run, run / "metrics.jsonl", steps)


def run_stages(stages: Sequence[Stage], root: Path) -> Ledger:
    """Run the stages that are not done; after one that runs, all later stages run again.

    Records and logs are below `root`.
    """
    ledger = Ledger(root / "stages")
    for number, stage in enumerate(stages, 1):
        if ledger.is_done(stage):
            announce(stage, number, len(stages), " (done)")
            continue
        ledger.forget(stages[number:])
        announce(stage, number, len(stages), "")
        run_stage(stage, ledger, root / "logs")
    return ledger
