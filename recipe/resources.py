"""What a training run needs of Ray, checked first: with too little, verl waits without a word."""

import json
import os
import time

from omegaconf import DictConfig

from recipe.errors import InputError

# verl 0.9.1 reserves this many CPUs beside each GPU (ResourcePoolManager.max_colocate_count).
CPUS_BESIDE_A_GPU = 3
# TransferQueue's controller keeps one; one more must be free for every actor that is created.
CONTROLLER_AND_SPARE = 2


def needed(config: DictConfig) -> dict[str, int]:
    """Logical resources of a training run, by Ray's names."""
    gpus = config.trainer.nnodes * config.trainer.n_gpus_per_node
    judge = config.reward.reward_model
    if judge.enable and judge.enable_resource_pool:
        gpus += judge.nnodes * judge.n_gpus_per_node
    units = config.transfer_queue.backend.SimpleStorage.num_data_storage_units
    return {"GPU": gpus, "CPU": CPUS_BESIDE_A_GPU * gpus + units + CONTROLLER_AND_SPARE}


def joins_a_cluster() -> bool:
    """Whether the user named a running cluster (``RAY_ADDRESS``)."""
    return os.environ.get("RAY_ADDRESS", "local") not in ("", "local")


def variables_of_the_job() -> dict[str, str]:
    """Environment variables that `ray job submit` gave this program and all its workers."""
    text = os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}"
    runtime = json.loads(text).get("runtime_env") or {}
    return dict(runtime.get("env_vars") or {})


def gpus_are_elsewhere() -> bool:
    """Whether this machine is none of those that compute: the head of a cluster may have no GPU.

    The cluster of a SLURM job is on the job's own nodes.
    """
    return joins_a_cluster() and "SLURM_JOB_ID" not in os.environ


def check_declared(config: DictConfig) -> None:
    """Check the logical resources that a private cluster is to be started with.

    Raises:
        InputError: too few; names the key and the number needed.
    """
    for name, amount in needed(config).items():
        key = {"GPU": "num_gpus", "CPU": "num_cpus"}[name]
        declared = config.ray_kwargs.ray_init[key]
        if declared is not None and declared < amount:
            raise InputError(
                f"cluster.ray.{key}={declared}: this run needs {amount} logical {name}s; with "
                f"fewer it would wait for ever: set cluster.ray.{key}={amount} or more"
            )


def wait_for_cluster(config: DictConfig) -> None:
    """Wait until the running cluster offers what the run needs, ``cluster.ray.timeout`` s at most.

    Raises:
        InputError: it cannot be reached, or offers too little.
    """
    import ray

    address = os.environ["RAY_ADDRESS"]
    try:
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        # `ray start` of Ray 2.60 asks for a token, which a client does not send by default.
        raise InputError(
            f"RAY_ADDRESS={address}: no Ray cluster answers ({error}); where one runs there, "
            "it may ask for a token: set RAY_AUTH_MODE=token, or RAY_AUTH_MODE=disabled on both "
            "sides"
        ) from error
    deadline = time.monotonic() + config.cluster.ray.timeout
    wanted = needed(config)
    while True:
        offered = ray.available_resources()
        missing = {name: n for name, n in wanted.items() if offered.get(name, 0) < n}
        if not missing or time.monotonic() > deadline:
            break
        time.sleep(1)
    ray.shutdown()
    if missing:
        lacks = ", ".join(
            f"{n} {name}s (free: {offered.get(name, 0):g})" for name, n in missing.items()
        )
        raise InputError(
            f"RAY_ADDRESS={address}: the run needs {lacks}, and the cluster did not offer them "
            f"within {config.cluster.ray.timeout} s: add nodes, or lower cluster.nodes or "
            "cluster.gpus_per_node"
        )
