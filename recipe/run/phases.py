"""What a training run is waiting for now, and how long that may take.

verl 0.9.1 waits without a time limit for Ray calls and for rollouts (`ReplayBuffer.sample` polls
TransferQueue). Here the methods of its trainer become phases with a limit. The program that started
the run reads the current phase and ends the run if there is no progress for too long
(`recipe.run.watches`). The phase is in Ray's key-value store, which needs no further process and no
disk that may hang.
"""

import functools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

NAMESPACE = "thinkvg"
"""Namespace in Ray's key-value store."""

ROLLOUTS = "waiting for rollouts"
METHODS = {
    "_setup": ("starting the workers and the engine", "start"),
    "on_init_end": ("copying the weights to the engine", "weight sync"),
    "prepare_step": ("handing out prompts", "agent loop"),
    "on_sample_end": ("sending the engine to sleep", "engine"),
    "_compute_old_log_prob": ("computing the actor's log-probabilities", "actor"),
    "_compute_ref_log_prob": ("computing the reference's log-probabilities", "reference"),
    "_update_actor": ("updating the actor", "actor"),
    "_save_checkpoint": ("saving a checkpoint", "disk"),
    "on_step_end": ("copying the weights to the engine", "weight sync"),
}
"""For methods of verl's synchronous trainer: what they do, and the part that they wait for."""

SHOWN_ROWS = 8
"""Number of rows that a message names."""


@dataclass(frozen=True)
class Phase:
    """Something that the run waits for."""

    number: int  # grows with each phase and whenever one makes progress
    doing: str  # in words that follow "while"
    part: str  # the part of the run that has to answer
    step: int  # of the training; 0 before the first
    since: str  # local time at which the phase began or last made progress
    limit: float  # seconds that it may take without progress
    rest: str = ""  # what is not done yet, in words


class Phases:
    """The phases of this process's run, with their times.

    A phase may take `factor` times its longest time so far, and at least `least` seconds. `least`
    and `step`, the step of the training, may be changed at any time. `publish` receives each phase
    when it begins or makes progress.
    """

    def __init__(self, least: float, factor: float, publish: Callable[[Phase], None]) -> None:
        self.step = 0
        self.least = least
        self._factor, self._publish = factor, publish
        self._longest: dict[str, float] = {}
        self._now = Phase(0, "the trainer's own work", "trainer", 0, "", least)
        self._begun = time.monotonic()

    def begin(self, doing: str, part: str, rest: str = "") -> None:
        """Begin a phase, or restart the time of the current one because it has made progress."""
        now = time.monotonic()
        seconds = now - self._begun
        self._longest[self._now.doing] = max(seconds, self._longest.get(self._now.doing, 0.0))
        limit = max(self.least, self._factor * self._longest.get(doing, 0.0))
        number, since = self._now.number + 1, time.strftime("%F %T")
        self._now = Phase(number, doing, part, self.step, since, limit, rest)
        self._begun = now
        self._publish(self._now)

    def around(self, method: Callable[..., Any], doing: str, part: str) -> Callable[..., Any]:
        """Return `method` as a phase, after which the phase that called it continues."""

        @functools.wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:
            outer = self._now
            self.begin(doing, part)
            result = method(*args, **kwargs)
            self.begin(outer.doing, outer.part, outer.rest)
            return result

        return timed


def watch_trainer(
    trainer: Any, phases: Phases, rows: Callable[[], Mapping[str, int]], files: Mapping[str, str]
) -> None:
    """Turn a trainer's methods into phases; each finished rollout counts as progress.

    `rows` returns the row in the data file of each prompt that was sent out, by verl's key. `files`
    has the data file of each of TransferQueue's partitions (``train``, ``val``).
    """
    for name, (doing, part) in METHODS.items():
        setattr(trainer, name, phases.around(getattr(trainer, name), doing, part))
    buffer = trainer.replay_buffer
    buffer.sample = phases.around(buffer.sample, ROLLOUTS, "agent loop")
    wait = buffer._wait_for_next_poll
    last_state: tuple[int, list[str]] = (0, [])

    def poll(partition: str, last: float) -> Any:
        nonlocal last_state
        open_keys = buffer.pending_keys[partition] | buffer.running_keys[partition]
        # The number of finished rollouts, and the prompts whose groups are not complete.
        state = (len(buffer.partitions[partition]), sorted(open_keys))
        if state != last_state:
            last_state = state
            phases.begin(ROLLOUTS, "agent loop", _rest(open_keys, rows(), files[partition]))
        return wait(partition, last)

    buffer._wait_for_next_poll = poll


def _rest(keys: set[str], rows: Mapping[str, int], file: str) -> str:
    numbers = sorted(rows[key] for key in keys if key in rows)
    listed = ", ".join(map(str, numbers[:SHOWN_ROWS])) + ", …" * (len(numbers) > SHOWN_ROWS)
    return f"{len(keys)} prompts are not finished (rows {listed or 'unknown'} of {file})"


def publish(phase: Phase) -> None:
    """Store a phase where the program that started this Ray job reads it."""
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(_key(), json.dumps(asdict(phase)), overwrite=True, namespace=NAMESPACE)


def read() -> Phase | None:
    """Return the last phase that this Ray job published; None before the first."""
    import ray
    from ray.experimental.internal_kv import _internal_kv_get

    if not ray.is_initialized():  # the call below would start a Ray cluster
        return None
    text = _internal_kv_get(_key(), namespace=NAMESPACE)
    return None if text is None else Phase(**json.loads(text))


def forget() -> None:
    """Remove this Ray job's phase, which a running cluster would keep."""
    import ray
    from ray.experimental.internal_kv import _internal_kv_del

    if ray.is_initialized():
        _internal_kv_del(_key(), namespace=NAMESPACE)


def _key() -> str:
    import ray

    return f"phase-{ray.get_runtime_context().get_job_id()}"
