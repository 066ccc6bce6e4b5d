"""Watches that end a run: when one of its Ray actors has died, and when nothing moves any more.

The trainer says what it waits for and how long that may take (`recipe.run.phases`). The watches run
in the program that started the run, so that they also see a trainer that does nothing. At the limit
they look which processes of the run are stopped, ask the agent loops what their rollouts wait for,
end all processes of the run (a stopped one reacts to SIGKILL only and keeps its GPU) and leave with
the code of `recipe.run.folder`, which has a launcher start the same command again.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self, TypeVar

import psutil

from recipe import cluster, console
from recipe.run import phases
from recipe.run.folder import STOPPED
from recipe.run.phases import ROLLOUTS, Phase

T = TypeVar("T")

ACTOR_POLL_S = 2.0
"""Seconds between two looks at Ray's table of actors."""
PATIENCE_S = 30.0
"""Seconds that a run has to end by itself once one of its actors has died."""
NEWS_S = 3.0
"""Seconds that news of a death may take to Ray's table."""
PHASE_POLL_S = 1.0
"""Seconds between two looks at the phase."""
ANSWER_S = 30.0
"""Seconds that a part has to answer when it is asked what it waits for."""

WITH_OWNER = " with its owner"
INTENDED = ("RAY_KILL", "OUT_OF_SCOPE", "REF_DELETED")
"""Ray's reasons for the end of an actor that the run itself ended."""
AGENT_LOOPS = "agent_loop_worker_"
"""What the names of verl's agent loop actors begin with (`recipe.train.agent_loops`)."""
PARTS = {
    "VLLM::": "engine",
    "ray::WatchedHttpServer": "engine",
    "ray::RewardLoopWorker": "reward",
    "ray::SimpleStorageUnit": "storage",
    "ray::TransferQueueController": "storage",
    "ray::AgentLoopWorker": "agent loop",
    "ray::WorkerDict": "actor",
    "ray::TaskRunner": "trainer",
    "raylet": "Ray",
    "gcs_server": "Ray",
}
"""The part that a process belongs to, by what its name begins with."""
STATES = {
    psutil.STATUS_STOPPED: "is stopped",
    psutil.STATUS_TRACING_STOP: "is stopped by a debugger",
    psutil.STATUS_DISK_SLEEP: "waits for a disk",
}
"""States in which a process reacts to nothing, in words."""


class Watch(ABC):
    """A thread that looks at something while a ``with`` block runs, and reacts once."""

    def __init__(self, name: str, every: float) -> None:
        self._every = every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            if self._look():
                self._react()
                return

    @abstractmethod
    def _look(self) -> bool:
        """Return whether the run has to end."""

    @abstractmethod
    def _react(self) -> None:
        """End the run."""


def leave(fault: str, code: int = 1) -> None:
    """End this process with one line; the main thread waits within Ray.

    Without `ray.shutdown`, which can end the process by itself, with another code. A private
    cluster ends with its driver, and a running one cleans up after it.
    """
    console.error(f"the run failed: {fault}; run the same command to resume")
    console.close()
    os._exit(code)


class ActorWatch(Watch):
    """Watches the actors of this process's Ray job.

    `death` is the first unexpected death of an actor, on one line; empty where there was none.
    """

    def __init__(self) -> None:
        super().__init__("actor-watch", ACTOR_POLL_S)
        self.death = ""

    def cause(self) -> str:
        """Look once more, and return what died; empty without a death."""
        deadline = time.monotonic() + NEWS_S
        # News of an owner may come after those of what it owned.
        while (not self.death or self.death.endswith(WITH_OWNER)) and time.monotonic() < deadline:
            with contextlib.suppress(Exception):  # Ray itself may be gone
                self.death = first_death() or self.death
            time.sleep(0.2)
        return self.death

    def _look(self) -> bool:
        try:
            self.death = first_death()
        except Exception as error:  # Ray itself is gone: it ends this process by itself
            print(f"watch: Ray's table of actors cannot be read: {error}", file=sys.stderr)
        return bool(self.death)

    def _react(self) -> None:
        if not self._over.wait(PATIENCE_S):
            leave(f"{self.death}, and the run waits for it")


def first_death() -> str:
    """Describe the first unexpected death in Ray's table of actors; empty without one."""
    dead = sorted(_actors("DEAD"), key=lambda actor: actor["EndTime"])
    lines = filter(None, map(describe_actor, dead))
    return min(lines, key=lambda line: line.endswith(WITH_OWNER), default="")


def _actors(state: str) -> list[Mapping[str, Any]]:
    """Return this Ray job's actors that are in a state, as Ray's table has them."""
    import ray
    from ray._private.state import actors  # the public list_actors wants a dashboard

    if not ray.is_initialized():
        return []
    job = ray.get_runtime_context().get_job_id()
    return [actor for actor in actors(actor_state_name=state).values() if actor["JobID"] == job]


def describe_actor(actor: Mapping[str, Any]) -> str | None:
    """Say how an actor of Ray's table died; None where it lives or the run itself ended it."""
    if actor["State"] != "DEAD":
        return None
    reason = _reason(actor["DeathCause"])
    if reason in INTENDED:
        return None
    name = actor["ActorClassName"].rpartition(".")[2]
    beside = {"NODE_DIED": " with its node", "OWNER_DIED": WITH_OWNER}.get(reason, "")
    return f"{name} (process {actor['Pid']} on {actor['Address']['IPAddress']}) died{beside}"


def _reason(cause: Any) -> str:
    """Return Ray's name for why an actor ended; of causes other than its process's end, theirs."""
    if not cause.HasField("actor_died_error_context"):
        return str(cause.WhichOneof("context"))
    died = cause.actor_died_error_context
    return str(type(died).Reason.Name(died.reason))


class StuckWatch(Watch):
    """Watches the phases of this process's Ray job.

    The start may take `start` seconds. `before_end` is called before the run's processes are ended,
    and `end` ends this process, given a line and an exit code.
    """

    def __init__(
        self,
        start: float,
        before_end: Callable[[], None],
        every: float = PHASE_POLL_S,
        end: Callable[[str, int], None] = leave,
    ) -> None:
        super().__init__("stuck-watch", every)
        self._before_end, self._end = before_end, end
        since = time.strftime("%F %T")
        self._phase = Phase(-1, "starting Ray and the trainer", "start", 0, since, start)
        self._moved = time.monotonic()
        self._is_stuck = False

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        if self._is_stuck:
            # The run ends because this watch ends it: its line comes first.
            self._thread.join()
        with contextlib.suppress(Exception):  # Ray itself may be gone
            phases.forget()

    def _look(self) -> bool:
        phase = within(ANSWER_S, phases.read, None)
        if phase is not None and phase.number != self._phase.number:
            self._phase, self._moved = phase, time.monotonic()
            return False
        waited = time.monotonic() - self._moved
        self._is_stuck = waited > self._phase.limit and not self._over.is_set()
        return self._is_stuck

    def _react(self) -> None:
        pids: dict[str, list[int]] = within(ANSWER_S, actors_of_the_run, {})
        no_nodes: list[list[Halted]] = []
        on_each_node = within(2 * ANSWER_S, lambda: on_nodes(halted, pids), no_nodes)
        local: list[Halted] = within(ANSWER_S, lambda: halted(_private_ray()), [])
        waiting: Counter[str] = within(2 * ANSWER_S, _waiting_rollouts, Counter())
        line = describe_phase(self._phase, sorted({*local}.union(*on_each_node)), waiting)
        self._before_end()
        within(2 * ANSWER_S, lambda: on_nodes(kill, pids), None)
        # Ray's agents would look for its head for a minute.
        within(ANSWER_S, lambda: kill(_private_ray()), None)
        self._end(line, STOPPED)


class Halted(NamedTuple):
    """A process that does nothing, and that no signal but SIGKILL may reach; stopped ones first."""

    state: str
    name: str
    pid: int


def describe_phase(phase: Phase, halted_processes: list[Halted], waiting_for: Counter[str]) -> str:
    """Say what is stuck, since when, and what is known of it, on one line."""
    details = [
        f"{process.name} (process {process.pid}) {process.state}" for process in halted_processes
    ]
    suspects = [
        part
        for process in halted_processes
        for beginning, part in PARTS.items()
        if process.name.startswith(beginning)
    ]
    if phase.doing == ROLLOUTS and waiting_for:
        details += [
            f"{count} rollouts wait for the {part}" for part, count in waiting_for.most_common()
        ]
        suspects += [waiting_for.most_common(1)[0][0]]
        if suspects[0] == "engine" and suspects[-1] == "reward":
            suspects[0] = "judge"  # that verl serves, in an engine of its own
    part = suspects[0] if suspects else phase.part
    step = f" in step {phase.step}" if phase.step else ""
    return (
        f"the {part} is stuck: {phase.doing}{step}, nothing has moved since "
        f"{phase.since}, for more than {phase.limit:.0f} s (trainer.v1.thinkvg.stuck); "
        + "; ".join(filter(None, [phase.rest, *details]))
    ).rstrip("; ")


def _waiting_rollouts() -> Counter[str]:
    """Count the rollouts that wait for each part, from those agent loops that answer."""
    import ray

    # Asked without a Ray, it would start one.
    names = ray.util.list_named_actors() if ray.is_initialized() else []
    loops = [ray.get_actor(name) for name in names if name.startswith(AGENT_LOOPS)]
    asked = [loop.waiting_rollouts.remote() for loop in loops]
    answered = ray.wait(asked, num_returns=len(asked), timeout=ANSWER_S)[0] if asked else []
    return sum((Counter(ray.get(answer)) for answer in answered), Counter())


def halted(pids: Sequence[int]) -> list[Halted]:
    """Return those of these processes and their descendants that do nothing."""
    processes = set()
    for process in _with_children(pids):
        with contextlib.suppress(psutil.Error):
            if process.status() in STATES:
                name = os.path.basename((process.cmdline() or [process.name()])[0])
                processes.add(Halted(STATES[process.status()], name.split(".")[0], process.pid))
    return sorted(processes)


def kill(pids: Sequence[int]) -> None:
    """End these processes and their descendants with SIGKILL, this process excepted."""
    # A list first: the descendants of a process that is gone are not found.
    for process in list(_with_children(pids)):
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid():
                process.send_signal(signal.SIGKILL)


def _with_children(pids: Sequence[int]) -> Iterator[psutil.Process]:
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            yield from (process, *process.children(recursive=True))


def _private_ray() -> list[int]:
    """Return this process, where a private Ray with processes that are no actors is below it."""
    return [] if cluster.joins_a_cluster() else [os.getpid()]


def actors_of_the_run() -> dict[str, list[int]]:
    """Return the process ids of this Ray job's actors, by the node that they are on."""
    pids: dict[str, list[int]] = defaultdict(list)
    for actor in _actors("ALIVE"):
        pids[actor["Address"]["NodeID"]].append(actor["Pid"])
    return pids


def on_nodes(function: Callable[[Sequence[int]], T], pids: Mapping[str, list[int]]) -> list[T]:
    """Call `function` with the processes of each node on that node, and return what it returns.

    A node that does not answer in time is left out. On this node nothing of Ray is needed.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not pids:
        return []
    here = ray.get_runtime_context().get_node_id()
    # A worker that dies says nothing of its node: Ray asks another one.
    remote: Any = ray.remote(num_cpus=0, max_retries=2)(function)
    asked = [
        remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        ).remote(pids_there)
        for node, pids_there in pids.items()
        if node != here
    ]
    results = [function(pids.get(here, []))]
    answered = ray.wait(asked, num_returns=len(asked), timeout=ANSWER_S)[0] if asked else []
    for answer in answered:
        with contextlib.suppress(Exception):  # the node is gone
            results.append(ray.get(answer))
    return results


def within(seconds: float, function: Callable[[], T], default: T) -> T:
    """Return what `function` returns; `default` where it takes longer or fails."""
    result = [default]

    def call() -> None:
        with contextlib.suppress(Exception):
            result[0] = function()

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    return result[0]
