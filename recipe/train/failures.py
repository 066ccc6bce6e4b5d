"""What ends a training run early: failed rollouts, a failing judge, too many drawn prompts."""

from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import DictConfig

from reward.judge.settings import FailureWatch, JudgeFailing, JudgeSettings


class RolloutsFailing(Exception):
    """More rollouts failed than the configuration allows; the message is one line."""


def failed_rollouts(
    came: int, asked: int, most: float, step: int, group: int = 1, of: str = "training"
) -> dict[str, float]:
    """Count the rollouts that failed: `came` of the `asked` ones are there.

    `asked` is prompts times group size, of which the share `most` may be missing, or one `group` if
    that is more, since a group with a failed rollout is missing as a whole. With a share of 0, none
    may be missing. `of` is `training` (of a step) or `validation`.

    Raises:
        RolloutsFailing: more rollouts are missing.
    """
    missing = max(0, asked - came)
    if missing > (max(most * asked, group) if most else 0):
        where = "" if of == "training" else f"the {of} at "
        raise RolloutsFailing(
            f"{missing} of {asked} rollouts of {where}step {step} failed, more than "
            f"trainer.v1.thinkvg.max_failed_rollouts={most:g} of them: the agent loop's errors "
            "above say why"
        )
    return {f"{of}/failed_rollouts": float(missing)}


class JudgeWatch:
    """Count of a run's judged rollouts; too many failed ones end the run.

    More than `judge.max_failed_share` of the rollouts of the last `judge.failed_window` steps are
    too many. Without a judge in the configuration nothing is counted.
    """

    def __init__(self, config: DictConfig) -> None:
        kwargs = config.reward.custom_reward_function.get("reward_kwargs") or {}
        self._watch = (
            FailureWatch(JudgeSettings.from_kwargs(kwargs["judge"])) if "judge" in kwargs else None
        )

    def count(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
        """Count the rewards of a step, or of a validation.

        Returns:
            ``judge/asked`` (rollouts to be judged), ``judge/failed`` (those that were not) and
            ``judge/failed_share``; empty without a judge.
        """
        if self._watch is None:
            return {}
        rows = list(rows)
        failed = sum(1 for row in rows if row["judge_failed"])
        asked = failed + sum(1 for row in rows if row["judge_used"])
        self._watch.add(asked, failed)
        share = failed / asked if asked else 0.0
        return {"judge/asked": asked, "judge/failed": failed, "judge/failed_share": share}

    def check(self) -> None:
        """Raise `JudgeFailing`, with a message of one line, if the judge failed too often."""
        fault = self._watch.fault() if self._watch else None
        if fault:
            raise JudgeFailing(fault)


class NoSignal(Exception):
    """A step drew many prompts and too few groups have a signal; the message is one line."""


class Redraws:
    """Count of the prompts that a step draws beyond its first batch."""

    def __init__(self, config: DictConfig) -> None:
        self._batch = int(config.data.train_batch_size)
        self._max_batches = int(config.trainer.v1.thinkvg.max_drawn_batches)
        self.count = 0

    def begin_step(self) -> None:
        self.count = 0

    def add(self, prompts: int, differing: int, step: int) -> None:
        """Count prompts to be drawn; `differing` groups of the step so far differ in their score.

        Raises:
            NoSignal: the step would draw more than ``max_drawn_batches`` batches.
        """
        drawn = self._batch + self.count
        if drawn + prompts > self._max_batches * self._batch:
            raise NoSignal(
                f"step {step} drew {drawn} groups of rollouts, only {differing} of the "
                f"{self._batch} that it needs differ in their score, and more than "
                f"trainer.v1.thinkvg.max_drawn_batches={self._max_batches} batches may not be "
                "drawn: look at training/redrawn_groups and "
                "training/filter_groups/evicted_samples of the steps before in metrics.jsonl, then "
                "change the reward or the data, or train without algorithm.filter_groups"
            )
        self.count += prompts

    def metrics(self) -> dict[str, float]:
        return {"training/redrawn_groups": float(self.count)}
