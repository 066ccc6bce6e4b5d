"""launch/ray: a run submitted to a Ray cluster that is running, and one on this machine."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **os.environ,
    "RAY_AUTH_MODE": "disabled",
    "PATH": f"{BIN}:{os.environ['PATH']}",
    "THINKVG_PYTHON": sys.executable,
}
TRIVIAL = str(Path(__file__).parents[1] / "slurm" / "driver.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def dashboard() -> Iterator[str]:
    """Address of the job API of a real Ray head; it ends with the test."""
    port, dashboard = free_port(), free_port()
    folder = tempfile.mkdtemp(prefix="ray")
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={port}"]
    command += ["--num-cpus=4", "--num-gpus=1", f"--temp-dir={folder}", "--disable-usage-stats"]
    command += ["--include-dashboard=true", f"--dashboard-port={dashboard}"]
    head = subprocess.Popen(
        command,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert head.stdout is not None
        for line in head.stdout:
            if "Ray runtime started" in line:
                break
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(timeout=60)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def launch(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "launch" / "ray" / script), *arguments],
        env={**ENVIRONMENT, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=180,
    )


def test_a_submitted_job_runs_on_the_cluster(dashboard: str, tmp_path: Path) -> None:
    done = launch(
        *("submit.sh", dashboard, f"run_dir={tmp_path}", "steps=2", "cluster.nodes=1"),
        THINKVG_DRIVER=f"{sys.executable} {TRIVIAL}",
    )
    assert done.returncode == 0, done.stdout
    assert "driver step 2" in done.stdout
    assert (tmp_path / "wandb_run_id").exists()
    failed = launch(
        *("submit.sh", dashboard, f"run_dir={tmp_path}", "model=tiny", "no.such.key=1"),
        THINKVG_DRIVER=f"{sys.executable} -m recipe.train",
    )
    assert failed.returncode == 1
    assert "error: configuration: " in failed.stdout


@pytest.mark.parametrize("override", ["run_dir=outputs/x", "reward=dense"])
def test_a_folder_that_would_be_deleted_is_refused(override: str) -> None:
    done = launch("submit.sh", "http://127.0.0.1:8265", override)
    assert done.returncode == 2
    assert re.match(r"error: run_dir=.*: add run_dir=/SHARED/DIR", done.stdout)


STEPS = """
import os, signal, sys, time
os.kill(os.getppid(), signal.SIGTERM)
while not os.path.exists(os.environ["THINKVG_STOP_FILE"]):
    time.sleep(0.05)
assert "RAY_ADDRESS" not in os.environ
sys.exit(75)
"""


def test_a_signal_asks_the_local_run_to_save_and_end(tmp_path: Path) -> None:
    script = tmp_path / "steps.py"
    script.write_text(STEPS)
    done = launch("local.sh", THINKVG_DRIVER=f"{sys.executable} {script}", RAY_ADDRESS="10.0.0.1:1")
    assert done.returncode == 75
    assert "told to end" in done.stdout
