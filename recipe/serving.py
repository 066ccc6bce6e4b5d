"""Answers questions with a model behind an OpenAI-compatible server.

Pictures are sent as PNG in the size that the boxes were written for. The server's own processor
must leave that size alone: start it with the model's pixel limits (for vLLM
`--mm-processor-kwargs`), or send them along in `server.extra_body`.
"""

import asyncio
import base64
import io
import os
from collections.abc import Sequence
from typing import Any

import httpx
from omegaconf import DictConfig, OmegaConf
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)

from recipe.errors import InputError
from recipe.generation import Prompt, load_image
from recipe.messages import content_parts
from reward.judge.address import check_address

_RETRIED = frozenset({408, 409, 425, 429})


class Unavailable(Exception):
    """The server did not answer; another attempt may succeed."""


def check_server(server: DictConfig) -> None:
    """Check the settings without asking the server.

    Raises:
        InputError: a wrong address, one that data may not be sent to, or a key that is not set.
    """
    try:
        check_address(server.base_url, server.data_may_leave, list(server.trusted_hosts))
    except ValueError as error:
        raise InputError(str(error).replace("judge.", "server.")) from error
    if server.api_key_env and not os.environ.get(server.api_key_env):
        raise InputError(f"server.api_key_env: the variable {server.api_key_env} is not set")


class ServedModel:
    """A model behind a server; `patch_size` is that of its vision tower, in pixels."""

    def __init__(self, config: DictConfig, patch_size: int) -> None:
        self._server, self._patch = config.server, patch_size
        self._limit, self._seed = config.data.max_response_length, config.seed
        self._url = str(config.server.base_url).rstrip("/")

    def answer(
        self, prompts: Sequence[Prompt], *, temperature: float, samples: int, progress: Any
    ) -> list[list[str]]:
        """`samples` responses to each prompt, in order; `progress` is moved by one for each.

        Raises:
            InputError: the server refuses, or does not answer in `server.attempts` attempts.
        """
        return asyncio.run(self._answer_all(prompts, temperature, samples, progress))

    async def _answer_all(
        self, prompts: Sequence[Prompt], temperature: float, samples: int, progress: Any
    ) -> list[list[str]]:
        slots = asyncio.Semaphore(self._server.max_concurrency)
        headers = {}
        if self._server.api_key_env:
            headers["Authorization"] = f"Bearer {os.environ[self._server.api_key_env]}"
        async with httpx.AsyncClient(
            headers=headers,
            timeout=self._server.timeout_s,
            # A redirect or a proxy of the environment would carry the data somewhere else.
            follow_redirects=False,
            trust_env=False,
        ) as client:
            model = self._server.model or await self._only_model(client)

            async def one(prompt: Prompt) -> list[str]:
                async with slots:
                    body = self._body(prompt, model, temperature, samples)
                    reply = await self._request(client, "POST", "/chat/completions", body)
                progress.update()
                return _texts(reply, samples)

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(prompt)) for prompt in prompts]
            except* InputError as errors:
                raise errors.exceptions[0] from None
            return [task.result() for task in tasks]

    def _body(self, prompt: Prompt, model: str, temperature: float, samples: int) -> dict[str, Any]:
        extra = OmegaConf.to_container(self._server.extra_body, resolve=True)
        return {
            "model": model,
            "messages": _messages(prompt, self._patch),
            "temperature": temperature,
            "n": samples,
            "seed": self._seed,
            "max_tokens": self._limit,
            **(extra if isinstance(extra, dict) else {}),
        }

    async def _only_model(self, client: httpx.AsyncClient) -> str:
        reply = await self._request(client, "GET", "/models")
        names = [str(model["id"]) for model in reply.get("data", [])]
        if len(names) != 1:
            raise InputError(
                f"server.model: {self._url} offers {', '.join(names) or 'none'}: name one"
            )
        return names[0]

    async def _request(
        self, client: httpx.AsyncClient, method: str, path: str, body: Any = None
    ) -> dict[str, Any]:
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(Unavailable),
            stop=stop_after_attempt(self._server.attempts),
            wait=wait_exponential_jitter(initial=0.5, max=20),
            reraise=True,
        )
        try:
            reply: dict[str, Any] = await attempts(self._attempt, client, method, path, body)
        except Unavailable as error:
            raise InputError(f"server.base_url={self._url}: {error}") from error
        return reply

    async def _attempt(
        self, client: httpx.AsyncClient, method: str, path: str, body: Any
    ) -> dict[str, Any]:
        try:
            response = await client.request(method, f"{self._url}{path}", json=body)
        except httpx.HTTPError as error:
            raise Unavailable(f"no connection or a broken one ({type(error).__name__})") from error
        status = response.status_code
        if status in _RETRIED or status >= 500:
            raise Unavailable(f"HTTP status {status}")
        if status != 200:
            # The body may quote the request, and so is not shown.
            raise InputError(f"server.base_url={self._url}{path}: HTTP status {status}")
        try:
            reply: dict[str, Any] = response.json()
        except ValueError as error:
            raise Unavailable("a reply that is not JSON") from error
        return reply


def _messages(prompt: Prompt, patch_size: int) -> list[dict[str, Any]]:
    """The prompt's messages with its picture in place of `<image>`."""
    stream = io.BytesIO()
    load_image(prompt, patch_size).save(stream, format="PNG")
    url = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    picture = {"type": "image_url", "image_url": {"url": url}}
    return [
        {
            "role": message["role"],
            "content": [
                picture if part["type"] == "image" else part
                for part in content_parts(message["content"])
            ],
        }
        for message in prompt.messages
    ]


def _texts(reply: dict[str, Any], samples: int) -> list[str]:
    try:
        choices = sorted(reply["choices"], key=lambda choice: int(choice["index"]))
        texts = [str(choice["message"]["content"] or "") for choice in choices]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("server: a reply that is no chat completion") from error
    if len(texts) != samples:
        raise InputError(f"server: {len(texts)} answers where {samples} were asked for")
    return texts
