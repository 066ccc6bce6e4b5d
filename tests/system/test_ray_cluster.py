"""Runs on a running Ray cluster: submitted to it, refused by it; and a run on this machine."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import RAY_ENVIRONMENT, free_port, ray_head

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **RAY_ENVIRONMENT,
    "PATH": f"{BIN}:{os.environ['PATH']}",
    "THINKVG_PYTHON": sys.executable,
}
CPUS = 2
TRIVIAL = str(Path(__file__).parents[1] / "slurm" / "driver.py")


@pytest.fixture
def dashboard() -> Iterator[str]:
    """Address of the job API of a real Ray head; it ends with the test."""
    port = free_port()
    options = ("--num-cpus=4", "--num-gpus=1", "--include-dashboard=true")
    with ray_head(*options, f"--dashboard-port={port}"):
        yield f"http://127.0.0.1:{port}"


def launch(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "launch" / "ray" / script), *arguments],
        env={**ENVIRONMENT, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
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
assert os.environ["RAY_ADDRESS"] == "local"
sys.exit(75)
"""


def test_a_signal_asks_the_local_run_to_save_and_end(tmp_path: Path) -> None:
    script = tmp_path / "steps.py"
    script.write_text(STEPS)
    done = launch("local.sh", THINKVG_DRIVER=f"{sys.executable} {script}", RAY_ADDRESS="10.0.0.1:1")
    assert done.returncode == 75
    assert "told to end" in done.stdout


@pytest.fixture
def cluster() -> Iterator[str]:
    """Address of a real Ray head node with two CPUs and no GPU; it ends with the test."""
    with ray_head(f"--num-cpus={CPUS}", "--num-gpus=0", "--include-dashboard=false") as address:
        yield address


def test_too_small_a_cluster_is_named_within_the_timeout(training, tmp_path, cluster):
    command = training(tmp_path, "cluster.ray.timeout=3")
    finished = subprocess.run(
        [sys.executable, "-m", *command],
        env={**RAY_ENVIRONMENT, "RAY_ADDRESS": cluster},
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
