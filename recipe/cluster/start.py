"""``python -m recipe.cluster.start``: Ray on this node until it is stopped, on explicit ports.

A node other than the head waits until the head answers, since ``ray start`` gives up early.
"""

import argparse
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from recipe.child import leave_on_sigterm, run_child
from recipe.cluster.ports import BLOCK, FIRST_WORKER, check_free, ray_ports
from recipe.errors import InputError
from recipe.program import fail, name_gpus_once


def wait_for_head(address: str, timeout: float) -> None:
    """Wait until something listens at `address` (HOST:PORT), `timeout` seconds at most.

    Raises:
        InputError: nothing does.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise InputError(
                    f"Ray's head at {address} did not answer within {timeout:g} s ({error}): look "
                    "at the log of the first node"
                ) from error
        time.sleep(0.5)


def ray_command(arguments: argparse.Namespace) -> list[str]:
    """The ``ray start`` of this node."""
    base = int(arguments.address.rpartition(":")[2])
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block"]
    command += [f"--node-ip-address={arguments.ip}", f"--temp-dir={arguments.temp_dir}"]
    command += ["--disable-usage-stats"]
    ports = ray_ports(base, arguments.head)
    command += [f"--{option}={port}" for option, port in ports.items()]
    command += [f"--min-worker-port={base + FIRST_WORKER}"]
    command += [f"--max-worker-port={base + BLOCK - 1}"]
    if arguments.head:
        command += ["--head", f"--include-dashboard={str(arguments.dashboard).lower()}"]
        command += ["--dashboard-host=127.0.0.1"]
    else:
        command += [f"--address={arguments.address}"]
    return command + list(arguments.ray)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m recipe.cluster.start", description=__doc__)
    parser.add_argument("--node", default=socket.gethostname(), help="name of this node, for logs")
    parser.add_argument("--ip", required=True, help="address of this node that others reach")
    parser.add_argument("--address", required=True, help="HOST:PORT of Ray's head")
    parser.add_argument("--head", action="store_true", help="this node is the head")
    parser.add_argument("--dashboard", action="store_true", help="with Ray's dashboard (local)")
    parser.add_argument("--temp-dir", required=True, help="Ray's folder on this node: a short path")
    parser.add_argument("--timeout", type=float, default=600, help="seconds to wait for the head")
    parser.add_argument("ray", nargs="*", help="behind --: further options of `ray start`")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit code of ``ray start``."""
    parsed = parse(arguments)
    leave_on_sigterm()
    name_gpus_once(os.environ)
    try:
        base = int(parsed.address.rpartition(":")[2])
        check_free(ray_ports(base, parsed.head).values(), parsed.node)
        if not parsed.head:
            wait_for_head(parsed.address, parsed.timeout)
    except InputError as error:
        fail(str(error))
    return run_child(ray_command(parsed))


if __name__ == "__main__":
    raise SystemExit(main())
