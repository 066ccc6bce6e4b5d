"""One run at a time writes to a folder."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.errors import InputError

NAME = ".lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Holds a folder for this process; the kernel lets go of it when the process is killed.

    Raises InputError where another run holds it.
    """
    path = folder / NAME
    descriptor = _lock(path)
    try:
        yield
    finally:
        # While it is still held: who waits on the removed file looks for it again.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise InputError(
                f"another run writes to {path.parent}: wait for it, or give another --out"
            ) from None
        except OSError as error:
            # Some network file systems know no locks.
            print(f"{path} cannot be locked ({error.strerror}): start no other run into this "
                  "folder", file=sys.stderr)  # fmt: skip
            return descriptor
        if _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
