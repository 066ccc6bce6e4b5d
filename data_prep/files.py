"""Files that appear under their name only when they are whole."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends without error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def is_utf8(path: Path) -> bool:
    """Whether a path can be written into a file; Linux allows names that cannot."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed `whole_file` left in a folder."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def ignore_interrupts() -> None:
    """For worker processes: Ctrl-C is the parent's to handle, which lets them end what they do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
