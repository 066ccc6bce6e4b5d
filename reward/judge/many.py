"""Scores many responses with a judge, in order and within bounded memory."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reward.judge.failures import FailureWatch, JudgeFailing
from reward.judge.ready import check_ready
from reward.judge.sessions import close_judges
from reward.thinkvg import compute_score_judged

BLOCK = 256
"""Responses that count as one step of `judge.failed_window`."""


@dataclass(frozen=True)
class Item:
    """A response to score, as `compute_score` takes it."""

    response: str
    ground_truth: str | Mapping[str, Any]
    extra_info: Mapping[str, Any] | None = field(default=None)


async def score_many(
    items: Iterable[Item], kwargs: Mapping[str, Any], data_source: str = "thinkvg"
) -> AsyncIterator[dict[str, float]]:
    """Yield the result of each item, in order.

    Items are read as they are needed: at most twice `judge.max_concurrency` ahead of the results.

    Raises:
        ValueError: a setting is wrong, or the item next in order.
        JudgeFailing: too many faults, in a stretch of the items or in all of them.
    """
    settings = check_ready(kwargs["judge"])
    tally = _Tally(FailureWatch(settings))
    waiting: deque[asyncio.Task[dict[str, float]]] = deque()
    try:
        for item in items:
            scoring = compute_score_judged(
                data_source, item.response, item.ground_truth, item.extra_info, **kwargs
            )
            waiting.append(asyncio.create_task(scoring))
            if len(waiting) >= 2 * settings.max_concurrency:
                yield tally.count(await waiting.popleft())
        while waiting:
            yield tally.count(await waiting.popleft())
        tally.end_block(at_end=True)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await close_judges()


class _Tally:
    """Counts results in blocks."""

    def __init__(self, watch: FailureWatch) -> None:
        self._watch = watch
        self._asked = self._failed = 0

    def count(self, scores: dict[str, float]) -> dict[str, float]:
        """Count a result and return it."""
        self._asked += int(scores["judge_used"] + scores["judge_failed"])
        self._failed += int(scores["judge_failed"])
        if self._asked >= BLOCK:
            self.end_block()
        return scores

    def end_block(self, at_end: bool = False) -> None:
        self._watch.add(self._asked, self._failed)
        self._asked = self._failed = 0
        fault = self._watch.fault(at_end)
        if fault:
            raise JudgeFailing(fault)
