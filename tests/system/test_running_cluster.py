"""A training run that joins a running Ray cluster which offers too little."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

CPUS = 2
ENVIRONMENT = {**os.environ, "RAY_AUTH_MODE": "disabled"}


@pytest.fixture
def cluster() -> Iterator[str]:
    """Address of a real Ray head node with two CPUs and no GPU; it ends with the test."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Ray's sockets need a short path.
    folder = tempfile.mkdtemp(prefix="ray")
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    command += [f"--port={port}", f"--num-cpus={CPUS}", "--num-gpus=0", f"--temp-dir={folder}"]
    command += ["--include-dashboard=false", "--disable-usage-stats"]
    head = subprocess.Popen(
        command,
        env=ENVIRONMENT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert head.stdout is not None
        for line in head.stdout:
            if "Ray runtime started" in line:
                break
        yield f"127.0.0.1:{port}"
    finally:
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(timeout=60)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def test_too_small_a_cluster_is_named_within_the_timeout(training, tmp_path, cluster):
    command = training(tmp_path, "cluster.ray.timeout=3")
    finished = subprocess.run(
        [sys.executable, "-m", *command],
        env={**ENVIRONMENT, "RAY_ADDRESS": cluster},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 2, finished.stderr
    (line,) = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert cluster in line
    assert f"CPUs (free: {CPUS})" in line
    assert "1 GPUs (free: 0)" in line
    assert "within 3 s" in line
