"""One request to an OpenAI-compatible server: a chat completion, or a fault that says why not."""

import asyncio
import email.utils
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx

from reward.judge.faults import PermanentFault, TransientFault
from reward.judge.server import ServerSettings

LARGEST_REPLY = 1 << 20
"""Bytes of a server's reply that are read."""

_RETRIED = frozenset({408, 409, 425, 429})
# What may be wrong, with the settings that a user would look at.
_HINTS = {
    400: "it may be too long for the model, or {structured_output} not be supported",
    401: "{api_key_env} names the variable that holds the key",
    403: "{api_key_env} names the variable that holds the key",
    404: "{base_url} (it usually ends in /v1) or {model} may be wrong",
    422: "{structured_output} or {extra_body} may not be supported",
}


class Completion(NamedTuple):
    """A reply's text, and the tokens that the server counted (0 where it did not)."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Paths(NamedTuple):
    """Addresses of a server."""

    chat: httpx.URL
    models: httpx.URL


class ChatClient:
    """Sends requests from one event loop, as many at a time as it has slots.

    A slot is a client with one connection: httpx's own pool looks at every connection for every
    request, which at 64 connections takes longer than the request. Close it with `aclose`.
    """

    def __init__(self, settings: ServerSettings) -> None:
        """Connect to nothing yet; `settings` have an address.

        Raises ValueError where the variable of `api_key_env` is not set.
        """
        if settings.base_url is None:
            raise ValueError(f"{settings.option('base_url')} is not set")
        self._option = settings.option
        self._timeout = settings.timeout_s
        # Whole addresses: httpx takes long to join them for every request.
        base = settings.base_url.rstrip("/")
        self._paths = Paths(httpx.URL(f"{base}/chat/completions"), httpx.URL(f"{base}/models"))
        headers, tls = _headers(settings), httpx.create_ssl_context(trust_env=False)
        self._clients = [
            httpx.AsyncClient(
                headers=headers,
                timeout=settings.timeout_s,
                # Less than the 5 s after which common servers close an idle connection.
                limits=httpx.Limits(max_connections=1, keepalive_expiry=3.0),
                verify=tls,
                # A redirect or a proxy of the environment would carry the data somewhere else.
                follow_redirects=False,
                trust_env=False,
            )
            for _ in range(settings.max_concurrency)
        ]
        self._free = list(self._clients)
        self._slots = asyncio.Semaphore(settings.max_concurrency)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator["Slot"]:
        """Wait for a free slot and hold it."""
        async with self._slots:
            client = self._free.pop()
            try:
                yield Slot(client, self._paths, self._timeout, self._option)
            finally:
                self._free.append(client)

    async def aclose(self) -> None:
        """Close the connections."""
        for client in self._clients:
            await client.aclose()


class Slot:
    """One request at a time."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        paths: Paths,
        timeout_s: float,
        option: Callable[[str], str],
    ) -> None:
        self._http, self._paths, self._timeout, self._option = client, paths, timeout_s, option

    async def complete(self, body: bytes) -> Completion:
        """Send a chat completion request and return its first choice."""
        reply = await self._request("POST", self._paths.chat, body)
        try:
            choice = reply["choices"][0]
            content = choice["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise TransientFault("a reply that is no chat completion") from None
        if choice.get("finish_reason") == "length":
            raise TransientFault(f"a reply cut off at {self._option('max_tokens')}")
        if not isinstance(content, str):
            raise TransientFault("a reply without text")
        usage = reply.get("usage")
        counted = usage if isinstance(usage, dict) else {}
        tokens = (counted.get(key) for key in ("prompt_tokens", "completion_tokens"))
        return Completion(content, *(n if isinstance(n, int) else 0 for n in tokens))

    async def only_model(self) -> str:
        """Return the name of the one model that the server offers."""
        names = await self.models()
        if len(names) != 1:
            raise PermanentFault(
                f"the server offers {len(names)} models: set {self._option('model')}"
            )
        return names[0]

    async def models(self) -> list[str]:
        """Return the names of the models that the server offers."""
        reply = await self._request("GET", self._paths.models)
        try:
            return [str(model["id"]) for model in reply["data"]]
        except (KeyError, TypeError):
            raise TransientFault("a list of models that is none") from None

    async def _request(self, method: str, url: httpx.URL, content: bytes | None = None) -> Any:
        """Return a reply's JSON. The time limit holds for all of it, however slowly it comes."""
        try:
            async with asyncio.timeout(self._timeout):
                async with self._http.stream(method, url, content=content) as response:
                    _check_status(response, self._option)
                    payload = await _read(response)
        except TimeoutError:
            raise TransientFault(f"no whole reply within {self._timeout:g} s") from None
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            name = type(error).__name__
            raise TransientFault(f"no connection or a broken one ({name})") from None
        try:
            return json.loads(payload)
        except (ValueError, RecursionError):
            raise TransientFault("a reply of the server that is not JSON") from None


def _headers(settings: ServerSettings) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    if settings.api_key_env is not None:
        key = os.environ.get(settings.api_key_env)
        if not key:
            option = settings.option("api_key_env")
            raise ValueError(f"{option}: the variable {settings.api_key_env} is not set")
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _check_status(response: httpx.Response, option: Callable[[str], str]) -> None:
    """Raise a fault for a status other than 200; the body may quote the request and is not told."""
    status = response.status_code
    if status == 200:
        return
    if status in _RETRIED or status >= 500:
        raise TransientFault(f"HTTP status {status}", _retry_after(response))
    if 300 <= status < 400:
        raise PermanentFault(
            f"HTTP status {status}: redirects are not followed, see {option('base_url')}",
            status,
        )
    hint = f": {_HINTS[status].format_map(_Options(option))}" if status in _HINTS else ""
    raise PermanentFault(f"HTTP status {status}{hint}", status)


class _Options(dict[str, str]):
    """Fills a hint's fields with the names of settings."""

    def __init__(self, option: Callable[[str], str]) -> None:
        super().__init__()
        self._option = option

    def __missing__(self, key: str) -> str:
        return self._option(key)


def _retry_after(response: httpx.Response) -> float:
    """Seconds of the header Retry-After, which holds seconds or a date; 0 without one."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return 0.0
    return max(moment - time.time(), 0.0)


async def _read(response: httpx.Response) -> bytes:
    payload = bytearray()
    async for chunk in response.aiter_bytes():
        payload += chunk
        if len(payload) > LARGEST_REPLY:
            raise TransientFault(f"a reply of more than {LARGEST_REPLY} bytes")
    return bytes(payload)
