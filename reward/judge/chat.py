"""One request to an OpenAI-compatible server: a chat completion, or a fault that says why not."""

import asyncio
import email.utils
import json
import os
import time
from typing import Any

import httpx

from reward.judge.faults import PermanentFault, TransientFault
from reward.judge.settings import JudgeSettings

LARGEST_REPLY = 1 << 20
"""Bytes of a server's reply that are read."""

_RETRIED = frozenset({408, 409, 425, 429})
_HINTS = {
    400: "it may be too long for the model, or judge.structured_output not be supported",
    401: "judge.api_key_env names the variable that holds the key",
    403: "judge.api_key_env names the variable that holds the key",
    404: "judge.base_url (it usually ends in /v1) or judge.model may be wrong",
    422: "judge.structured_output or judge.extra_body may not be supported",
}


class ChatClient:
    """Sends requests from one event loop. Close it with `aclose`."""

    def __init__(self, settings: JudgeSettings) -> None:
        """Connect to nothing yet; `settings` have an address.

        Raises ValueError where the variable of `api_key_env` is not set.
        """
        if settings.base_url is None:
            raise ValueError("judge.base_url is not set")
        self._timeout = settings.timeout_s
        self._http = httpx.AsyncClient(
            base_url=settings.base_url,
            headers=_headers(settings.api_key_env),
            timeout=settings.timeout_s,
            limits=httpx.Limits(
                max_connections=settings.max_concurrency,
                max_keepalive_connections=settings.max_concurrency,
                # Less than the 5 s after which common servers close an idle connection.
                keepalive_expiry=3.0,
            ),
            # A redirect or a proxy of the environment would carry the data somewhere else.
            follow_redirects=False,
            trust_env=False,
        )

    async def complete(self, body: dict[str, Any]) -> str:
        """Send a chat completion request and return the text of its first choice."""
        reply = await self._request("POST", "chat/completions", json.dumps(body).encode())
        try:
            choice = reply["choices"][0]
            content = choice["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise TransientFault("a reply that is no chat completion") from None
        if choice.get("finish_reason") == "length":
            raise TransientFault("a reply cut off at judge.max_tokens")
        if not isinstance(content, str):
            raise TransientFault("a reply without text")
        return content

    async def only_model(self) -> str:
        """Return the name of the one model that the server offers."""
        reply = await self._request("GET", "models")
        try:
            names = [str(model["id"]) for model in reply["data"]]
        except (KeyError, TypeError):
            raise TransientFault("a list of models that is none") from None
        if len(names) != 1:
            raise PermanentFault(f"the server offers {len(names)} models: set judge.model")
        return names[0]

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _request(self, method: str, path: str, content: bytes | None = None) -> Any:
        """Return a reply's JSON. The time limit holds for all of it, however slowly it comes."""
        try:
            async with asyncio.timeout(self._timeout):
                async with self._http.stream(method, path, content=content) as response:
                    _check_status(response)
                    payload = await _read(response)
        except TimeoutError:
            raise TransientFault(f"no whole reply within {self._timeout:g} s") from None
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            raise TransientFault(
                f"no connection or a broken one ({type(error).__name__})"
            ) from None
        try:
            return json.loads(payload)
        except (ValueError, RecursionError):
            raise TransientFault("a reply of the server that is not JSON") from None


def _headers(api_key_env: str | None) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    if api_key_env is not None:
        key = os.environ.get(api_key_env)
        if not key:
            raise ValueError(f"judge.api_key_env: the variable {api_key_env} is not set")
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _check_status(response: httpx.Response) -> None:
    """Raise a fault for a status other than 200; the body may quote the request and is not told."""
    status = response.status_code
    if status == 200:
        return
    if status in _RETRIED or status >= 500:
        raise TransientFault(f"HTTP status {status}", _retry_after(response))
    if 300 <= status < 400:
        raise PermanentFault(
            f"HTTP status {status}: redirects are not followed, see judge.base_url"
        )
    hint = f": {_HINTS[status]}" if status in _HINTS else ""
    raise PermanentFault(f"HTTP status {status}{hint}")


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
