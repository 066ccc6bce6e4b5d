"""``python -m recipe.cluster``: Ray on the nodes of a SLURM job, for ``launch/slurm/train.sbatch``.

``start`` runs Ray on this node until it is stopped, on explicit ports. ``wait`` waits until every
node has joined Ray. A training run checks here first what Ray offers: with too little, verl waits
silently.
"""

import argparse
import errno
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_prep.program import InputError
from recipe.program import name_gpus_once, one_line_at_the_end
from recipe.run import host
from recipe.run.host import leave_on_sigterm, run_child

# verl 0.9.1 reserves this many CPUs beside each GPU (ResourcePoolManager.max_colocate_count).
CPUS_BESIDE_A_GPU = 3
# TransferQueue's controller has one; another must be free for every actor while it is created.
CONTROLLER_AND_SPARE = 2


def needed(config: DictConfig) -> dict[str, int]:
    """Return the logical resources of a training run, by Ray's names."""
    gpus = config.trainer.nnodes * config.trainer.n_gpus_per_node
    judge = config.reward.reward_model
    if judge.enable and judge.enable_resource_pool:
        gpus += judge.nnodes * judge.n_gpus_per_node
    units = config.transfer_queue.backend.SimpleStorage.num_data_storage_units
    return {"GPU": gpus, "CPU": CPUS_BESIDE_A_GPU * gpus + units + CONTROLLER_AND_SPARE}


def joins_a_cluster() -> bool:
    """Return whether ``RAY_ADDRESS`` names a running cluster."""
    return os.environ.get("RAY_ADDRESS", "local") not in ("", "local")


def variables_of_the_job() -> dict[str, str]:
    """Return the variables that ``ray job submit`` sets for this program and all its workers."""
    text = os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}"
    runtime = json.loads(text).get("runtime_env") or {}
    return dict(runtime.get("env_vars") or {})


def gpus_are_elsewhere() -> bool:
    """Return whether the run is on other machines than this one, which may have no GPU.

    The cluster of a SLURM job is on the job's nodes, of which this is one.
    """
    return joins_a_cluster() and "SLURM_JOB_ID" not in os.environ


def check_declared(config: DictConfig) -> None:
    """Refuse too few logical resources of a private cluster; name the key and the number needed."""
    if joins_a_cluster():
        return
    for name, amount in needed(config).items():
        key = {"GPU": "num_gpus", "CPU": "num_cpus"}[name]
        declared = config.ray_kwargs.ray_init[key]
        if declared is not None and declared < amount:
            raise InputError(
                f"cluster.ray.{key}={declared}: this run needs {amount} logical {name}s; with "
                f"fewer it would wait for ever: set cluster.ray.{key}={amount} or more"
            )


def check_cpus(config: DictConfig) -> None:
    """Refuse a machine with too few CPUs for a private cluster that takes Ray's count of them."""
    if joins_a_cluster() or config.ray_kwargs.ray_init.num_cpus is not None:
        return
    from ray._private.utils import get_num_cpus

    amount, count = needed(config)["CPU"], int(get_num_cpus())
    if count < amount:
        raise InputError(
            f"cluster.ray.num_cpus=null: this machine has {count} CPUs, and this run reserves "
            f"{amount} logical ones; with fewer it would wait for ever: set "
            f"cluster.ray.num_cpus={amount}"
        )


def wait_for_cluster(config: DictConfig) -> None:
    """Wait until the running cluster has what the run needs, for ``cluster.ray.timeout`` seconds.

    Raises:
        InputError: the cluster cannot be reached, has too little, or is used by another run.
    """
    import ray

    address = os.environ["RAY_ADDRESS"]
    _connect(address)
    deadline = time.monotonic() + config.cluster.ray.timeout
    needs = needed(config)
    while True:
        offered = ray.available_resources()
        missing = {name: n for name, n in needs.items() if offered.get(name, 0) < n}
        other = other_run()
        if not (missing or other) or time.monotonic() > deadline:
            break
        time.sleep(1)
    ray.shutdown()
    if other:
        raise InputError(f"RAY_ADDRESS={address}: {other}")
    if missing:
        lacks = ", ".join(
            f"{count} {name}s (free: {offered.get(name, 0):g})" for name, count in missing.items()
        )
        raise InputError(
            f"RAY_ADDRESS={address}: the run needs {lacks}, and the cluster did not offer them "
            f"within {config.cluster.ray.timeout} s: add nodes, or lower cluster.nodes or "
            "cluster.gpus_per_node"
        )


def other_run() -> str:
    """Return a line on the other Ray job that uses the cluster's TransferQueue; empty without one.

    A cluster has one queue, under a fixed name: two runs would train on each other's rollouts. The
    queue's controller is not detached: it ends with its job, also if that is killed.
    """
    import ray
    from ray._private.state import jobs

    try:
        controller = ray.get_actor("TransferQueueController", namespace="transfer_queue")
    except ValueError:
        return ""
    job = controller._actor_id.job_id.hex()
    if job == ray.get_runtime_context().get_job_id():
        return ""
    drivers = (
        f" (process {each['DriverPid']} on {each['DriverIPAddress']})"
        for each in jobs()
        if each["JobID"] == job
    )
    return (
        f"another run uses this Ray cluster, its job {job}{next(drivers, '')}, and a cluster can "
        "have one run at a time: wait until that run has ended, or end it, or start a cluster of "
        "your own (RAY_ADDRESS=local)"
    )


def check_queue() -> None:
    """Refuse a queue that is another run's, which has started at the same time.

    Raises:
        InputError: the queue is another run's; it is not harmed.
    """
    if line := other_run():
        from transfer_queue import interface

        # verl closes the queue when a run ends, and would end the controller of the other run.
        interface._TQ_CONTROLLER = None
        raise InputError(line)


def _connect(address: str) -> None:
    import ray

    try:
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        # `ray start` of Ray 2.60 requires a token, which a client does not send by default.
        raise InputError(
            f"RAY_ADDRESS={address}: no Ray cluster answers ({error}); where one runs there, "
            "it may ask for a token: set RAY_AUTH_MODE=token, or RAY_AUTH_MODE=disabled on both "
            "sides"
        ) from error


BLOCK = 1000
"""Number of ports of a job."""
FIRST_WORKER = 50

# offset within the block, by option of `ray start`
ON_EVERY_NODE = {
    "node-manager-port": 1,
    "object-manager-port": 2,
    "runtime-env-agent-port": 3,
    "dashboard-agent-grpc-port": 4,
    "dashboard-agent-listen-port": 5,
    "metrics-export-port": 6,
}
ON_THE_HEAD = {"port": 0, "ray-client-server-port": 7, "dashboard-port": 8}

Nodes = Callable[[], Sequence[Mapping[str, Any]]]
"""A function that returns Ray's table of nodes."""


def start(options: argparse.Namespace) -> int:
    """Run Ray on this node, and return the exit code of ``ray start``.

    Raises:
        InputError: a port is taken, the head does not answer, or the temporary folder's path is
            too long.
    """
    leave_on_sigterm()
    name_gpus_once(os.environ)
    host.adapt()
    options.temp_dir = short_temp_dir(options.temp_dir)
    base = int(options.address.rpartition(":")[2])
    check_ports(ray_ports(base, options.head).values(), options.node)
    if not options.head:  # `ray start` gives up early
        wait_for_head(options.address, options.timeout)
    return run_child(ray_command(options))


def ray_ports(base: int, head: bool) -> dict[str, int]:
    """Return the ports of ``ray start`` by option, in the block that begins at `base`."""
    offsets = {**ON_EVERY_NODE, **(ON_THE_HEAD if head else {})}
    return {option: base + offset for option, offset in offsets.items()}


def check_ports(ports: Iterable[int], node: str) -> None:
    """Refuse ports of this machine, called `node`, that are taken or must not be used."""
    for port in ports:
        with socket.socket() as probe:
            # as Ray's servers do: a port that only waits for late packets may be used
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except (OSError, OverflowError) as error:
                taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
                raise InputError(
                    f"{node}: port {port} is {'taken' if taken else f'not usable ({error})'}: end "
                    f"what listens there (ss -ltnp), or set THINKVG_PORT to the first of {BLOCK} "
                    "free ports"
                ) from error


def wait_for_head(address: str, timeout: float) -> None:
    """Wait until something listens at `address` (HOST:PORT), at most `timeout` seconds."""
    head, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((head, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise InputError(
                    f"Ray's head at {address} did not answer within {timeout:g} s ({error}): look "
                    "at the log of the first node"
                ) from error
        time.sleep(0.5)


def short_temp_dir(folder: str) -> str:
    """Return Ray's folder; if the path is too long, through a link to its parent, for all jobs.

    Raises:
        InputError: the path is too long, and no link can be made.
    """
    if len(os.fsencode(folder)) <= host.LONGEST_PATH:
        return folder
    parent, name = os.path.split(folder)
    return os.path.join(host.short_path("--temp-dir", parent), name)


def ray_command(options: argparse.Namespace) -> list[str]:
    base = int(options.address.rpartition(":")[2])
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block"]
    command += [f"--node-ip-address={options.ip}", f"--temp-dir={options.temp_dir}"]
    command += ["--disable-usage-stats"]
    command += [f"--{option}={port}" for option, port in ray_ports(base, options.head).items()]
    command += [f"--min-worker-port={base + FIRST_WORKER}"]
    command += [f"--max-worker-port={base + BLOCK - 1}"]
    if options.head:
        command += ["--head", "--include-dashboard=false"]
    else:
        command += [f"--address={options.address}"]
    return command + list(options.ray)


def wait(options: argparse.Namespace) -> int:
    """Wait for the nodes of the command line, see `connect` and `wait_for_nodes`."""
    addresses = dict(node.split("=", 1) for node in options.nodes)
    wait_for_nodes(addresses, connect(options.address, options.timeout), options.timeout)
    return 0


def connect(address: str, timeout: float) -> Nodes:
    """Connect to Ray at `address`, and return the function that lists its nodes."""
    wait_for_head(address, timeout)
    import ray

    deadline = time.monotonic() + timeout
    while True:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
            return ray.nodes
        except (ConnectionError, RuntimeError, ValueError) as error:
            # The head's port is open a moment before the head is ready.
            if time.monotonic() > deadline:
                raise InputError(f"Ray at {address} does not answer: {error}") from error
            ray.shutdown()
            time.sleep(1)


def wait_for_nodes(
    addresses: Mapping[str, str], nodes: Nodes, timeout: float, every: float = 1.0
) -> None:
    """Wait until the nodes of `addresses` (by name) are alive in Ray, at most `timeout` seconds."""
    deadline = time.monotonic() + timeout
    last_line = ""
    while True:
        missing = missing_nodes(addresses, nodes())
        waiting = f", waiting for {', '.join(missing)}" if missing else ""
        joined = len(addresses) - len(missing)
        line = f"{joined} of {len(addresses)} nodes have joined Ray{waiting}"
        if line != last_line:
            print(line, flush=True)
            last_line = line
        if not missing:
            return
        if time.monotonic() > deadline:
            names = ", ".join(f"{name} ({addresses[name]})" for name in missing)
            raise InputError(
                f"{names} did not join Ray within {timeout:g} s: look at the log of that node; "
                "set THINKVG_NODE_TIMEOUT where nodes take longer to come"
            )
        time.sleep(every)


def missing_nodes(addresses: Mapping[str, str], nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names in `addresses` that are not among Ray's living nodes."""
    living = {node["NodeManagerAddress"] for node in nodes if node["Alive"]}
    return [name for name, address in addresses.items() if address not in living]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m recipe.cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    programs = parser.add_subparsers(required=True, metavar="{start,wait}")
    starting = programs.add_parser("start", help="run Ray on this node until it is stopped")
    starting.set_defaults(program=start)
    add = starting.add_argument
    add("--node", default=socket.gethostname(), help="name of this node, for logs")
    add("--ip", required=True, help="address of this node that others reach")
    add("--address", required=True, help="HOST:PORT of Ray's head")
    add("--head", action="store_true", help="this node is the head")
    add("--temp-dir", required=True, help="Ray's folder on this node: a short path")
    add("--timeout", type=float, default=600, help="seconds to wait for the head")
    add("ray", nargs="*", help="after --: further options of `ray start`")
    waiting = programs.add_parser("wait", help="wait until every node has joined Ray")
    waiting.set_defaults(program=wait)
    add = waiting.add_argument
    add("--address", required=True, help="HOST:PORT of Ray's head")
    add("--timeout", type=float, default=600, help="seconds to wait at most")
    add("nodes", nargs="+", metavar="NAME=ADDRESS", help="nodes that have to come")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    with one_line_at_the_end():
        return int(options.program(options))


if __name__ == "__main__":
    sys.exit(main())
