"""The line of a training step: what it holds, and that it stays readable."""

import sys
from types import SimpleNamespace

import pytest

from recipe.console import GRPO, HEADER_EVERY, SFT, StepLines, duration, header, row
from reward.settings import COMPONENTS

WIDEST = 120


def grpo(score: float = 0.586) -> dict[str, float]:
    """What verl logs of a step, as far as the line goes, and some more."""
    parts = {f"reward/{name}/mean": 0.1 * place for place, name in enumerate(COMPONENTS, 1)}
    times = {"step": 7.61, "gen": 4.14, "update_actor": 2.2, "old_log_prob": 1.0}
    return {
        **parts,
        **{f"timing_s/{name}": seconds for name, seconds in times.items()},
        "critic/score/mean": score,
        "response_length/mean": 95.4,
        "perf/throughput": 747.9,
    }


class Said(list[str]):
    """Lines that were said, by a clock that is set by hand."""

    now = 0.0

    def lines(self, total: int) -> StepLines:
        return StepLines(total, say=self.append, clock=lambda: self.now)


def test_a_step_has_its_reward_the_parts_length_and_times_under_their_titles() -> None:
    said = Said()
    said.lines(34).log(grpo(), 12)
    titles, line = said
    assert line.split() == [
        *("step", "12/34", "0.586", "0.10", "0.20", "0.30", "0.40", "0.50", "95"),
        *("7.6", "4.1", "2.2"),
    ]
    assert titles.split() == [
        *("reward", "format", "answer", "grounding", "think", "alignment", "tokens"),
        *("seconds", "generate", "update", "left"),
    ]
    for title, value in (("reward", "0.586"), ("think", "0.40"), ("update", "2.2")):
        assert titles.index(title) + len(title) == line.index(value) + len(value)


def test_lines_are_short_and_aligned_to_the_last_of_many_steps() -> None:
    said = Said()
    lines = said.lines(100_000)
    for step in (1, 99, 99_999):
        said.now += 1e5
        lines.log(grpo(), step)
    assert max(map(len, said)) <= WIDEST
    assert len({line.index("0.586") for line in said[1:]}) == 1
    assert len(header(SFT, 100_000)) <= WIDEST


def test_the_time_left_is_that_of_the_steps_since_the_start() -> None:
    said = Said()
    lines = said.lines(34)
    for step in (11, 12, 13):
        lines.log(grpo(), step)
        said.now += 30
    assert said[1].endswith("2.2")  # one step tells no pace
    assert said[3].endswith("  10 min")  # 21 steps of 30 s
    lines.log(grpo(), 34)
    assert said[4].endswith("2.2")


def test_the_titles_come_again() -> None:
    said = Said()
    lines = said.lines(100)
    for step in range(1, HEADER_EVERY + 2):
        lines.log(grpo(), step)
    assert [place for place, line in enumerate(said) if "reward" in line] == [0, HEADER_EVERY + 1]


def test_a_validation_is_a_line_of_its_own() -> None:
    said = Said()
    parts = {f"val-aux/thinkvg/{name}/mean@1": 0.5 for name in COMPONENTS}
    validated = {"val-aux/thinkvg/score/mean@1": 0.61, "timing_s/testing": 3.0, **parts}
    said.lines(34).log({**grpo(), **validated}, 12)
    assert [line.split()[0] for line in said] == ["reward", "step", "val"]
    assert said[2].split() == ["val", "12/34", "0.610", *["0.50"] * len(COMPONENTS), "3.0"]
    first = Said()
    first.lines(34).log({f"val-aux/x/{key}/mean@1": 0.0 for key in ("score", "format")}, 0)
    assert first[1].split() == ["val", "0/34", "0.000", "0.00"]


def test_what_failed_in_a_step_is_said() -> None:
    said = Said()
    faults = {"training/failed_rollouts": 2.0, "judge/failed": 3, "judge/asked": 16}
    said.lines(34).log({**grpo(), **faults, "timing_s/save_checkpoint": 1.23}, 12)
    assert said[2:] == [
        "step 12: 2 rollouts failed",
        "step 12: the judge failed for 3 of 16",
        "step 12: checkpoint saved in 1.2 s",
    ]
    quiet = Said()
    quiet.lines(34).log({**grpo(), "training/failed_rollouts": 0.0, "judge/failed": 0}, 12)
    assert len(quiet) == 2


@pytest.mark.parametrize("begin", [1, 321])
def test_steps_of_sft_are_shown_every_few_seconds_and_at_the_end(begin: int) -> None:
    said = Said()
    lines = said.lines(600)
    for step in range(begin, 601):
        lines.log({"train/loss": 0.93, "train/lr": 2.9e-3, "train/grad_norm": 1.25}, step)
        said.now += 0.25
    shown = [int(line.split()[1].split("/")[0]) for line in said if line.startswith("step")]
    assert shown == [*range(begin, 600, 40), 600]
    second = [line for line in said if line.startswith("step")][1]
    left = {1: "2 min", 321: "60 s"}[begin]
    assert second.split()[2:] == ["0.9300", "2.90e-03", "1.25", "4", *left.split()]
    lines.log({"val/loss": 0.91}, 600)
    assert said[-1].split() == ["val", "600/600", "0.9100"]


def test_a_value_that_a_step_lacks_is_left_empty() -> None:
    complete = row("step", 1, 9, GRPO, grpo())
    lacking = row("step", 1, 9, GRPO, {k: v for k, v in grpo().items() if "alignment" not in k})
    assert len(lacking) == len(complete)
    assert "0.50" not in lacking


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (99, "99 s"),
        (100, "2 min"),
        (3599, "1 h 00 min"),
        (3 * 3600 + 300, "3 h 05 min"),
        (86399, "1 d 0 h"),
        (2 * 86400 + 4 * 3600, "2 d 4 h"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize("offline", [True, False])
def test_the_address_of_an_online_run_is_said_once(
    offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = SimpleNamespace(url="https://wandb.example/runs/1", offline=offline)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=run))
    said = Said()
    lines = said.lines(34)
    for step in (1, 2):
        lines.log(grpo(), step)
    assert said.count(f"W&B: {run.url}") == (not offline)
    assert len(said) == 3 + (not offline)
