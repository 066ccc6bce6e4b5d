"""How a command of this package ends: faults of the input are one line and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from data_prep.errors import InputError

STOPPED = "stopped; the same command goes on from here"


def run(work: Callable[[], None], out: Path, stopped: str = STOPPED) -> int:
    """Do the work of a command and return its exit code.

    0 where it ends, 2 where the input or the disk is at fault, 130 where the user stopped it.
    `out` stands for a fault of the system that names no file, `stopped` is said after Ctrl-C.
    """
    try:
        work()
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename or out}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130
    return 0
