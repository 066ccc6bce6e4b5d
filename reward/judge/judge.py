"""The judge: it asks for verdicts, stores them on disk, and decides components of a reward."""

import asyncio
import hashlib
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import diskcache

from llm_client.client import ChatClient, SharedTasks
from llm_client.server import ServerFault, whole_text
from reward.answers import LONGEST_ANSWER
from reward.ground_truth import GroundTruth
from reward.judge.prompt import Case, Verdict, make_case, messages, read_verdict, schema
from reward.judge.settings import JudgeSettings
from reward.response import Response

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

VERSION = 1
"""Increase it when the meaning of a stored verdict changes."""

WARN_EVERY_S = 30.0

_LOG = logging.getLogger(__name__)

T = TypeVar("T")


def request_key(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(f"{VERSION} {json.dumps(body)}".encode()).hexdigest()


class VerdictCache:
    """A folder of verdicts that processes can share. After an error it is no longer used."""

    def __init__(self, folder: str) -> None:
        """Open or make the folder; raise ValueError if that fails."""
        try:
            self._cache = diskcache.Cache(folder, disk=diskcache.JSONDisk, timeout=10)
        except (OSError, sqlite3.Error) as error:
            raise ValueError(f"judge.cache_dir={folder}: {error}") from None
        self._folder = folder
        self._is_usable = True

    async def get(self, key: str) -> Verdict | None:
        stored = await self._run(lambda: self._cache.get(key))
        return Verdict(*stored) if isinstance(stored, list) and len(stored) == 3 else None

    async def put(self, key: str, verdict: Verdict) -> None:
        values = [verdict.candidate, verdict.reference, verdict.supported]
        await self._run(lambda: self._cache.set(key, values))

    def close(self) -> None:
        self._cache.close()

    async def _run(self, access: Callable[[], T]) -> T | None:
        if not self._is_usable:
            return None
        try:
            return await asyncio.to_thread(access)
        except (OSError, ValueError, sqlite3.Error, diskcache.Timeout) as error:
            if self._is_usable:
                self._is_usable = False
                _LOG.warning("judge.cache_dir=%s is left out: %s", self._folder, error)
            return None


class Judge:
    """Judges responses from one event loop. At most `max_concurrency` requests are under way."""

    def __init__(self, settings: JudgeSettings) -> None:
        self._settings = settings
        self._client = ChatClient(settings)
        self._cache = VerdictCache(settings.cache_dir) if settings.cache_dir else None
        self._verdicts = SharedTasks[Verdict]()
        self._warnings = _SparseWarnings(str(settings.base_url))

    async def ask(self, case: Case) -> Verdict:
        """Return the verdict on a case, from the cache if possible; raise ServerFault if none."""
        settings = self._settings
        form = ("verdict", schema(settings.alignment))
        try:
            model = await self._client.model_name()
            body = settings.body(model, messages(case, settings.alignment), form)
            key = request_key(body)
            # The rollouts of a group often have equal answers.
            return await self._verdicts.result(key, lambda: self._look_up(key, body, case))
        except ServerFault as fault:
            self._warnings.add(fault)
            raise

    async def aclose(self) -> None:
        """Cancel requests under way, and close connections and cache."""
        await self._verdicts.cancel()
        await self._client.aclose()
        if self._cache:
            self._cache.close()

    async def _look_up(self, key: str, body: Mapping[str, Any], case: Case) -> Verdict:
        stored = await self._cache.get(key) if self._cache else None
        if stored is not None:
            return stored

        def read(reply: "ChatCompletion") -> Verdict:
            text = whole_text(reply, self._settings.option).text
            return read_verdict(text, case.candidate_first, self._settings.alignment)

        verdict = await self._client.complete(body, read)
        if self._cache:
            await self._cache.put(key, verdict)
        return verdict


class _SparseWarnings:
    """Logs faults, but at most one every `WARN_EVERY_S` seconds."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._count = 0
        self._last = -WARN_EVERY_S

    def add(self, fault: ServerFault) -> None:
        self._count += 1
        if time.monotonic() - self._last >= WARN_EVERY_S:
            message = "judge at %s: %s; responses scored without it since the last such line: %d"
            _LOG.warning(message, self._address, fault, self._count)
            self._count, self._last = 0, time.monotonic()


_JUDGES = WeakKeyDictionary[asyncio.AbstractEventLoop, dict[JudgeSettings, Judge]]()


def judge_for(settings: JudgeSettings) -> Judge:
    """Return the judge of the running event loop; raise ValueError for a bad cache or key."""
    judges = _JUDGES.setdefault(asyncio.get_running_loop(), {})
    if settings not in judges:
        judges[settings] = Judge(settings)
    return judges[settings]


async def close_judges() -> None:
    for judge in _JUDGES.pop(asyncio.get_running_loop(), {}).values():
        await judge.aclose()


async def judged_components(
    response: Response,
    truth: GroundTruth,
    extra_info: Mapping[str, Any] | None,
    alignment: float,
    settings: JudgeSettings,
) -> dict[str, float]:
    """Return the keys of a result that the judge decides; the others stay as they are.

    `answer` is 1 or 0 for the question types that are judged. With `judge.alignment`, `alignment`
    becomes 0 if the judge does not find the answer supported. A response without an answer, or with
    one of more than `LONGEST_ANSWER` characters, is 0 by rule and not sent. If the judge gives no
    verdict, only `judge_failed` changes. A ValueError is about the cache folder or the key.
    """
    answer = response.answer or ""
    decides_answer = truth.question_type in settings.question_types
    decides_alignment = settings.alignment and bool(response.think) and alignment > 0
    if not answer.strip() or len(answer) > LONGEST_ANSWER:
        return {}
    if not decides_answer and not decides_alignment:
        return {}
    case = make_case(response, truth, extra_info, settings.reasoning)
    try:
        verdict = await judge_for(settings).ask(case)
    except ServerFault:
        return {"judge_failed": 1.0}
    decided = {"judge_used": 1.0}
    if decides_answer:
        decided["answer"] = verdict.reward(settings.score_difference)
    if decides_alignment:
        decided["alignment"] = alignment * float(bool(verdict.supported))
    return decided
