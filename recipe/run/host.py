"""The machine that a program runs on: limits, paths, output folders, child processes."""

import contextlib
import hashlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_prep.program import InputError

OPEN_FILES = 65536
"""More than a node of a run opens; Ray recommends it for its own processes."""

_IN_RAY = "/ray/session_2026-01-31_12-00-00_123456_1234567/sockets/dash_MetricsHead"
LONGEST_PATH = 107 - len(_IN_RAY)
"""Longest path of a temporary folder in bytes: Linux allows 107 for that of a socket in it.

Sockets of vLLM and of Python's multiprocessing have shorter names than Ray's.
"""

PROBE = bytes(1 << 16)
"""Data for a test file: more than file systems store together with the file's name."""

TIME_TO_END = 60.0
"""Seconds that a child process has to end after SIGTERM."""


def adapt() -> None:
    """Raise soft limits, and replace a long path of a temporary folder by a short link.

    Raises:
        InputError: the folder's path is too long, and no link to it can be made.
    """
    _raise_soft_limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    _raise_soft_limit(resource.RLIMIT_NPROC)
    for name in ("TMPDIR", "RAY_TMPDIR"):
        folder = os.environ.get(name, "")
        if len(os.fsencode(folder)) > LONGEST_PATH:
            os.environ[name] = short_path(name, folder)
            tempfile.tempdir = None  # makes Python read the variable again


def _raise_soft_limit(limit: int, enough: int | None = None) -> None:
    """Raise a soft limit to the hard one, or to `enough` where that is less."""
    soft, hard = resource.getrlimit(limit)
    target = hard if enough is None or 0 <= hard < enough else enough
    if soft != resource.RLIM_INFINITY and (target == resource.RLIM_INFINITY or soft < target):
        with contextlib.suppress(OSError, ValueError):  # a sandbox may forbid it
            resource.setrlimit(limit, (target, hard))


def cores_for_each(processes: int) -> int:
    """Return the cores of this machine for each of some processes that compute at the same time."""
    return max(1, len(os.sched_getaffinity(0)) // processes)


def short_path(name: str, folder: str) -> str:
    """Link to a folder from /tmp, always under the same name, and return the link.

    Links to folders that no longer exist are removed. The folder is created if it does not exist,
    as Ray would do. `name` is the variable or option with its path, for the message.

    Raises:
        InputError: the link cannot be made.
    """
    folder = os.path.abspath(folder)
    digest = hashlib.sha256(f"{os.getuid()} {folder}".encode(errors="surrogateescape")).hexdigest()
    link = Path(f"/tmp/tvg-{digest[:8]}")
    try:
        os.makedirs(folder, exist_ok=True)
        _remove_old_links()
        with contextlib.suppress(FileExistsError):
            link.symlink_to(folder)
        # Another user may have created something of this name in /tmp.
        if link.lstat().st_uid == os.getuid() and os.readlink(link) == folder:
            return str(link)
        reason = f"{link} exists and is not this link"
    except OSError as error:
        reason = str(error)
    raise InputError(
        f"{name}={folder}: the path is {len(os.fsencode(folder))} bytes long, sockets in it allow "
        f"{LONGEST_PATH}, and no short link to it can be made ({reason}): set {name} to a folder "
        "with a shorter path"
    )


def _remove_old_links() -> None:
    """Remove this user's links to missing folders; other processes may do so at the same time."""
    for link in Path("/tmp").glob("tvg-*"):
        with contextlib.suppress(FileNotFoundError):
            if link.lstat().st_uid == os.getuid() and link.is_symlink() and not link.exists():
                link.unlink()


def unwritable(folder: Path) -> str:
    """Return why a folder, which need not exist, cannot be written to; empty if it can."""
    try:
        folder = folder.absolute()
        while not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(PROBE)
            file.flush()
            os.fsync(file.fileno())  # a network disk reports a full quota only here
    except OSError as error:
        return error.strerror or str(error)
    return ""


def check_output(name: str, folder: Path) -> None:
    """Refuse an output folder, given as option `name`, that cannot be made or written to."""
    reason = unwritable(folder)
    if reason:
        raise InputError(
            f"{name}={folder}: nothing can be written there ({reason}): free space, or choose "
            f"another {name}"
        )


def check_outputs(config: DictConfig) -> None:
    """Refuse a ``run_dir`` or ``out`` of a configuration that cannot be written to."""
    for key in ("run_dir", "out"):
        if key in config:
            check_output(key, Path(config[key]))


def leave_on_sigterm() -> None:
    """Make SIGTERM raise SystemExit, so that this process can end its children."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def run_child(
    command: Sequence[str],
    while_running: Callable[[], None] | None = None,
    every: float | None = None,
    **options: Any,
) -> int:
    """Run a command until it ends and return its exit code; end it if this process is interrupted.

    `while_running` is called every `every` seconds, and once after the end. The `options` are those
    of `subprocess.Popen`.
    """
    look = while_running or (lambda: None)
    process = subprocess.Popen(list(command), **options)
    try:
        while True:
            try:
                code = process.wait(timeout=every)
                break
            except subprocess.TimeoutExpired:
                look()
        look()
        return code
    except BaseException:
        process.terminate()
        try:
            process.wait(timeout=TIME_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
