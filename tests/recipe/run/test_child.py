"""A child process ends with the one that started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipe.run.host import run_child

PARENT = """
import sys
from recipe.run.host import leave_on_sigterm, run_child
leave_on_sigterm()
child = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))"
run_child([sys.executable, "-c", child + "; time.sleep(60)", sys.argv[1]])
"""


def test_the_exit_code_comes_back() -> None:
    assert run_child([sys.executable, "-c", "raise SystemExit(7)"]) == 7


def test_it_looks_while_the_child_runs_and_after_it() -> None:
    looks: list[float] = []
    command = [sys.executable, "-c", "import time; time.sleep(0.5)"]
    assert run_child(command, lambda: looks.append(time.monotonic()), every=0.1) == 0
    assert len(looks) >= 2


def test_an_exception_ends_the_child(tmp_path: Path) -> None:
    written = tmp_path / "late"
    command = [sys.executable, "-c", f"import time; time.sleep(3); open({str(written)!r}, 'w')"]

    def fail() -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        run_child(command, fail, every=0.1)
    time.sleep(3.5)
    assert not written.exists()


def test_sigterm_to_the_parent_ends_the_child(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(marker)])
    deadline = time.monotonic() + 30
    while not (marker.is_file() and marker.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    child = int(marker.read_text())
    parent.terminate()
    assert parent.wait(timeout=30) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
