"""Stops a training run whose judge fails too often, instead of training on its fallbacks."""

from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import DictConfig

from reward.judge.failures import FailureWatch, JudgeFailing
from reward.judge.settings import JudgeSettings


class JudgeWatch:
    """Counts judged rollouts by step; `judge.max_failed_share` and `judge.failed_window` bound it.

    Without a judge in the configuration it counts nothing and stops nothing.
    """

    def __init__(self, config: DictConfig) -> None:
        kwargs = config.reward.custom_reward_function.get("reward_kwargs") or {}
        self._watch = (
            FailureWatch(JudgeSettings.from_kwargs(kwargs["judge"])) if "judge" in kwargs else None
        )

    def count(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
        """Count the rewards of a step, or of a validation.

        Returns:
            ``judge/asked`` and ``judge/failed``, rollouts that were to be judged and those of them
            that were not, and ``judge/failed_share``; nothing without a judge.
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
        """Raise JudgeFailing, with one line, where the run has to stop."""
        fault = self._watch.fault() if self._watch else None
        if fault:
            raise JudgeFailing(fault)
