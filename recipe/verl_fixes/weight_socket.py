"""A socket for the weights of each run, also where several runs are on one machine.

verl 0.9.1 sends weights from actor to engine over a socket in /tmp, which it names after Ray's job
id. In a private cluster that is always 01000000, so that two runs on a machine open the same
socket, take it from each other, and wait forever. The port of a cluster's control store is its own.
"""

import os
from typing import Any

import ray
from verl.workers.rollout.vllm_rollout.vllm_rollout import ServerAdapter

VARIABLE = "VERL_RAY_JOB_ID"
"""Variable in which verl tells the engine the name that it puts into the socket's."""


def name_of_run() -> str:
    """Return the job id with the port of the cluster's control store; Ray has to be connected."""
    context = ray.get_runtime_context()
    return f"{context.get_job_id()}-{context.gcs_address.rpartition(':')[2]}"


def name_for_engine() -> None:
    """Tell an engine that this process will start the name of its run."""
    os.environ[VARIABLE] = name_of_run()


class AdapterOfRun(ServerAdapter):
    """verl's sender of weights, with the socket of its run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        job_id = ray.get_runtime_context().get_job_id()
        verls: str = self.zmq_handle  # type: ignore[has-type]
        self.zmq_handle = verls.replace(f"zmq-{job_id}-", f"zmq-{name_of_run()}-")
