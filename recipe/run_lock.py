"""One program at a time in a run's folder, where the file system has locks."""

import fcntl
import os
import socket
import time
from pathlib import Path
from typing import IO

from recipe.errors import InputError

FILE = "lock"
PATIENCE = 150.0
"""Seconds that a requeued job waits: a lock of a node that died ends with its lease (NFS: 90 s)."""

_held: dict[Path, IO[str]] = {}


def lock(run_dir: Path, patience: float | None = None) -> None:
    """Hold the folder until this process ends; without a word where locks are not to be had.

    Args:
        patience: seconds to wait for another program to end; by default only a job that SLURM has
            requeued waits.

    Raises:
        InputError: another program holds it.
    """
    path = run_dir / FILE
    if path in _held:
        return
    if patience is None:
        patience = PATIENCE if os.environ.get("SLURM_RESTART_COUNT", "0") != "0" else 0.0
    stream = path.open("a+", encoding="utf-8")
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise InputError(_held_by(run_dir, path)) from None
            time.sleep(0.5)
        except OSError:
            break  # no locks on this file system
    stream.truncate(0)
    print(f"process {os.getpid()} on {socket.gethostname()}", file=stream, flush=True)
    _held[path] = stream


def _held_by(run_dir: Path, path: Path) -> str:
    other = path.read_text(encoding="utf-8").strip() or "another program"
    return (
        f"run_dir={run_dir}: {other} is running there: wait for its end, or give another run_dir="
    )
