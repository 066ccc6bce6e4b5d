"""The judge: asks for verdicts with bounded concurrency, retries, a breaker and a cache."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    wait_exponential_jitter,
)

from reward.judge.breaker import Breaker
from reward.judge.cache import VerdictCache, request_key
from reward.judge.chat import ChatClient, Slot
from reward.judge.faults import BreakerOpen, JudgeFault, TransientFault
from reward.judge.prompt import Case, messages, schema
from reward.judge.settings import JudgeSettings
from reward.judge.verdict import Verdict, read_verdict

WARN_EVERY_S = 30.0

_LOG = logging.getLogger(__name__)

T = TypeVar("T")


class Judge:
    """Judges responses from one event loop. At most `max_concurrency` requests are under way."""

    def __init__(self, settings: JudgeSettings) -> None:
        """Open what is needed; ValueError for a cache folder or key that cannot be used."""
        self._settings = settings
        self._chat = ChatClient(settings)
        self._cache = VerdictCache(settings.cache_dir) if settings.cache_dir else None
        self._breaker = Breaker(settings.breaker_failures, settings.breaker_cooldown_s)
        self._under_way: dict[str, asyncio.Task[Verdict]] = {}
        self._model = settings.model
        self._lookup: asyncio.Task[str] | None = None
        self._warnings = _SparseWarnings(str(settings.base_url))
        self._backoff = wait_exponential_jitter(
            initial=settings.backoff_s, max=settings.backoff_max_s, jitter=settings.backoff_s
        )

    async def ask(self, case: Case) -> Verdict:
        """Return the verdict on a case, from the cache where it is there.

        Raises JudgeFault where there is none to be had.
        """
        try:
            body = json.dumps(self._body(await self._model_name(), case)).encode()
            key = request_key(body)
            # A group of rollouts often says the same thing twice: that is one request.
            if key not in self._under_way:
                self._under_way[key] = asyncio.create_task(self._look_up(key, body, case))
                self._under_way[key].add_done_callback(lambda _: self._under_way.pop(key))
            return await asyncio.shield(self._under_way[key])
        except JudgeFault as fault:
            self._warnings.add(fault)
            raise

    async def aclose(self) -> None:
        """Give up what is under way, and close connections and cache."""
        tasks: list[asyncio.Task[Any]] = list(self._under_way.values())
        tasks += [self._lookup] if self._lookup else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._chat.aclose()
        if self._cache:
            await asyncio.get_running_loop().run_in_executor(None, self._cache.close)

    def _body(self, model: str, case: Case) -> dict[str, Any]:
        settings = self._settings
        body: dict[str, Any] = {
            "model": model,
            "messages": messages(case, settings.alignment),
            "temperature": 0,
            "seed": settings.seed,
            "max_tokens": settings.max_tokens,
            **json.loads(settings.extra_body),
        }
        if settings.structured_output == "json_schema":
            form = {"name": "verdict", "strict": True, "schema": schema(settings.alignment)}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        elif settings.structured_output == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body

    async def _look_up(self, key: str, body: bytes, case: Case) -> Verdict:
        stored = await self._cache.get(key) if self._cache else None
        if stored is not None:
            return stored
        verdict = await self._retried(lambda slot: self._verdict(slot, body, case))
        if self._cache:
            await self._cache.put(key, verdict)
        return verdict

    async def _verdict(self, slot: Slot, body: bytes, case: Case) -> Verdict:
        content = await slot.complete(body)
        return read_verdict(content, case.candidate_first, self._settings.alignment)

    async def _model_name(self) -> str:
        """The model of the settings, or else the one that the server offers."""
        if self._model is None:
            if self._lookup is None:
                self._lookup = asyncio.create_task(self._retried(Slot.only_model))
                self._lookup.add_done_callback(lambda _: setattr(self, "_lookup", None))
            self._model = await asyncio.shield(self._lookup)
        return self._model

    async def _retried(self, request: Callable[[Slot], Awaitable[T]]) -> T:
        """Return what a request gives, attempted until it does or patience is used up.

        The slot is held meanwhile. If it were given up between two attempts, all waiting responses
        would make their first attempt before one has made its last and the breaker can open.
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


class _SparseWarnings:
    """Logs what goes wrong, but at most every `WARN_EVERY_S` seconds."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._unsaid = 0
        self._said_at = -WARN_EVERY_S

    def add(self, fault: JudgeFault) -> None:
        self._unsaid += 1
        now = time.monotonic()
        if now - self._said_at >= WARN_EVERY_S:
            message = "judge at %s: %s; responses scored without it since the last such line: %d"
            _LOG.warning(message, self._address, fault, self._unsaid)
            self._unsaid, self._said_at = 0, now


def _retry_after(state: RetryCallState) -> float:
    fault = state.outcome.exception() if state.outcome else None
    return fault.retry_after if isinstance(fault, TransientFault) else 0.0
