"""Child processes that do not outlive the one that started them."""

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

PATIENCE = 60.0  # seconds that a child has to end by itself


def leave_on_sigterm() -> None:
    """Have SIGTERM end this process like an exception, so that it can end its children."""

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def run_child(
    command: Sequence[str],
    while_running: Callable[[], None] | None = None,
    every: float | None = None,
    **options: Any,
) -> int:
    """Run a command to its end; end it if this process is interrupted.

    Args:
        command: program and arguments.
        while_running: called at each look, and once after the end.
        every: seconds between two looks, with `while_running`.
        **options: of `subprocess.Popen`.

    Returns:
        The exit code.
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
            process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
