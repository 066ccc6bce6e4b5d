"""The folder of a run that is active: its lock, its start and the request to stop."""

import os
from pathlib import Path

from filelock import FileLock
from omegaconf import DictConfig, open_dict

from data_prep import program
from data_prep.program import write_whole
from recipe import console
from recipe.run import identity
from recipe.run.checkpoints import LAST, prune
from recipe.run.identity import note_settings

LOCK = "lock"
PATIENCE_S = 150.0
"""Seconds that a requeued job waits for the lock of a node that died (NFS frees it in 90 s)."""

VARIABLE = "THINKVG_STOP_FILE"
"""Environment variable that a launcher sets: the file with which it asks this run to stop."""

STOPPED = 75
"""Exit code of a program that ended on request: EX_TEMPFAIL of sysexits.h, try again."""

STOPPED_AFTER = (
    "stopped on request after step {}, its checkpoint is saved: run the same command to resume"
)

_locks: dict[Path, FileLock | None] = {}


def open_run(config: DictConfig) -> None:
    """Open a run's folder in the program that a user started.

    Make the paths absolute, redirect output to the run's log and remove an earlier run's request.

    Raises:
        InputError: another program is running in the folder.
    """
    resolve_paths(config)
    run_dir = Path(config.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    check_free(run_dir)
    console.begin(run_dir)
    StopRequest(config.stop_file).begin()


def take_run(config: DictConfig, program: str) -> dict[str, str]:
    """Take a run's folder in the process that logs; the paths are absolute already.

    Lock the folder, store the run's settings, remove checkpoints beyond the configured number, and
    return the environment variables of the loggers, which are set here as well.

    Raises:
        InputError: another program is running in the folder.
    """
    run_dir = Path(config.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    lock(run_dir)
    note_settings(config, program)
    prune(config, program)
    marker = Path(config.trainer.default_local_dir).absolute() / LAST
    StopRequest(config.stop_file).tell_marker(marker)
    return identity.set_variables(run_dir)


def resolve_paths(config: DictConfig) -> None:
    """Make the run's folder and the file that asks it to stop absolute."""
    with open_dict(config):
        config.run_dir = str(Path(config.run_dir).resolve())
        config.stop_file = str(Path(config.stop_file).resolve())


def lock(run_dir: Path, patience: float | None = None) -> None:
    """Lock the folder until this process ends.

    `patience` is the seconds to wait for another program to end. By default only a job that SLURM
    has requeued waits.

    Raises:
        InputError: another program is running there.
    """
    path = run_dir / LOCK
    if path in _locks:
        return
    if patience is None:
        patience = PATIENCE_S if os.environ.get("SLURM_RESTART_COUNT", "0") != "0" else 0.0
    _locks[path] = program.lock(path, "run_dir=", patience)


def check_free(run_dir: Path) -> None:
    """Refuse a folder in which another program is running; a child of this one may lock it then."""
    lock(run_dir)
    folder_lock = _locks.pop(run_dir / LOCK)
    if folder_lock:
        folder_lock.release()


class StopRequest:
    """A request to stop, a file at `path` on a file system that all nodes share."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._answer = Path(f"{path}.done")

    def asked(self) -> bool:
        return self._path.exists()

    def answer(self, step: int) -> None:
        """Record that the checkpoint of `step` is complete and that the training ends."""
        write_whole(self._answer, f"{step}\n")
        self._path.unlink(missing_ok=True)

    def answered(self) -> int | None:
        """Return the saved step; None if the training did not end on request."""
        return int(self._answer.read_text()) if self._answer.exists() else None

    def tell_marker(self, marker: Path) -> None:
        """Write the path of the last checkpoint's marker for a launcher, to see the progress."""
        if VARIABLE in os.environ:
            write_whole(Path(f"{self._path}.marker"), f"{marker}\n")

    def begin(self) -> None:
        """Remove an earlier run's answer and request.

        A launcher's request (`VARIABLE` is set) belongs to this start only: it stays, since it may
        arrive while the run is starting.
        """
        self._answer.unlink(missing_ok=True)
        if VARIABLE not in os.environ:
            self._path.unlink(missing_ok=True)
