"""A circuit breaker: after failures in a row the judge is left alone for a while."""

import time
from collections.abc import Callable

from reward.judge.faults import BreakerOpen


class Breaker:
    """Closed until `failures` responses in a row failed, then open for `cooldown_s` seconds.

    After that, one attempt is let through: its success closes the breaker, its failure opens it
    for another while. A success at any time closes it. For one event loop; not for threads.
    """

    def __init__(
        self, failures: int, cooldown_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = failures
        self._cooldown = cooldown_s
        self._clock = clock
        self._failed = 0
        self._opened_at: float | None = None
        self._probing = False

    def enter(self) -> bool:
        """Begin an attempt; returns whether it is the probe of an open breaker.

        Raises BreakerOpen where no attempt is to be made.
        """
        if self._opened_at is None:
            return False
        if self._probing or self._clock() - self._opened_at < self._cooldown:
            raise BreakerOpen(f"left alone after {self._limit} failed responses in a row")
        self._probing = True
        return True

    def leave(self, is_probe: bool, succeeded: bool) -> None:
        """End an attempt that `enter` let begin, cancelled ones too."""
        if succeeded:
            self._failed, self._opened_at = 0, None
        elif is_probe:
            self._opened_at = self._clock()
        if is_probe:
            self._probing = False

    def response_failed(self) -> None:
        """Count a response whose attempts are used up."""
        self._failed += 1
        if self._failed >= self._limit and self._opened_at is None:
            self._opened_at = self._clock()
