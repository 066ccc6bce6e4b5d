"""Plan the runs of a sweep, and start them here one after another or as a SLURM array."""

import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.program import InputError, write_whole
from recipe import console
from recipe.program import CONFIG_FOLDER, compose_config
from recipe.run.host import leave_on_sigterm, run_child
from recipe.train.__main__ import FINISHED

BASE = "base"
OVERRIDES = "overrides.json"
LAUNCHER = Path("launch/slurm/train.sbatch")
SUBMISSIONS, SCRIPT, TASKS, JOB = "submissions", "array.sbatch", "tasks", "job.json"
SLURM_TIMEOUT = 60.0


@dataclass(frozen=True)
class Run:
    """One training run; `changes` are the overrides in which it differs from other runs."""

    name: str
    folder: Path
    changes: tuple[str, ...]
    overrides: tuple[str, ...]

    @property
    def is_finished(self) -> bool:
        """Whether a run with these overrides has finished."""
        return (self.folder / FINISHED).is_file() and self.fits_folder

    @property
    def fits_folder(self) -> bool:
        """Whether the folder has a run with the same overrides, or no run."""
        file = self.folder / OVERRIDES
        if not file.is_file():
            return True
        return _without_folder(json.loads(file.read_text())) == _without_folder(self.overrides)

    def save_overrides(self) -> None:
        """Save the overrides in the run's folder, where a later sweep reads them."""
        text = json.dumps(list(self.overrides), indent=2) + "\n"
        write_whole(self.folder / OVERRIDES, text)

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"


def _without_folder(overrides: Sequence[str]) -> list[str]:
    return [override for override in overrides if not override.startswith("run_dir=")]


def ablations() -> list[str]:
    return sorted(path.stem for path in (CONFIG_FOLDER / "ablation").glob("*.yaml"))


def plan_runs(out: Path, variants: Iterable[str], shared: Sequence[str]) -> list[Run]:
    """Plan the runs of a sweep; check that names differ and configurations compose.

    A variant is an ablation's name or ``base`` and overrides after it, or overrides alone, quoted
    as in a shell; `shared` are overrides of all runs.

    Raises:
        InputError: an unknown ablation or key, two runs with the same name, or a folder with a run
            with other overrides.
    """
    runs = [_run(out, variant, shared) for variant in variants]
    names = set()
    for run in runs:
        if run.name in names:
            raise InputError(f"two runs are called {run.name}: name each variant once")
        if not run.fits_folder:
            raise InputError(
                f"{run.folder}: holds a run with other overrides ({OVERRIDES}): choose another "
                "--out, or remove that folder"
            )
        names.add(run.name)
        compose_config("train", list(run.overrides))
    return runs


def _run(out: Path, variant: str, shared: Sequence[str]) -> Run:
    changes = _overrides_of(variant)
    name = run_name(changes)
    folder = out.resolve() / name
    named = (f"run_dir={folder}", f"trainer.experiment_name={out.resolve().name}-{name}")
    return Run(name, folder, changes, (*shared, *changes, *named))


def _overrides_of(variant: str) -> tuple[str, ...]:
    try:
        words = shlex.split(variant)
    except ValueError as error:
        raise InputError(f"{variant}: {error}: quote a variant as in a shell") from error
    if words and "=" not in words[0]:
        name, *overrides = words
        if name != BASE and name not in ablations():
            raise InputError(
                f"{name}: no such ablation; there are {BASE}, {', '.join(ablations())}"
            )
        words = overrides if name == BASE else [f"ablation={name}", *overrides]
    return tuple(words)


def run_name(changes: Sequence[str]) -> str:
    """Make a run's name from its changes: ``dapo``, ``n4-kl_loss_coef0.1``, ``base``."""
    parts = []
    for override in changes:
        key, _, value = override.lstrip("+~").partition("=")
        prefix = "" if key == "ablation" else key.rpartition(".")[2]
        parts.append(re.sub(r"[^A-Za-z0-9_.]+", "_", f"{prefix}{value}").strip("_"))
    return "-".join(parts) or BASE


def run_all(runs: Sequence[Run]) -> dict[Run, str]:
    """Run what is not finished, one after another; return the error messages of failures."""
    leave_on_sigterm()
    failed = {}
    waiting = [run for run in runs if not run.is_finished]
    for run in (bar := console.progress(waiting, desc="runs", unit="run")):
        bar.set_description_str(run.name)
        run.save_overrides()
        code, fault = _train(run)
        if code or not run.is_finished:
            failed[run] = fault or f"ended with code {code}"
    return failed


def _train(run: Run) -> tuple[int, str]:
    """Train in a separate process; return its exit code and its last error message."""
    command = [sys.executable, "-m", "recipe.train", *run.overrides]
    with tempfile.TemporaryFile("w+") as errors:
        code = run_child(command, stdout=subprocess.DEVNULL, stderr=errors)
        errors.seek(0)
        faults = [line for line in errors if line.startswith(console.ERROR)]
    return code, faults[-1].removeprefix(console.ERROR).strip() if faults else ""


def submit(runs: Sequence[Run], out: Path, options: Sequence[str], dry: bool = False) -> str:
    """Submit what is neither finished nor queued; say what, or return sbatch's command with `dry`.

    The array's files are in ``out/submissions/N``; a `dry` run writes and submits nothing. The
    options of sbatch are such as ``--nodes=2``. If all runs are finished, there is nothing to say.

    Raises:
        InputError: there is no launcher or no SLURM, or sbatch refuses.
    """
    waiting = [run for run in runs if not run.is_finished]
    if not waiting:
        return ""
    queued = queued_runs(out)
    notes = "".join(
        f"{run.name}: still queued, as {queued[run.name]}\n"
        for run in waiting
        if run.name in queued
    )
    waiting = [run for run in waiting if run.name not in queued]
    if not waiting:
        return f"{notes}nothing is left to submit"
    launcher = CONFIG_FOLDER.parent / LAUNCHER
    if not launcher.is_file():
        raise InputError(f"{launcher}: no such launcher; run the sweep from a whole checkout")
    folder = _next_folder(out)
    command = ["sbatch", "--parsable", f"--array=0-{len(waiting) - 1}", *options]
    command.append(str(folder / SCRIPT))
    if dry:
        return notes + shlex.join(command)
    for task, run in enumerate(waiting):
        run.save_overrides()
        write_whole(folder / TASKS / str(task), "\n".join(run.overrides) + "\n")
    write_whole(folder / SCRIPT, _script(launcher, folder))
    job = _slurm(command).partition(";")[0]
    names = [run.name for run in waiting]
    write_whole(folder / JOB, json.dumps({"job": job, "runs": names}) + "\n")
    return f"{notes}submitted as job {job}: {', '.join(names)}"


def queued_runs(out: Path) -> dict[str, str]:
    """Return the runs of earlier submissions that are still in SLURM's queue, with their tasks."""
    queued: dict[str, str] = {}
    for file in sorted((out / SUBMISSIONS).glob(f"*/{JOB}")):
        submitted = json.loads(file.read_text(encoding="utf-8"))
        for task in _tasks_in_queue(submitted["job"]):
            queued[submitted["runs"][int(task.rpartition("_")[2])]] = task
    return queued


def _tasks_in_queue(job: str) -> Iterator[str]:
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={job}"]
    try:
        tasks = _slurm(command).split()
    except InputError as error:
        if "Invalid job id" in str(error):
            return  # SLURM forgets jobs some time after their end
        raise
    yield from (task for task in tasks if task.startswith(f"{job}_"))


def _next_folder(out: Path) -> Path:
    submissions = out.resolve() / SUBMISSIONS
    numbers = [int(path.name) for path in submissions.glob("*") if path.name.isdecimal()]
    return submissions / str(max(numbers, default=0) + 1)


def _script(launcher: Path, folder: Path) -> str:
    """Return a script that starts the launcher with a task's overrides and its directives."""
    text = launcher.read_text(encoding="utf-8")
    directives = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    root = shlex.quote(str(CONFIG_FOLDER.parent))
    return "\n".join(
        [
            "#!/usr/bin/env bash",
            *[line for line in directives if "--output" not in line],
            f'#SBATCH --output="{folder / "slurm-%A_%a.log"}"',
            "set -euo pipefail",
            # By default the launcher looks for the repository where sbatch was called.
            f"export THINKVG_ROOT=${{THINKVG_ROOT:-{root}}}",
            f'mapfile -t overrides <{shlex.quote(str(folder / TASKS))}/"$SLURM_ARRAY_TASK_ID"',
            f'exec bash {shlex.quote(str(launcher.resolve()))} "${{overrides[@]}}" "$@"',
            "",
        ]
    )


def _slurm(command: Sequence[str]) -> str:
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=SLURM_TIMEOUT, check=False
        )
    except FileNotFoundError as error:
        raise InputError(
            f"{command[0]}: no SLURM here; leave --slurm out to run one after another"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{command[0]}: no answer within {SLURM_TIMEOUT:g} s") from error
    if result.returncode:
        raise InputError(f"{command[0]}: {result.stderr.strip()}")
    return result.stdout.strip()
