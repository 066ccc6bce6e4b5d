"""Asks a server with bounded concurrency, retries and a breaker."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    wait_exponential_jitter,
)

from reward.judge.breaker import Breaker
from reward.judge.chat import ChatClient, Slot
from reward.judge.faults import BreakerOpen, JudgeFault, TransientFault
from reward.judge.server import ServerSettings

T = TypeVar("T")


class PatientClient:
    """Requests from one event loop. At most `max_concurrency` of them are under way."""

    def __init__(self, settings: ServerSettings) -> None:
        """Connect to nothing yet; ValueError for an address or key that is not set."""
        self._settings = settings
        self._chat = ChatClient(settings)
        self._breaker = Breaker(settings.breaker_failures, settings.breaker_cooldown_s)
        self._model = settings.model
        self._lookup: asyncio.Task[str] | None = None
        self._backoff = wait_exponential_jitter(
            initial=settings.backoff_s, max=settings.backoff_max_s, jitter=settings.backoff_s
        )

    async def aclose(self) -> None:
        """Close the connections."""
        if self._lookup:
            self._lookup.cancel()
            await asyncio.gather(self._lookup, return_exceptions=True)
        await self._chat.aclose()

    async def model_name(self) -> str:
        """The model of the settings, or else the one that the server offers."""
        if self._model is None:
            if self._lookup is None:
                self._lookup = asyncio.create_task(self.request(Slot.only_model))
                self._lookup.add_done_callback(lambda _: setattr(self, "_lookup", None))
            self._model = await asyncio.shield(self._lookup)
        return self._model

    async def request(self, request: Callable[[Slot], Awaitable[T]]) -> T:
        """Return what a request gives, attempted until it does or patience is used up.

        The slot is held meanwhile. If it were given up between two attempts, all that waits would
        make its first attempt before one has made its last and the breaker can open.

        Raises:
            JudgeFault: there is none to be had.
        """
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(TransientFault),
            stop=self._is_enough,
            wait=self._wait,
            reraise=True,
        )
        async with self._chat.slot() as slot:
            try:
                result: T = await attempts(self._attempt, slot, request)
            except BreakerOpen:
                raise
            except JudgeFault:
                self._breaker.response_failed()
                raise
        return result

    async def _attempt(self, slot: Slot, request: Callable[[Slot], Awaitable[T]]) -> T:
        is_probe = self._breaker.enter()
        succeeded = False
        try:
            result = await request(slot)
            succeeded = True
        finally:
            self._breaker.leave(is_probe, succeeded)
        return result

    def _is_enough(self, state: RetryCallState) -> bool:
        # A server that asks for more patience than there is is not asked again too early.
        impatient = _retry_after(state) > self._settings.backoff_max_s
        return impatient or state.attempt_number >= self._settings.attempts

    def _wait(self, state: RetryCallState) -> float:
        return max(self._backoff(state), _retry_after(state))


def _retry_after(state: RetryCallState) -> float:
    fault = state.outcome.exception() if state.outcome else None
    return fault.retry_after if isinstance(fault, TransientFault) else 0.0
