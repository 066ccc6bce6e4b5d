"""Settings of every test process."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from benchmarks.chromium import find_chromium

# Before verl is imported anywhere: these machines have no accelerator.
os.environ.setdefault("VERL_PLATFORM", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")


class JudgeServer:
    """`tests/fault_server.py` in a process of its own; `url` is its base URL."""

    def __init__(self, port: int) -> None:
        self.root = f"http://127.0.0.1:{port}"
        self.url = f"{self.root}/v1"

    def control(self, **control: Any) -> None:
        """Set what it does from now on, and forget what it saw."""
        self._send(json.dumps(control).encode())

    def seen(self) -> dict[str, Any]:
        """What it saw since."""
        return dict(json.loads(self._send(None)))

    def _send(self, body: bytes | None) -> bytes:
        with urllib.request.urlopen(f"{self.root}/control", body, timeout=30) as reply:
            return bytes(reply.read())


@pytest.fixture(scope="session")
def judge_process() -> Iterator[JudgeServer]:
    """A running judge server."""
    script = Path(__file__).with_name("fault_server.py")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield JudgeServer(int(process.stdout.readline()))
        finally:
            process.kill()


@pytest.fixture
def judge_server(judge_process: JudgeServer) -> JudgeServer:
    """The judge server without faults, and without memory of other tests."""
    judge_process.control()
    return judge_process


@pytest.fixture(scope="session")
def cannot_run() -> Callable[[str], NoReturn]:
    """Skip a test for something that this machine lacks; where nothing may be skipped, fail."""

    def end(reason: str) -> NoReturn:
        if os.environ.get("THINKVG_SKIP_NOTHING"):
            pytest.fail(reason)
        pytest.skip(reason)

    return end


@pytest.fixture(scope="session")
def chromium(cannot_run: Callable[[str], NoReturn]) -> str:
    """The program of a browser."""
    found = find_chromium()
    if found is None:
        cannot_run("no Chromium here: apt-get install --no-install-recommends chromium")
    return found


@pytest.fixture(scope="session")
def is_colour() -> Callable[[np.ndarray, Sequence[int]], np.ndarray]:
    """Which pixels of a picture, (height, width, 3), are of about a colour."""

    def mask(pixels: np.ndarray, colour: Sequence[int]) -> np.ndarray:
        return np.abs(pixels - np.array(colour, dtype=np.int16)).max(axis=-1) < 60

    return mask


@pytest.fixture(scope="session")
def on_edges() -> Callable[[np.ndarray, Sequence[float], int], list[float]]:
    """For each edge of a box the share of its middle part with a marked pixel within `slack`."""

    def shares(mask: np.ndarray, box: Sequence[float], slack: int) -> list[float]:
        x1, y1, x2, y2 = (round(side) for side in box)
        inset_x, inset_y = (x2 - x1) // 5, (y2 - y1) // 5
        xs, ys = slice(x1 + inset_x, x2 - inset_x), slice(y1 + inset_y, y2 - inset_y)
        band = [slice(max(0, at - slack), at + slack + 1) for at in (y1, y2, x1, x2)]
        return [
            *(mask[rows, xs].any(axis=0).mean() for rows in band[:2]),
            *(mask[ys, columns].any(axis=1).mean() for columns in band[2:]),
        ]

    return shares
