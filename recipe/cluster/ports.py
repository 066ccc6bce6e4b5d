"""The ports that Ray and torchrun use in one job: explicit, and looked at before anything starts.

Ray 2.60 takes most ports at random unless told, and where one is taken its processes end with a
trace in a log of their own. A job has a block of 1000 ports, which others on the node do not use.
"""

import errno
import socket
from collections.abc import Iterable

from recipe.errors import InputError

BLOCK = 1000
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
TORCHRUN = 9


def ray_ports(base: int, head: bool) -> dict[str, int]:
    """Options of ``ray start`` with their ports, of the block that begins at `base`."""
    offsets = {**ON_EVERY_NODE, **(ON_THE_HEAD if head else {})}
    return {option: base + offset for option, offset in offsets.items()}


def check_free(ports: Iterable[int], node: str) -> None:
    """Check that nothing listens on `ports` of this machine, which is called `node`.

    Raises:
        InputError: one is taken, or may not be used.
    """
    for port in ports:
        with socket.socket() as probe:
            # as Ray's own servers: a port that only waits for late packets may be used
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
