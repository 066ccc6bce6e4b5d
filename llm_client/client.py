"""A client of OpenAI-compatible servers, with bounded concurrency, retries and a circuit breaker.

OpenAI's SDK makes the requests. Its retries are off: their waits cannot be set, and an unusable
reply must count as a failed attempt, too.
"""

import asyncio
import email.utils
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import httpx
import openai
import tenacity
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice

from llm_client.server import (
    BreakerOpen,
    PermanentFault,
    ServerFault,
    ServerSettings,
    TransientFault,
    refused_fields,
)

T = TypeVar("T")
R = TypeVar("R")

_RETRIED_STATUSES = frozenset({408, 409, 425, 429})
_FAULTS_OF_ONE_REQUEST = frozenset({400, 413, 422})
_LENGTH_HINT = "the prompt may be too long for the model, or a field of the request not supported"
_KEY_HINT = "{api_key_env} names the variable that holds the key"
_TEXTS = ("content", "refusal", "reasoning", "reasoning_content")
# What may be wrong, and the settings that a user should check.
_HINTS = {
    **dict.fromkeys(range(300, 400), "redirects are not followed, see {base_url}"),
    400: _LENGTH_HINT,
    401: _KEY_HINT,
    403: _KEY_HINT,
    404: "{base_url} (it usually ends in /v1) or {model} may be wrong",
    422: _LENGTH_HINT,
}


class Breaker:
    """Circuit breaker: after `failures` failed requests in a row it refuses attempts.

    After `cooldown_s` seconds it allows one attempt. An answer at any time ends the refusals.
    """

    def __init__(self, failures: int, cooldown_s: float) -> None:
        self._limit, self._cooldown = failures, cooldown_s
        self._failed = 0
        self._last_fault = ""
        self._refuses_until = 0.0

    def check(self) -> None:
        """Raise BreakerOpen if no attempt may be made now."""
        if self._failed < self._limit:
            return
        if time.monotonic() < self._refuses_until:
            raise BreakerOpen(
                f"left alone after {self._limit} failed requests in a row (last: "
                f"{self._last_fault})"
            )
        self._refuse()

    def answered(self) -> None:
        self._failed = 0

    def failed(self, fault: ServerFault) -> None:
        """Count a request whose last attempt failed."""
        self._failed += 1
        self._last_fault = str(fault)
        self._refuse()

    def _refuse(self) -> None:
        self._refuses_until = time.monotonic() + self._cooldown


class SharedTasks(Generic[T]):
    """Running work by key, so that callers who ask for the same key share one task."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[T]] = {}

    async def result(self, key: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the result of the work for a key; start it unless it is running already."""
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(work())
            self._tasks[key].add_done_callback(lambda _: self._tasks.pop(key))
        # If a caller is cancelled, the others still need the result.
        return await asyncio.shield(self._tasks[key])

    async def cancel(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Connection(openai.AsyncOpenAI):
    """The SDK's client without the headers that it takes from variables such as OPENAI_ORG_ID."""

    @property
    def default_headers(self) -> dict[str, str | openai.Omit]:
        return {"Accept": "application/json", "Content-Type": "application/json"}


class ChatClient:
    """Requests from one event loop, at most `max_concurrency` at a time; close it with `aclose`."""

    def __init__(self, settings: ServerSettings) -> None:
        """Prepare the client; the first request opens the connection.

        Raises:
            ValueError: The address, or the variable of `api_key_env`, is not set.
        """
        if settings.base_url is None:
            raise ValueError(f"{settings.option('base_url')} is not set")
        key = settings.api_key()
        self._settings = settings
        self._headers: dict[str, str | openai.Omit] = {} if key else {"Authorization": openai.omit}
        self._connection = _Connection(
            base_url=settings.base_url,
            api_key=key or "none",  # else the SDK takes OPENAI_API_KEY
            max_retries=0,
            timeout=None,  # httpx would limit each part of a reply; `_attempt` limits all of it
            # A redirect, or a proxy from the environment, would send the data somewhere else.
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False, trust_env=False),
        )
        self._model = settings.model
        self._lookup = SharedTasks[str]()
        self._slots = asyncio.Semaphore(settings.max_concurrency)
        self._breaker = Breaker(settings.breaker_failures, settings.breaker_cooldown_s)
        self._backoff = tenacity.wait_exponential_jitter(
            initial=settings.backoff_s, max=settings.backoff_max_s, jitter=settings.backoff_s
        )

    async def aclose(self) -> None:
        """Cancel running work and close the connections."""
        await self._lookup.cancel()
        await self._connection.close()

    async def model_name(self) -> str:
        """Return the model of the settings, or the only one offered; ServerFault if none is."""
        if self._model is None:
            self._model = await self._lookup.result("model", self._only_model)
        return self._model

    async def _only_model(self) -> str:
        names = await self.models()
        if len(names) != 1:
            raise PermanentFault(
                f"{self._settings.option('model')}: {self._settings.base_url} offers "
                f"{', '.join(names) or 'none'}: name one"
            )
        return names[0]

    async def models(self) -> list[str]:
        """Return the models that the server offers; raise ServerFault if no reply is usable."""
        listing = self._connection.models.list
        return await self._request(lambda: listing(extra_headers=self._headers), _names)

    async def complete(self, body: Mapping[str, Any], read: Callable[[ChatCompletion], T]) -> T:
        """Return what `read` makes of the reply to a request.

        Args:
            body: The request, from `llm_client.server.chat_body`.
            read: Receives a reply with at least one choice. If it raises TransientFault, the
                request is repeated.

        Raises:
            ServerFault: The server gave no usable reply.
        """

        def send() -> Awaitable[ChatCompletion]:
            # Not `chat.completions.create`: it checks the whole body, which takes 0.5 ms.
            return self._connection.post(
                "/chat/completions",
                cast_to=ChatCompletion,
                body=body,
                options={"headers": self._headers},
            )

        return await self._request(send, lambda reply: read(_checked(reply)))

    async def stream(self, body: Mapping[str, Any]) -> AsyncIterator[Choice]:
        """Yield the reply to a request with `stream`, complete up to its latest part each time.

        There is one attempt, and `timeout_s` limits the wait for each part.

        Raises:
            ServerFault: The server gave no usable reply.
        """
        async with self._slots:
            with self._faults():
                async with asyncio.timeout(self._settings.timeout_s):
                    parts = await self._connection.post(
                        "/chat/completions",
                        cast_to=ChatCompletion,
                        body=body,
                        options={"headers": self._headers},
                        stream=True,
                        stream_cls=openai.AsyncStream[ChatCompletionChunk],
                    )
            whole: dict[str, Any] = {}
            async with parts:
                while True:
                    with self._faults():
                        async with asyncio.timeout(self._settings.timeout_s):
                            part = await anext(parts, None)
                    if part is None:
                        break
                    if _add_part(whole, part):
                        yield _whole_choice(whole)
            if not whole:
                raise TransientFault("a reply that is no chat completion")

    async def _request(self, send: Callable[[], Awaitable[R]], read: Callable[[R], T]) -> T:
        """Make attempts until one succeeds or no more are allowed.

        The slot is held between attempts. Otherwise every waiting request would make its first
        attempt before any request has failed for good, so the breaker would open too late.
        """
        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(TransientFault),
            stop=self._is_enough,
            wait=lambda state: max(self._backoff(state), _retry_after(state)),
            reraise=True,
        )
        async with self._slots:
            try:
                result: T = await attempts(self._attempt, send, read)
            except (TransientFault, PermanentFault) as fault:
                # A server that refuses a request for its content, such as its length, does work.
                if isinstance(fault, PermanentFault) and fault.one_request:
                    self._breaker.answered()
                else:
                    self._breaker.failed(fault)
                raise
        return result

    async def _attempt(self, send: Callable[[], Awaitable[R]], read: Callable[[R], T]) -> T:
        self._breaker.check()
        with self._faults():
            async with asyncio.timeout(self._settings.timeout_s):
                reply = await send()
        result = read(reply)
        self._breaker.answered()
        return result

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Raise what goes wrong in a request as a fault."""
        try:
            yield
        except TimeoutError:
            limit = f"{self._settings.timeout_s:g} s"
            raise TransientFault(f"no whole reply within {limit}") from None
        except openai.APIStatusError as error:
            raise _status_fault(error, self._settings) from None
        except openai.APIConnectionError as error:
            cause = type(error.__cause__).__name__
            raise TransientFault(f"no connection or a broken one ({cause})") from None
        except openai.APIError:
            raise TransientFault("an error in place of a part of the reply") from None
        except httpx.HTTPError as error:
            name = type(error).__name__
            raise TransientFault(f"no connection or a broken one ({name})") from None
        except (ValueError, RecursionError):
            raise TransientFault("a reply of the server that is not JSON") from None

    def _is_enough(self, state: tenacity.RetryCallState) -> bool:
        # If the server demands a longer wait than the settings allow, do not retry too early.
        is_too_long = _retry_after(state) > self._settings.backoff_max_s
        return is_too_long or state.attempt_number >= self._settings.attempts


def _retry_after(state: tenacity.RetryCallState) -> float:
    fault = state.outcome.exception() if state.outcome else None
    return fault.retry_after if isinstance(fault, TransientFault) else 0.0


def _names(listing: Any) -> list[str]:
    try:
        return [str(model.id) for model in listing.data]
    except (AttributeError, TypeError):
        raise TransientFault("a list of models that is none") from None


def _checked(reply: ChatCompletion) -> ChatCompletion:
    """Return the reply if it has choices with messages, which the SDK does not check."""
    try:
        parts = [(choice.index, choice.message.content) for choice in reply.choices]
    except (AttributeError, TypeError):
        parts = []
    if not parts:
        raise TransientFault("a reply that is no chat completion")
    return reply


def _add_part(whole: dict[str, Any], part: ChatCompletionChunk) -> bool:
    """Add a part of a streamed reply to its first choice; return whether that changed."""
    try:
        choice = part.choices[0] if part.choices else None
        sent = {} if choice is None else dict(choice.delta)
    except (AttributeError, TypeError):
        raise TransientFault("a reply that is no chat completion") from None
    if choice is None:  # such as the last part with the usage
        return False
    texts = {name: sent[name] for name in _TEXTS if isinstance(sent.get(name), str)}
    for name, text in texts.items():
        whole[name] = whole.get(name, "") + text
    if isinstance(tokens := getattr(choice, "token_ids", None), list):
        whole["token_ids"] = [*whole.get("token_ids", []), *tokens]
    whole["finish_reason"] = choice.finish_reason
    return True


def _whole_choice(whole: Mapping[str, Any]) -> Choice:
    """Return what a reply without `stream` would hold."""
    texts = {name: whole[name] for name in _TEXTS if name in whole}
    message = ChatCompletionMessage.model_construct(role="assistant", **{"content": None, **texts})
    others = {name: value for name, value in whole.items() if name not in _TEXTS}
    return Choice.model_construct(index=0, message=message, **others)


def _status_fault(error: openai.APIStatusError, settings: ServerSettings) -> ServerFault:
    """Turn an HTTP error status into a fault.

    The server's message is not shown, since it may quote the request.
    """
    status = error.status_code
    line = f"HTTP status {status}"
    if status in _RETRIED_STATUSES or status >= 500:
        return TransientFault(line, _seconds(error.response.headers.get("retry-after", "")))
    is_one_request = status in _FAULTS_OF_ONE_REQUEST
    if is_one_request and (refused := refused_fields(error.response.text)):
        return PermanentFault(
            f"{line} about {', '.join(refused)}: leave out what the server does not take: "
            f"{settings.without(refused)}"
        )
    options = {key: settings.option(key) for key in ("api_key_env", "base_url", "model")}
    hint = f": {_HINTS[status].format(**options)}" if status in _HINTS else ""
    return PermanentFault(f"{line}{hint}", one_request=is_one_request)


def _seconds(retry_after: str) -> float:
    """Return the seconds to wait by a Retry-After header, a number or a date; 0 without one."""
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
