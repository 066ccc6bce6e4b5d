"""train.sbatch on a real SLURM, with a driver that takes seconds: ends, job states, logs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

DRIVER = f"{sys.executable} {Path(__file__).with_name('driver.py')}"


@pytest.fixture
def trivial(submit: Any, tmp_path: Path) -> Any:
    """Submit train.sbatch with the trivial driver."""

    def command(*arguments: str, **options: Any) -> Any:
        variables = {"THINKVG_DRIVER": DRIVER, **options}
        return submit("train.sbatch", f"run_dir={tmp_path / 'run'}", *arguments, **variables)

    return command


@contextmanager
def frozen(job: Any, node: str) -> Iterator[None]:
    """The node stands still before Ray starts there."""

    def starters() -> list[psutil.Process]:
        return [
            process
            for process in psutil.process_iter(["name", "cmdline"])
            if {"recipe.cluster", "start"} <= set(process.info["cmdline"] or [])
            and "python" in process.info["name"]
            and job.slurm.same_space(process.pid, node)
        ]

    job.wait(lambda: bool(starters()), f"start on {node}", 30)
    (process,) = starters()
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def test_a_node_that_is_slow_to_come_is_waited_for(trivial: Any, tmp_path: Path) -> None:
    job = trivial("steps=2")
    with frozen(job, "node2"):
        job.wait_for_log("1 of 2 nodes have joined Ray, waiting for node2")
    job.wait_for_end("COMPLETED")
    assert "2 of 2 nodes have joined Ray" in job.log
    assert "driver step 2" in job.log
    logs = tmp_path / "logs" / job.number / "attempt-0"
    assert {path.name for path in logs.glob("ray-*.log")} == {"ray-node1.log", "ray-node2.log"}


def test_a_node_that_does_not_come_in_time_is_named(trivial: Any) -> None:
    job = trivial("steps=2", THINKVG_NODE_TIMEOUT="10")
    with frozen(job, "node2"):
        job.wait_for_log("node2 (10.77.0.12) did not join Ray within 10 s")
    job.wait_for_end("FAILED")
    assert job.show()["ExitCode"] == "2:0"


def test_the_driver_s_exit_code_is_the_job_s(trivial: Any) -> None:
    job = trivial("steps=9", "fail_at=2")
    job.wait_for_end("FAILED")
    assert job.show()["ExitCode"] == "1:0"
    assert "RuntimeError: the trivial driver fails as it was told to" in job.log
    assert "the driver failed with code 1" in job.log


def test_scancel_leaves_no_process(trivial: Any, slurm: Any) -> None:
    job = trivial("steps=500")
    job.wait_for_log("driver step 2")
    assert slurm.processes("node1")
    assert slurm.processes("node2")
    slurm.run("scancel", job.number)
    job.wait_for_silence("node1", "node2")
    job.wait_for_end("CANCELLED", 15)


def test_a_node_on_which_ray_does_not_start_is_named(trivial: Any, slurm: Any) -> None:
    slurm.run("mount", "-o", "remount,ro", "/tmp", on="node2")
    try:
        job = trivial("steps=2")
        job.wait_for_end("FAILED")
    finally:
        slurm.run("mount", "-o", "remount,rw", "/tmp", on="node2")
    assert "the cluster did not start: node2: Ray ended there" in job.log.splitlines()[-1]
    assert "Read-only file system: '/tmp/ray-" in job.log


def test_a_port_that_is_taken_is_named(trivial: Any, slurm: Any) -> None:
    with slurm.popen("node2", sys.executable, "-m", "http.server", "23001") as listener:
        try:
            job = trivial("steps=2", THINKVG_PORT="23000")
            job.wait_for_end("FAILED", alone=False)
        finally:
            # nsenter waits for the program, which is a child of its own.
            for process in psutil.Process(listener.pid).children(recursive=True):
                process.kill()
    last = job.log.splitlines()[-1]
    assert "error: the cluster did not start: node2: port 23001 is taken" in last
    assert "set THINKVG_PORT" in last
    assert job.show()["ExitCode"] == "2:0"


def test_a_rank_of_the_cold_start_that_fails_ends_the_job(submit: Any, tmp_path: Path) -> None:
    job = submit(
        *("sft.sbatch", f"run_dir={tmp_path / 'run'}"),
        options=("--gpus-per-node=1",),
        THINKVG_DRIVER=str(Path(__file__).with_name("rank.py")),
    )
    job.wait_for_end("FAILED")
    assert "RuntimeError: the last rank fails as it was told to" in job.log
    logs = tmp_path / "logs" / job.number / "attempt-0"
    for rank, node in enumerate(("node1", "node2")):
        text = (logs / f"sft-{node}.log").read_text()
        assert f"rank {rank}: 2 processes, cluster.nodes=2" in text
