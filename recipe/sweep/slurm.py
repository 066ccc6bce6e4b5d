"""Submits the runs of a sweep as one SLURM array, each through `launch/slurm/train.sbatch`.

A task of the array becomes that script (`exec`), so that signals, requeues, containers and exit
codes are its own; the script is given the task's overrides, one from each line of a file.
"""

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from recipe.errors import InputError
from recipe.evaluation.files import write_text_atomically
from recipe.settings import CONFIG_FOLDER
from recipe.sweep.runs import Run

TRAIN = Path("launch/slurm/train.sbatch")
SCRIPT, TASKS = "array.sbatch", "tasks"
SUBMIT_TIMEOUT = 60.0


def submit(runs: Sequence[Run], out: Path, options: Sequence[str], dry: bool = False) -> str:
    """Write the array's files into `out` and submit what is not finished.

    Args:
        options: of sbatch, such as ``--nodes=2`` and ``--time=12:00:00``.
        dry: write the files and submit nothing.

    Returns:
        What sbatch says, or its command line with `dry`; empty where nothing is left to run.

    Raises:
        InputError: there is no launcher or no SLURM, or sbatch refuses.
    """
    waiting = [run for run in runs if not run.is_finished]
    if not waiting:
        return ""
    launcher = CONFIG_FOLDER.parent / TRAIN
    if not launcher.is_file():
        raise InputError(f"{launcher}: no such launcher; run the sweep from a whole checkout")
    for task, run in enumerate(waiting):
        run.note_overrides()
        write_text_atomically(out / TASKS / str(task), "\n".join(run.overrides) + "\n")
    write_text_atomically(out / SCRIPT, _script(launcher, out))
    command = ["sbatch", f"--array=0-{len(waiting) - 1}", *options, str(out / SCRIPT)]
    return shlex.join(command) if dry else _sbatch(command)


def _script(launcher: Path, out: Path) -> str:
    """The launcher's own directives, then the hand-over to it."""
    text = launcher.read_text(encoding="utf-8")
    directives = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    tasks = shlex.quote(str((out / TASKS).resolve()))
    return "\n".join(
        [
            "#!/usr/bin/env bash",
            *[line for line in directives if "--output" not in line],
            f"#SBATCH --output={(out / 'slurm-%A_%a.log').resolve()}",
            "set -euo pipefail",
            f'mapfile -t overrides <{tasks}/"$SLURM_ARRAY_TASK_ID"',
            f'exec bash {shlex.quote(str(launcher.resolve()))} "${{overrides[@]}}" "$@"',
            "",
        ]
    )


def _sbatch(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SUBMIT_TIMEOUT, check=False
        )
    except FileNotFoundError as error:
        raise InputError(
            "sbatch: no SLURM here; leave --slurm out to run one after another"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise InputError(f"sbatch: no answer within {SUBMIT_TIMEOUT:g} s") from error
    if done.returncode:
        raise InputError(f"sbatch: {done.stderr.strip()}")
    return done.stdout.strip()
