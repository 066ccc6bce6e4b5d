"""The line that names what is stuck, and the end of what does not react."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest

from recipe.run.phases import ROLLOUTS, Phase
from recipe.run.watches import Halted, StuckWatch, describe_phase, halted, kill, within

REST = "2 prompts are not finished (rows 3, 7 of t.parquet)"
WAITS = Phase(9, ROLLOUTS, "agent loop", 4, "2026-01-01 10:00:00", 60, REST)
SAVES = Phase(9, "saving a checkpoint", "disk", 4, "2026-01-01 10:00:00", 60)
ENGINE = Halted("is stopped", "VLLM::EngineCore", 12)


def test_a_stopped_process_is_what_is_stuck() -> None:
    assert describe_phase(WAITS, [ENGINE], Counter(engine=8, reward=1)) == (
        f"the engine is stuck: {ROLLOUTS} in step 4, nothing has moved since 2026-01-01 10:00:00, "
        f"for more than 60 s (trainer.v1.thinkvg.stuck); {REST}; VLLM::EngineCore (process 12) is "
        "stopped; 8 rollouts wait for the engine; 1 rollouts wait for the reward"
    )


@pytest.mark.parametrize(
    ("phase", "stopped", "places", "part"),
    [
        (WAITS, [], {"reward": 3}, "reward"),
        (WAITS, [], {"storage": 3, "engine": 1}, "storage"),
        (WAITS, [ENGINE], {"reward": 3}, "judge"),
        (WAITS, [Halted("is stopped", "ray::RewardLoopWorker", 5)], {"reward": 3}, "reward"),
        (WAITS, [Halted("is stopped", "ray::AgentLoopWorkerByGroup", 5)], {}, "agent loop"),
        (WAITS, [], {}, "agent loop"),
        (SAVES, [], {}, "disk"),
        (SAVES, [], {"engine": 2}, "disk"),
        (SAVES, [Halted("waits for a disk", "ray::WorkerDict", 5)], {}, "actor"),
        (SAVES, [Halted("is stopped", "python", 5)], {}, "disk"),
        (SAVES, [Halted("is stopped", "gcs_server", 5)], {}, "Ray"),
    ],
)
def test_the_part_is_named(
    phase: Phase, stopped: list[Halted], places: dict[str, int], part: str
) -> None:
    line = describe_phase(phase, stopped, Counter(places))
    assert line.startswith(f"the {part} is stuck: {phase.doing}")
    assert "\n" not in line
    assert all(f"{process.name} (process 5) {process.state}" in line for process in stopped[1:])


PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def family() -> Iterator[tuple[psutil.Process, psutil.Process]]:
    """A process and its child."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        yield psutil.Process(parent.pid), child
        for process in (child, parent):
            if psutil.pid_exists(process.pid):
                process.kill()


def test_a_stopped_child_is_found_and_ended(
    family: tuple[psutil.Process, psutil.Process],
) -> None:
    parent, child = family
    assert halted([parent.pid]) == []
    child.suspend()
    while child.status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)
    (found,) = halted([parent.pid])
    assert (found.pid, found.state) == (child.pid, "is stopped")
    kill([parent.pid])
    _, alive = psutil.wait_procs([child], timeout=10)
    assert alive == []


def test_what_hangs_or_fails_is_not_waited_for() -> None:
    begin = time.monotonic()
    assert within(0.2, lambda: time.sleep(60), "late") == "late"
    assert within(5, lambda: 1 // 0, -1) == -1
    assert within(5, lambda: 7, -1) == 7
    assert time.monotonic() - begin < 5


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray is not below this process, whose children are the tests' own."""
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")


@pytest.mark.usefixtures("elsewhere")
def test_a_start_without_end_ends() -> None:
    ends: list[tuple[str, int]] = []
    order: list[str] = []
    with StuckWatch(0.3, lambda: order.append("others"), 0.05, lambda *end: ends.append(end)):
        deadline = time.monotonic() + 30
        while not ends and time.monotonic() < deadline:
            time.sleep(0.05)
    ((line, code),) = ends
    assert (code, order) == (75, ["others"])
    assert line.startswith("the start is stuck: starting Ray and the trainer, nothing")


@pytest.mark.usefixtures("elsewhere")
def test_a_run_that_is_over_is_not_ended() -> None:
    ends: list[tuple[str, int]] = []
    with StuckWatch(0.3, lambda: None, 0.05, lambda *end: ends.append(end)):
        pass
    time.sleep(0.6)
    assert ends == []
