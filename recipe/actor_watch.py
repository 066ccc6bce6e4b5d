"""Ends a run one of whose Ray actors has died, where verl would wait for it without end.

verl's synchronous trainer looks for finished rollouts in TransferQueue, and has no limit for that:
where the agent loop or TransferQueue itself is gone, nothing finishes and nothing is said. This
watch reads Ray's own table of actors, from the program that started the run. A death that the run
notices by itself is left to it; the watch then only tells the cause.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

EVERY = 2.0
"""Seconds between two looks at the table."""
PATIENCE = 30.0
"""Seconds that a run has to end by itself once one of its actors has died."""
NEWS = 3.0
"""Seconds that news of a death may take to Ray's table."""
WITH_OWNER = " with its owner"
MEANT = ("RAY_KILL", "OUT_OF_SCOPE", "REF_DELETED")
"""Ray's reasons for the end of an actor that somebody wanted."""


def describe(actor: Mapping[str, Any]) -> str | None:
    """What became of an actor, on one line; None where it lives or was meant to end.

    Args:
        actor: an entry of Ray's table of actors.
    """
    if actor["State"] != "DEAD":
        return None
    reason = _reason(actor["DeathCause"])
    if reason in MEANT:
        return None
    name = actor["ActorClassName"].rpartition(".")[2]
    told = {"NODE_DIED": " with its node", "OWNER_DIED": WITH_OWNER}.get(reason, "")
    return f"{name} (process {actor['Pid']} on {actor['Address']['IPAddress']}) died{told}"


def _reason(cause: Any) -> str:
    """Ray's name for why an actor ended; of other causes than a process's end, their own name."""
    if not cause.HasField("actor_died_error_context"):
        return str(cause.WhichOneof("context"))
    died = cause.actor_died_error_context
    return str(type(died).Reason.Name(died.reason))


class ActorWatch:
    """Watches the actors of this process's Ray job while a ``with`` block runs.

    Attributes:
        found: the first death that nobody wanted, on one line; empty where there was none.
    """

    def __init__(
        self,
        every: float = EVERY,
        patience: float = PATIENCE,
        leave: Callable[[str], None] | None = None,
    ) -> None:
        self.found = ""
        self._every, self._patience = every, patience
        self._leave = leave or _leave
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="actor-watch", daemon=True)

    def __enter__(self) -> "ActorWatch":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del kind, error, trace
        self._over.set()

    def cause(self) -> str:
        """What died, looked up once more; empty without a death."""
        deadline = time.monotonic() + NEWS
        # News of an owner may come behind those of what it owned.
        while (not self.found or self.found.endswith(WITH_OWNER)) and time.monotonic() < deadline:
            with contextlib.suppress(Exception):  # Ray itself may be gone
                self.found = self.look() or self.found
            time.sleep(0.2)
        return self.found

    def look(self) -> str:
        """The first death in Ray's table that nobody wanted, on one line; empty without one."""
        import ray
        from ray._private.state import actors  # the public list_actors wants a dashboard

        if not ray.is_initialized():
            return ""
        job = ray.get_runtime_context().get_job_id()
        dead = actors(actor_state_name="DEAD").values()
        ours = sorted((a for a in dead if a["JobID"] == job), key=lambda a: a["EndTime"])
        told = list(filter(None, map(describe, ours)))
        return min(told, key=lambda line: line.endswith(WITH_OWNER), default="")

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            try:
                self.found = self.look()
            except Exception as error:  # Ray itself is gone: it ends this process by itself
                print(f"watch: Ray's table of actors cannot be read: {error}", file=sys.stderr)
            if self.found:
                break
        if self.found and not self._over.wait(self._patience):
            self._leave(f"{self.found}, and the run waits for it")


def _leave(fault: str) -> None:
    """End this process with one line; the main thread waits within Ray.

    Without `ray.shutdown`, which can end the process by itself, with another code. A private
    cluster ends with its driver, and a running one clears up behind it.
    """
    print(f"error: the run failed: {fault}; the same command goes on", file=sys.stderr, flush=True)
    os._exit(1)
