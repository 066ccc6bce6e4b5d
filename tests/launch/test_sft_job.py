"""launch/slurm/sft.sbatch on one node, with programs in the place of SLURM's."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {
    # Every node answers. The step of torchrun writes a log, if there is one, and is killed.
    "srun": """
        case "$*" in *torch.distributed.run*) ;; *) exit 0 ;; esac
        [ -z "$STEP_LOG" ] || echo "$STEP_LOG" >"$THINKVG_LOGS/7/attempt-0/sft-n1.log"
        exit 137
    """,
    "scontrol": '[ "$2" != hostnames ] || echo n1',
    "getent": "echo 10.0.0.1 STREAM n1",
}
RANK = "[rank0]: RuntimeError: no\nerror: the run failed"


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ("exitcode  : -9", "exitcode  : -9"),
        (RANK + "\na line" * 20, "[rank0]: RuntimeError: no"),
        ("", ""),
    ],
    ids=["killed by the kernel", "an error of Python", "no log"],
)
def test_a_job_that_fails_says_why_and_has_the_driver_s_code(
    tmp_path: Path, log: str, told: str
) -> None:
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    settings = {"THINKVG_ROOT": str(ROOT), "THINKVG_LOGS": str(tmp_path / "logs")}
    settings |= {"THINKVG_PREFLIGHT": "off", "SLURM_GPUS_PER_NODE": "1", "STEP_LOG": log}
    settings |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"}
    done = subprocess.run(
        ["bash", str(ROOT / "launch" / "slurm" / "sft.sbatch")],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **settings},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 137, done.stderr
    assert told in done.stdout
    assert "error: the driver failed with code 137" in done.stderr.splitlines()[-1]
