"""The watch over a run's actors, on a real Ray."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("actor_watch_driver.py")


def finish(how: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(DRIVER), how],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "RAY_ADDRESS": "local"},
    )


def test_a_program_that_waits_for_a_dead_actor_ends_with_one_line() -> None:
    finished = finish("killed")
    assert finished.returncode == 1, finished.stderr
    assert "found" not in finished.stdout
    (line,) = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert "Idle (process " in line
    assert "died" in line


@pytest.mark.parametrize("how", ["meant", "forgotten"])
def test_an_actor_that_was_meant_to_end_is_no_fault(how: str) -> None:
    finished = finish(how)
    assert finished.returncode == 0, finished.stderr
    assert "found: ''" in finished.stdout
