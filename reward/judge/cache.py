"""Verdicts on disk, shared by processes and runs.

A key is a hash of the whole request (model, messages, sampling, schema) but not of the address,
which differs from run to run: a name stands for one judge. Only scores are stored, no text.
Faults are not stored. A cache that fails is left out, with one warning.
"""

import asyncio
import hashlib
import logging
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import diskcache

from reward.judge.verdict import Verdict

VERSION = 1
"""Raise it when a stored verdict comes to mean something else."""

_LOG = logging.getLogger(__name__)


def request_key(body: bytes) -> str:
    """Return the key of a request: equal for equal requests only."""
    return hashlib.sha256(b"%d %b" % (VERSION, body)).hexdigest()


class VerdictCache:
    """A folder of verdicts. Its disk access happens in a thread of its own."""

    def __init__(self, folder: str) -> None:
        """Open or make the folder; ValueError where that cannot be done."""
        try:
            self._cache = diskcache.Cache(folder, disk=diskcache.JSONDisk, timeout=10)
        except (OSError, sqlite3.Error) as error:
            raise ValueError(f"judge.cache_dir={folder}: {error}") from None
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="judge-cache")
        self._is_usable = True

    async def get(self, key: str) -> Verdict | None:
        """Return what is stored under a key."""
        return _verdict(await self._run(self._cache.get, key))

    async def put(self, key: str, verdict: Verdict) -> None:
        """Store a verdict."""
        stored = [verdict.candidate, verdict.reference, verdict.supported]
        await self._run(self._cache.set, key, stored)

    def close(self) -> None:
        """Close the folder once what is under way has been written."""
        self._thread.shutdown()
        self._cache.close()

    async def _run(self, function: Any, *arguments: Any) -> Any:
        if not self._is_usable:
            return None
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, function, *arguments)
        except (OSError, ValueError, sqlite3.Error, diskcache.Timeout) as error:
            if self._is_usable:
                self._is_usable = False
                _LOG.warning("judge.cache_dir=%s is left out: %s", self._folder, error)
            return None


def _verdict(stored: Any) -> Verdict | None:
    try:
        candidate, reference, supported = stored
        return Verdict(float(candidate), float(reference), supported)
    except (TypeError, ValueError):
        return None
