"""Two private Ray clusters on one machine, as two runs start them."""

import subprocess
import sys

CLUSTER = """
import ray
from verl.workers.rollout.base import get_rollout_class
from recipe.verl_fixes.weight_socket import name_of_run
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
print("FOUND", get_rollout_class("vllm").__name__, name_of_run(), flush=True)
input()
"""


def found(run: subprocess.Popen[str]) -> list[str]:
    """What a run printed, between lines of its libraries."""
    assert run.stdout is not None
    return next(line.split() for line in run.stdout if line.startswith("FOUND"))


def test_two_runs_on_a_machine_have_two_sockets() -> None:
    command = [sys.executable, "-c", CLUSTER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    runs = [subprocess.Popen(command, text=True, **pipes) for _ in range(2)]
    try:
        printed = [found(run) for run in runs]
    finally:
        for run in runs:
            run.communicate("\n", timeout=60)
    assert [words[1] for words in printed] == ["AdapterOfRun"] * 2
    names = [words[2] for words in printed]
    assert names[0] != names[1]
    assert {name.partition("-")[0] for name in names} == {"01000000"}  # Ray's ids are the same
