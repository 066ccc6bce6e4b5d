"""What a run waits for, and how long that may take."""

from typing import Any

import pytest
from verl.trainer.ppo.v1 import PPOTrainerSync
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from recipe.run import phases
from recipe.run.phases import METHODS, ROLLOUTS, Phase, Phases, watch_trainer


class Clock:
    """Stands for `time` with seconds that a test sets."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def strftime(self, _: str) -> str:
        return f"{self.now:g} s"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(phases, "time", found)
    return found


def test_a_limit_follows_the_longest_time_seen(clock: Clock) -> None:
    told: list[Phase] = []
    watched = Phases(least=100, factor=10, publish=told.append)
    for taken in (5.0, 40.0, 30.0, 0.0):
        watched.begin("updating", "actor")
        clock.now += taken
        watched.begin("logging", "trainer")
    assert [phase.limit for phase in told if phase.doing == "updating"] == [100, 100, 400, 400]
    assert {phase.limit for phase in told if phase.doing == "logging"} == {100}
    assert [phase.number for phase in told] == list(range(1, 9))


def test_what_moves_has_its_time_anew(clock: Clock) -> None:
    told: list[Phase] = []
    watched = Phases(least=1, factor=2, publish=told.append)
    for rest in ("3 left", "2 left", "1 left"):
        watched.begin("waiting", "engine", rest)
        clock.now += 7
    watched.begin("waiting", "engine")
    assert [phase.since for phase in told] == ["0 s", "7 s", "14 s", "21 s"]
    assert told[-1].limit == 14


def test_a_phase_within_a_phase_leaves_the_outer_one(clock: Clock) -> None:
    told: list[Phase] = []
    watched = Phases(least=1, factor=1, publish=told.append)
    watched.step = 3
    save = watched.around(lambda: "saved", "saving", "disk")
    assert watched.around(save, "syncing", "weight sync")() == "saved"
    assert [phase.doing for phase in told][:3] == ["syncing", "saving", "syncing"]
    assert {phase.step for phase in told} == {3}


def test_verl_s_trainer_has_the_methods() -> None:
    assert [name for name in METHODS if not callable(getattr(PPOTrainerSync, name, None))] == []


def make_buffer() -> ReplayBuffer:
    return ReplayBuffer("sync", {}, None, "drop", {}, poll_interval=0.0)


class Trainer:
    """As much of verl's trainer as is watched."""

    def __init__(self) -> None:
        self.replay_buffer: Any = make_buffer()
        for name in METHODS:
            setattr(self, name, lambda name=name: name)


def test_rollouts_that_are_not_finished_are_named_by_their_rows() -> None:
    told: list[Phase] = []
    trainer = Trainer()
    rows = {"a": 12, "b": 7, "c": 3}
    watch_trainer(trainer, Phases(1, 1, told.append), lambda: rows, {"train": "t.parquet"})
    buffer = trainer.replay_buffer
    buffer.pending_keys["train"], buffer.running_keys["train"] = {"c"}, {"a", "b"}
    for _ in range(2):
        buffer._wait_for_next_poll("train", 0.0)
    buffer.running_keys["train"] = {"a"}
    buffer.partitions["train"] = {"b_0_0": {}}
    buffer._wait_for_next_poll("train", 0.0)
    assert [phase.rest for phase in told] == [
        "3 prompts are not finished (rows 3, 7, 12 of t.parquet)",
        "2 prompts are not finished (rows 3, 12 of t.parquet)",
    ]
    assert {phase.doing for phase in told} == {ROLLOUTS}


def test_a_rollout_that_is_finished_counts_as_a_move() -> None:
    told: list[Phase] = []
    trainer = Trainer()
    watch_trainer(trainer, Phases(1, 1, told.append), dict, {"val": "v.parquet"})
    buffer = trainer.replay_buffer
    for number in range(20):
        buffer.running_keys["val"] = set(map(str, range(20)))
        buffer.partitions["val"] = {f"0_{done}_0": {} for done in range(number)}
        buffer._wait_for_next_poll("val", 0.0)
    assert len(told) == 20
    assert told[-1].rest == "20 prompts are not finished (rows unknown of v.parquet)"


def test_a_method_is_told_as_what_it_does() -> None:
    told: list[Phase] = []
    trainer: Any = Trainer()
    watch_trainer(trainer, Phases(1, 1, told.append), dict, {})
    assert trainer._update_actor() == "_update_actor"
    assert (told[0].doing, told[0].part) == ("updating the actor", "actor")
