"""``python -m recipe.cluster.wait``: ask Ray until every node of the allocation has joined it."""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recipe.cluster.start import wait_for_head
from recipe.errors import InputError
from recipe.program import fail


def missing_nodes(wanted: Mapping[str, str], joined: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of `wanted` (name to address) that are not among Ray's living nodes."""
    living = {node["NodeManagerAddress"] for node in joined if node["Alive"]}
    return [name for name, address in wanted.items() if address not in living]


def wait(
    wanted: Mapping[str, str],
    nodes: Callable[[], Sequence[Mapping[str, Any]]],
    timeout: float,
    every: float = 1.0,
) -> None:
    """Ask `nodes` every `every` seconds until all of `wanted` live, `timeout` seconds at most.

    Raises:
        InputError: names the nodes that did not come.
    """
    began = time.monotonic()
    before: list[str] | None = None
    while True:
        missing = missing_nodes(wanted, nodes())
        if missing != before:
            came = len(wanted) - len(missing)
            rest = f", waiting for {', '.join(missing)}" if missing else ""
            print(f"{came} of {len(wanted)} nodes have joined Ray{rest}", flush=True)
            before = missing
        if not missing:
            return
        if time.monotonic() - began > timeout:
            named = ", ".join(f"{name} ({wanted[name]})" for name in missing)
            raise InputError(
                f"{named} did not join Ray within {timeout:g} s: look at the log of that node; "
                "set THINKVG_NODE_TIMEOUT where nodes take longer to come"
            )
        time.sleep(every)


def connect(address: str, timeout: float) -> Callable[[], Sequence[Mapping[str, Any]]]:
    """Connect to Ray at `address`; returns the question for its nodes.

    Raises:
        InputError: it does not answer.
    """
    wait_for_head(address, timeout)
    import ray

    deadline = time.monotonic() + timeout
    while True:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
            return ray.nodes
        except (ConnectionError, RuntimeError, ValueError) as error:
            # The head's port answers a moment before the head is whole.
            if time.monotonic() > deadline:
                raise InputError(f"Ray at {address} does not answer: {error}") from error
            ray.shutdown()
            time.sleep(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m recipe.cluster.wait", description=__doc__)
    parser.add_argument("--address", required=True, help="HOST:PORT of Ray's head")
    parser.add_argument("--timeout", type=float, default=600, help="seconds to wait at most")
    parser.add_argument("nodes", nargs="+", metavar="NAME=ADDRESS", help="nodes that have to come")
    parsed = parser.parse_args(arguments)
    wanted = dict(node.split("=", 1) for node in parsed.nodes)
    try:
        wait(wanted, connect(parsed.address, parsed.timeout), parsed.timeout)
    except InputError as error:
        fail(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
