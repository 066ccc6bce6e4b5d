"""Settings of every test process."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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
