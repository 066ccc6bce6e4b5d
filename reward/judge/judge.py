"""The judge: asks for verdicts, with what a patient client has and a cache."""

import asyncio
import json
import logging
import time
from typing import Any

from reward.judge.cache import VerdictCache, request_key
from reward.judge.chat import Slot
from reward.judge.faults import JudgeFault
from reward.judge.patience import PatientClient
from reward.judge.prompt import Case, messages, schema
from reward.judge.settings import JudgeSettings
from reward.judge.verdict import Verdict, read_verdict

WARN_EVERY_S = 30.0

_LOG = logging.getLogger(__name__)


class Judge:
    """Judges responses from one event loop. At most `max_concurrency` requests are under way."""

    def __init__(self, settings: JudgeSettings) -> None:
        """Open what is needed; ValueError for a cache folder or key that cannot be used."""
        self._settings = settings
        self._client = PatientClient(settings)
        self._cache = VerdictCache(settings.cache_dir) if settings.cache_dir else None
        self._under_way: dict[str, asyncio.Task[Verdict]] = {}
        self._warnings = _SparseWarnings(str(settings.base_url))

    async def ask(self, case: Case) -> Verdict:
        """Return the verdict on a case, from the cache where it is there.

        Raises JudgeFault where there is none to be had.
        """
        try:
            body = json.dumps(self._body(await self._client.model_name(), case)).encode()
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
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()
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
        verdict = await self._client.request(lambda slot: self._verdict(slot, body, case))
        if self._cache:
            await self._cache.put(key, verdict)
        return verdict

    async def _verdict(self, slot: Slot, body: bytes, case: Case) -> Verdict:
        reply = await slot.complete(body)
        return read_verdict(reply.text, case.candidate_first, self._settings.alignment)


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
