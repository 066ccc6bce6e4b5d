"""A run in which the engine stops answering, and one whose groups no longer differ."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from recipe.run.checkpoints import last_step

REWARD = Path(__file__).parent / "drivers" / "switch_reward.py"
LIMIT = 60
END = 240
"""Seconds within which a run has to end: the limit, and what asking and ending takes."""
BATCHES = 3


@pytest.fixture
def command(tmp_path: Path, training: Any) -> list[str]:
    """A run that ends by itself only when its groups no longer differ."""
    return list(
        training(
            tmp_path / "run",
            "ablation=dapo",
            "trainer.total_epochs=1000",
            "trainer.save_freq=1",
            f"trainer.v1.thinkvg.stuck.least={LIMIT}",
            "trainer.v1.thinkvg.stuck.factor=1",
            f"trainer.v1.thinkvg.max_drawn_batches={BATCHES}",
            f"reward.custom_reward_function.path={REWARD}",
            f"+reward.custom_reward_function.reward_kwargs.switch={tmp_path / 'constant'}",
        )
    )


@contextmanager
def started(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run; nothing of it is left afterwards."""
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ,
        ) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                for child in descendants(process):
                    child.kill()
                os.killpg(process.pid, signal.SIGKILL)


def descendants(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, log.read_text(errors="replace")[-8000:]
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-8000:]
        time.sleep(0.02)


def title(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [""])[0]
    except psutil.Error:
        return ""


def fault(log: Path) -> str:
    """The one line that says why the run ended."""
    text = log.read_text(errors="replace")
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, text[-8000:]
    return lines[0]


def test_a_stuck_engine_and_equal_rewards_end_a_run(
    command: list[str], tmp_path: Path, metrics: Any
) -> None:
    run_dir, log = tmp_path / "run", tmp_path / "log"

    def steps() -> list[int]:
        try:
            return sorted(metrics(run_dir))
        except (FileNotFoundError, json.JSONDecodeError):
            return []

    # The engine stops in the middle of the second step.
    with started(command, log) as process:
        wait_for(lambda: bool(steps()), process, log)
        everything = descendants(process)
        (engine,) = [child for child in everything if title(child).startswith("VLLM::Engine")]
        # It started as a copy, not as a Python that imports everything again.
        assert "recipe.run.fork_server" in engine.parent().cmdline()
        engine.suspend()
        assert process.wait(END) == 75, log.read_text(errors="replace")[-8000:]
    _, left = psutil.wait_procs(everything, timeout=10)
    assert [(title(child), child.status()) for child in left] == []
    line = fault(log)
    assert "the engine is stuck: waiting for rollouts in step 2" in line
    assert re.search(r"nothing has moved since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", line)
    assert re.search(r"\d+ prompts are not finished \(rows \d+.* of .*train\.parquet\)", line)
    assert f"VLLM::EngineCore (process {engine.pid}) is stopped" in line
    assert re.search(r"\d+ rollouts wait for the engine", line)
    assert last_step(run_dir / "checkpoints") == 1

    # The same command resumes; then the reward no longer tells rollouts apart.
    log = tmp_path / "resumed.log"
    with started(command, log) as process:
        wait_for(lambda: 3 in steps(), process, log)
        (tmp_path / "constant").touch()
        assert process.wait(END) == 1, log.read_text(errors="replace")[-8000:]
    assert steps() == list(range(1, max(steps()) + 1))
    line = fault(log)
    assert re.search(rf"step {max(steps()) + 1} drew \d+ groups of rollouts, only \d of", line)
    assert f"trainer.v1.thinkvg.max_drawn_batches={BATCHES}" in line
    counts = [values["training/redrawn_groups"] for values in metrics(run_dir).values()]
    assert all(0 <= count <= (BATCHES - 1) * 4 for count in counts)
