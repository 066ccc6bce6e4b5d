"""A task of an array that is asked to end requeues itself and leaves the other tasks alone."""

import re
from pathlib import Path
from typing import Any

# Waits to be asked, and answers as the trainer does.
DRIVER = """#!/usr/bin/env bash
echo "driver of task $SLURM_ARRAY_TASK_ID waits"
while [[ ! -e $THINKVG_STOP_FILE ]]; do sleep 0.2; done
echo "$((${SLURM_RESTART_COUNT:-0} + 1))" >"$THINKVG_STOP_FILE.done"
exit 75
"""


def field(slurm: Any, task: str, name: str) -> str:
    """What SLURM says of one task of an array."""
    found = re.search(rf"\b{name}=(\S+)", slurm.run("scontrol", "show", "job", task))
    assert found is not None
    return found[1]


def test_a_task_requeues_itself_alone(submit: Any, slurm: Any, tmp_path: Path) -> None:
    driver = tmp_path / "driver.sh"
    driver.write_text(DRIVER)
    driver.chmod(0o755)
    options = ("--array=0-1", "--nodes=1")
    job = submit("train.sbatch", options=options, THINKVG_DRIVER=str(driver))
    job.wait_for_log("driver of task 0 waits")
    job.wait_for_log("driver of task 1 waits")
    tasks = [f"{job.number}_{task}" for task in (0, 1)]
    # SLURM gives one task the number of the whole array.
    first, other = sorted(tasks, key=lambda task: field(slurm, task, "JobId") != job.number)
    slurm.run("scancel", "--batch", "--signal=USR1", first)
    job.wait(lambda: field(slurm, first, "Restarts") == "1", f"requeue of {first}")
    assert field(slurm, other, "Restarts") == "0"
    assert field(slurm, other, "JobState") == "RUNNING"
