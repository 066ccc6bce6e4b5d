"""Two runs on one real Ray cluster, which has one TransferQueue."""

import os
import subprocess
import sys

# A run: it connects, prints what it sees of another run, makes the queue's controller, and waits.
RUN = """
import os, sys
import ray
from recipe import cluster
cluster._connect(os.environ["RAY_ADDRESS"])
print("FOUND", cluster.other_run(), flush=True)
@ray.remote(num_cpus=0)
class Controller:
    pass
names = {"name": "TransferQueueController", "namespace": "transfer_queue"}
controller = Controller.options(**names).remote()
ray.get(controller.__ray_ready__.remote())
print("FOUND", ray.get_runtime_context().get_job_id(), cluster.other_run(), flush=True)
sys.stdin.read()
"""
# The head, and in turn another run's view of the cluster at each line of the input.
HEAD = """
import os, sys
import ray
from transfer_queue import interface
from data_prep.program import InputError
from recipe import cluster
ray.init(address="local", num_cpus=9, num_gpus=1, include_dashboard=False, log_to_driver=False)
os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
print("FOUND", os.environ["RAY_ADDRESS"], flush=True)
for _ in sys.stdin:
    interface._TQ_CONTROLLER = "of the other run"
    try:
        cluster.check_queue()
        print("FOUND nothing", interface._TQ_CONTROLLER, flush=True)
    except InputError as error:
        print("FOUND", interface._TQ_CONTROLLER, error, flush=True)
"""
WAIT = """
from data_prep.program import InputError
from recipe import cluster
from recipe.program import compose_config
config = compose_config("train", ["data.dir=DIR", "cluster=cpu", "cluster.ray.timeout=1"])
try:
    cluster.wait_for_cluster(config)
    print("FOUND nothing")
except InputError as error:
    print("FOUND", error)
"""


def start(program: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "RAY_AUTH_MODE": "disabled", **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def found(run: subprocess.Popen[str]) -> str:
    """What a program printed next, between lines of its libraries."""
    assert run.stdout is not None
    return next(line for line in run.stdout if line.startswith("FOUND"))[6:].strip()


def look(head: subprocess.Popen[str]) -> str:
    assert head.stdin is not None
    head.stdin.write("\n")
    head.stdin.flush()
    return found(head)


def test_a_second_run_is_refused_while_the_first_one_lives() -> None:
    head = start(HEAD)
    try:
        address = found(head)
        assert look(head) == "nothing of the other run"
        first = start(RUN, RAY_ADDRESS=address)
        assert found(first) == ""
        job = found(first)  # its own queue is no other run's
        assert job == "02000000"
        line = f"another run uses this Ray cluster, its job {job} (process {first.pid} on "
        assert look(head).startswith(f"None {line}")  # verl's close() leaves the other's queue
        refused = found(start(WAIT, RAY_ADDRESS=address))
        assert refused.startswith(f"RAY_ADDRESS={address}: {line}")
        assert "RAY_ADDRESS=local" in refused
        first.kill()
        first.wait(timeout=60)
        # the queue ends with its run: the same command may start again
        assert found(start(WAIT, RAY_ADDRESS=address)) == "nothing"
    finally:
        head.communicate(timeout=60)
