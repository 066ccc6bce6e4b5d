"""Stops an actor on another node of a Ray cluster, and looks for it and ends it from here."""

import json
import os
import signal
import time
from itertools import chain

import psutil
import ray
from ray.cluster_utils import Cluster

from recipe.run import watches
from recipe.run.watches import actors_of_the_run, halted, kill, on_nodes

TIMEOUT = 90.0


@ray.remote(num_cpus=0, resources={"there": 1})
class Elsewhere:
    """An actor that only the other node has room for."""

    def pid(self) -> int:
        """Its process."""
        return os.getpid()


def wait_until_stopped(process: psutil.Process) -> None:
    """Wait for the signal to take effect: on a busy machine that takes its time."""
    deadline = time.monotonic() + TIMEOUT
    while process.status() != psutil.STATUS_STOPPED:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{process} did not stop")
        time.sleep(0.01)


def main() -> None:
    """Print what was found, as JSON."""
    watches.ANSWER_S = TIMEOUT
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    cluster.add_node(num_cpus=2, resources={"there": 1})
    ray.init(address=cluster.address, log_to_driver=False)
    actor = Elsewhere.remote()
    process = psutil.Process(ray.get(actor.pid.remote()))
    pids = actors_of_the_run()
    moving = list(chain(*on_nodes(halted, pids)))
    process.send_signal(signal.SIGSTOP)
    wait_until_stopped(process)
    stopped = list(chain(*on_nodes(halted, pids)))
    on_nodes(kill, pids)
    _, alive = psutil.wait_procs([process], timeout=20)
    here = ray.get_runtime_context().get_node_id()
    found = {"elsewhere": here not in pids, "moving": moving, "stopped": stopped}
    print(json.dumps({**found, "pid": process.pid, "alive": len(alive)}), flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
