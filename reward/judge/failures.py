"""Whether the judge fails too often for a run to go on."""

from collections import deque

from reward.judge.settings import JudgeSettings


class JudgeFailing(Exception):
    """The judge fails more often than `judge.max_failed_share` allows; the message is one line."""


class FailureWatch:
    """Counts what the judge was asked and how often it failed, in steps.

    A step is what is scored together: a training step, a validation, a block of a file. The share
    of failures counts over the last `failed_window` steps in which the judge was asked, once there
    are so many.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self._limit = settings.max_failed_share
        self._steps: deque[tuple[int, int]] = deque(maxlen=settings.failed_window)

    def add(self, asked: int, failed: int) -> None:
        """Count a step; one in which nothing was asked is left out."""
        if asked:
            self._steps.append((asked, failed))

    def fault(self, at_end: bool = False) -> str | None:
        """Return one line that says why to stop, or None.

        `at_end`: nothing more will come, so the steps there are count even if they are few.
        """
        if not self._steps or (len(self._steps) < (self._steps.maxlen or 0) and not at_end):
            return None
        asked = sum(step[0] for step in self._steps)
        failed = sum(step[1] for step in self._steps)
        if failed <= self._limit * asked:
            return None
        return (
            f"the judge failed for {failed} of {asked} responses, more than "
            f"judge.max_failed_share={self._limit:g}: see its warnings above and its server, then "
            "start again"
        )
