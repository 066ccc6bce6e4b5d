"""The watch over a run's actors, on a real Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).parent / "drivers" / "actor_watch_driver.py"
OTHER_NODE = Path(__file__).parent / "drivers" / "other_node_driver.py"


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


def test_a_stopped_actor_on_another_node_is_found_and_ended() -> None:
    finished = subprocess.run(
        [sys.executable, str(OTHER_NODE)], capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    # Ray has its say as well
    (line,) = [line for line in finished.stdout.splitlines() if line.startswith("{")]
    found = json.loads(line)
    assert found["elsewhere"], "the actor is on the driver's own node"
    assert found["moving"] == []
    ((state, name, pid),) = found["stopped"]
    assert (pid, state) == (found["pid"], "is stopped")
    assert name.startswith("ray::Elsewhere")
    assert found["alive"] == 0
