"""Submits the runs of a sweep as one SLURM array, each through `launch/slurm/train.sbatch`.

A task of the array becomes that script (`exec`), so that signals, requeues, containers and exit
codes are its own; the script is given the task's overrides, one from each line of a file. Every
submission has a folder of its own, which the tasks of an array read whenever they start: a later
submission leaves it alone, and leaves out the runs that are still queued.
"""

import json
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from recipe.errors import InputError
from recipe.evaluation.files import write_text_atomically
from recipe.settings import CONFIG_FOLDER
from recipe.sweep.runs import Run

TRAIN = Path("launch/slurm/train.sbatch")
SUBMISSIONS, SCRIPT, TASKS, JOB = "submissions", "array.sbatch", "tasks", "job.json"
SUBMIT_TIMEOUT = 60.0


def submit(runs: Sequence[Run], out: Path, options: Sequence[str], dry: bool = False) -> str:
    """Submit what is neither finished nor queued; the array's files are in ``out/submissions/N``.

    Args:
        options: of sbatch, such as ``--nodes=2`` and ``--time=12:00:00``.
        dry: write and submit nothing.

    Returns:
        What was submitted, or sbatch's command line with `dry`; empty where all is finished.

    Raises:
        InputError: there is no launcher or no SLURM, or sbatch refuses.
    """
    waiting = [run for run in runs if not run.is_finished]
    if not waiting:
        return ""
    queued = queued_runs(out)
    told = "".join(
        f"{run.name}: still queued, as {queued[run.name]}\n"
        for run in waiting
        if run.name in queued
    )
    waiting = [run for run in waiting if run.name not in queued]
    if not waiting:
        return f"{told}nothing is left to submit"
    launcher = CONFIG_FOLDER.parent / TRAIN
    if not launcher.is_file():
        raise InputError(f"{launcher}: no such launcher; run the sweep from a whole checkout")
    folder = _next_folder(out)
    command = ["sbatch", "--parsable", f"--array=0-{len(waiting) - 1}", *options]
    command.append(str(folder / SCRIPT))
    if dry:
        return told + shlex.join(command)
    for task, run in enumerate(waiting):
        run.note_overrides()
        write_text_atomically(folder / TASKS / str(task), "\n".join(run.overrides) + "\n")
    write_text_atomically(folder / SCRIPT, _script(launcher, folder))
    job = _slurm(command).partition(";")[0]
    names = [run.name for run in waiting]
    write_text_atomically(folder / JOB, json.dumps({"job": job, "runs": names}) + "\n")
    return f"{told}submitted as job {job}: {', '.join(names)}"


def queued_runs(out: Path) -> dict[str, str]:
    """Names of the runs of earlier submissions that SLURM still has, with their tasks.

    Raises:
        InputError: SLURM does not answer, so that nothing is known.
    """
    found: dict[str, str] = {}
    for file in sorted((out / SUBMISSIONS).glob(f"*/{JOB}")):
        submitted = json.loads(file.read_text(encoding="utf-8"))
        for task in _tasks_in_queue(submitted["job"]):
            found[submitted["runs"][int(task.rpartition("_")[2])]] = task
    return found


def _tasks_in_queue(job: str) -> Iterator[str]:
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={job}"]
    try:
        said = _slurm(command)
    except InputError as error:
        if "Invalid job id" in str(error):
            return  # SLURM has forgotten it: it ended a while ago
        raise
    yield from (task for task in said.split() if task.startswith(f"{job}_"))


def _next_folder(out: Path) -> Path:
    holder = out.resolve() / SUBMISSIONS
    taken = [int(path.name) for path in holder.glob("*") if path.name.isdecimal()]
    return holder / str(max(taken, default=0) + 1)


def _script(launcher: Path, folder: Path) -> str:
    """The launcher's own directives, then the hand-over to it."""
    text = launcher.read_text(encoding="utf-8")
    directives = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    root = shlex.quote(str(CONFIG_FOLDER.parent))
    return "\n".join(
        [
            "#!/usr/bin/env bash",
            *[line for line in directives if "--output" not in line],
            f'#SBATCH --output="{folder / "slurm-%A_%a.log"}"',
            "set -euo pipefail",
            # The launcher looks for the repository where sbatch was called, unless told.
            f"export THINKVG_ROOT=${{THINKVG_ROOT:-{root}}}",
            f'mapfile -t overrides <{shlex.quote(str(folder / TASKS))}/"$SLURM_ARRAY_TASK_ID"',
            f'exec bash {shlex.quote(str(launcher.resolve()))} "${{overrides[@]}}" "$@"',
            "",
        ]
    )


def _slurm(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SUBMIT_TIMEOUT, check=False
        )
    except FileNotFoundError as error:
        raise InputError(
            f"{command[0]}: no SLURM here; leave --slurm out to run one after another"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{command[0]}: no answer within {SUBMIT_TIMEOUT:g} s") from error
    if done.returncode:
        raise InputError(f"{command[0]}: {done.stderr.strip()}")
    return done.stdout.strip()
