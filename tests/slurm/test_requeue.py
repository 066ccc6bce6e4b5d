"""A job that runs out of time or loses a node is requeued, resumes, and has every step once."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

DRIVER = f"{sys.executable} {Path(__file__).with_name('driver.py')}"


def starts(job: Any) -> list[int]:
    """The step behind which each start of the driver began."""
    return [int(step) for step in re.findall(r"driver begins behind step (\d+)", job.log)]


def test_the_signal_before_the_time_limit_saves_and_requeues(
    submit: Any, tmp_path: Path, uploaded: Any
) -> None:
    # SLURM sends the signal up to a minute early, so a minute before the end means 0 to 60 s left.
    job = submit(
        *("train.sbatch", f"run_dir={tmp_path / 'run'}", "steps=70"),
        options=("--time=2", "--signal=B:USR1@60"),
        THINKVG_DRIVER=DRIVER,
    )
    # On a slow machine an attempt has time for eight steps.
    job.wait_for_end("COMPLETED", 800)
    assert "signal before the end of this job" in job.log
    saved = [int(step) for step in re.findall(r"checkpoint and ended \(step (\d+)", job.log)]
    assert saved
    assert starts(job) == [0, *saved]
    assert [point["_step"] for point in uploaded(tmp_path / "run")] == list(range(1, 71))


@pytest.mark.parametrize("node", ["node2", "node1"], ids=["worker", "head"])
def test_a_lost_node_requeues(
    submit: Any, slurm: Any, tmp_path: Path, uploaded: Any, node: str
) -> None:
    job = submit(
        *("train.sbatch", f"run_dir={tmp_path / 'run'}", "steps=14"), THINKVG_DRIVER=DRIVER
    )
    job.wait_for_log("driver step 7")
    slurm.order("kill", node)
    try:
        job.wait_for_log("driver begins behind step 5", 180)
        assert node not in job.show()["NodeList"]
        job.wait_for_end("COMPLETED")
    finally:
        slurm.order("start", node)
    # Who notices first tells: the launcher, whose own node lives, or SLURM.
    told = ("node2 does not answer", "DUE TO NODE FAILURE")
    assert any(line in job.log for line in told) or node == "node1"
    assert starts(job) == [0, 5]
    assert [point["_step"] for point in uploaded(tmp_path / "run")] == list(range(1, 15))
