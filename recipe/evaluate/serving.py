"""Answer questions with a model behind an OpenAI-compatible server that sees the same prompts.

Pictures are sent as PNG in the size that the boxes were written for, and every sampling field with
the value that the local engine uses.

`compare` checks by the tokens that the server counts that it sees the local engine's prompts. A
picture of W x H pixels is (W / side) x (H / side) tokens, where a token's side is that of two
patches. A server with other pixel limits resizes it and counts another number of tokens. The
smallest and the largest picture are compared: if these are not resized, no picture is.
"""

import asyncio
import base64
import io
import json
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from omegaconf import DictConfig
from PIL import Image
from pydantic import Field

from data_prep.program import InputError
from llm_client.server import (
    NEUTRAL_SAMPLING,
    TOKEN_IDS,
    BreakerOpen,
    Count,
    PermanentFault,
    Positive,
    ServerFault,
    ServerSettings,
    chat_body,
    check_packages,
    counted,
)
from recipe import console
from recipe.data.prompts import content_parts, prompt_text, response_prefix
from recipe.evaluate.generation import (
    Keep,
    Prompt,
    image_tokens,
    load_image,
    prompt_length,
)
from recipe.evaluate.replies import ReplyReader
from recipe.program import plain

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

Body = Callable[[], dict[str, Any]]
"""A function that makes the messages and fields of a request."""
Failed = Callable[[int, ServerFault], None]
"""Takes a request, by its position, that has no usable reply; may raise the fault."""


class EvaluatedServer(ServerSettings):
    """`server` of `configs/evaluate.yaml`."""

    timeout_s: Positive = 300.0
    max_concurrency: Count = 32
    response_prefix: str | None = None
    compare: bool = True
    max_failed_share: Annotated[float, Field(ge=0, le=1)] = 0.01

    def without(self, fields: Iterable[str]) -> str:
        """Return the overrides that leave `fields` out of requests, for error messages."""
        return " ".join(f"+server.extra_body.{field}=null" for field in fields)


def check_server(server: DictConfig) -> EvaluatedServer:
    """Check the settings without a request to the server, and return them.

    Raises:
        InputError: a wrong setting, a forbidden address, a missing key or a missing package.
    """
    try:
        settings = EvaluatedServer.parse(plain(server))
        settings.api_key()
        check_packages()
    except ValueError as error:
        raise InputError(str(error)) from error
    return settings


class ServedModel:
    """A model behind a server, which gets the same requests as the local engine."""

    def __init__(self, config: DictConfig, patch_size: int, tokenizer: Any = None) -> None:
        """Check the settings; the first request connects.

        `patch_size` is that of the vision tower, in pixels. A tokenizer decodes the server's tokens
        as in training; without one the server's text is used.
        """
        self.patch_size = patch_size
        self.template = plain(config.data.apply_chat_template_kwargs)
        self._settings, self._seed = check_server(config.server), config.seed
        self._extra: dict[str, Any] = json.loads(self._settings.extra_body)
        limit = self._extra.get("max_tokens") or config.data.max_response_length
        self._fields: dict[str, Any] = {
            "max_tokens": limit,
            "chat_template_kwargs": self.template or None,
            TOKEN_IDS: None if tokenizer is None else True,
        }
        self._reader = ReplyReader(limit, tokenizer, self._settings.response_prefix or "")
        self._differences: list[str] = []

    def note(self, line: str) -> None:
        """Report a difference from the local engine, on the console and in the results."""
        self._differences.append(line)
        self._warn(line)

    def _warn(self, line: str) -> None:
        console.say(f"warning: server.base_url={self._settings.base_url}: {line}")

    def name(self) -> str:
        """Return the model's name at the server, which is asked if the settings have none."""
        if self._settings.model is None:
            self._ask_all([], lambda *_: None, _refuse)
        return str(self._settings.model)

    def description(self) -> dict[str, Any]:
        """Return the model's name, its sampling, and differences from the local engine."""
        sent = chat_body("", [], {}, self._extra)
        sampling = {key: sent.get(key, "the server's own") for key in NEUTRAL_SAMPLING}
        changed = [
            f"{key} is {value}" for key, value in sampling.items() if value != NEUTRAL_SAMPLING[key]
        ]
        return {
            "base_url": self._settings.base_url,
            "model": self._settings.model,
            "sampling": sampling,
            "unlike_the_engine": [*changed, *self._differences, *self._reader.lines()],
        }

    def answer(
        self, prompts: Sequence[Prompt], *, temperature: float, samples: int, keep: Keep
    ) -> None:
        """Generate `samples` responses to each prompt, and `keep` them as they come.

        A prompt without a usable reply is left out and noted.

        Raises:
            InputError: the server refuses all prompts, or gives no usable reply to more than
                `server.max_failed_share` of them.
        """

        def body(prompt: Prompt) -> dict[str, Any]:
            # The server adds the sample's number to the seed, so no seed is used twice.
            seed = self._seed + samples * prompt.index
            fields = {"temperature": temperature, "n": samples, "seed": seed}
            return {"messages": chat_messages(prompt, self.patch_size), **fields}

        def read(number: int, reply: "ChatCompletion") -> None:
            keep(prompts[number], self._reader.responses(reply, samples))

        faults: list[str] = []

        def failed(number: int, fault: ServerFault) -> None:
            faults.append(f"index {prompts[number].index}: {fault}")
            if len(faults) > self._settings.max_failed_share * len(prompts):
                raise fault

        self._ask_all([partial(body, prompt) for prompt in prompts], read, failed)
        if faults:
            self.note(f"{len(faults)} questions have no answer and count as wrong ({faults[0]})")
        for line in self._reader.new_lines():
            self._warn(line)

    async def stream(self, prompt: Prompt, temperature: float) -> AsyncGenerator[str, None]:
        """Yield the whole response so far, as often as the server sends a part of it.

        Raises:
            InputError: the server refuses, or sends nothing for `server.timeout_s` seconds.
        """
        from llm_client.client import ChatClient  # needs the extra `judge`

        client = ChatClient(self._settings)
        try:
            model = await client.model_name()
            messages = await asyncio.to_thread(chat_messages, prompt, self.patch_size)
            fields = {**self._fields, "temperature": temperature, "stream": True}
            async for choice in client.stream(chat_body(model, messages, fields, self._extra)):
                yield self._reader.text(choice)
        except ServerFault as fault:
            raise InputError(f"server.base_url={self._settings.base_url}: {fault}") from None
        finally:
            await client.aclose()

    def prompt_tokens(self, conversations: Sequence[list[dict[str, Any]]]) -> list[int]:
        """Return the number of tokens that the server reports for each prompt, 0 if it does not."""

        def body(messages: list[dict[str, Any]]) -> dict[str, Any]:
            return {"messages": messages, "max_tokens": 1}

        def read(number: int, reply: "ChatCompletion") -> None:
            counts[number] = counted(reply, "prompt_tokens")

        counts = [0] * len(conversations)
        self._ask_all([partial(body, messages) for messages in conversations], read, _refuse)
        return counts

    def _ask_all(
        self, bodies: Sequence[Body], read: Callable[[int, "ChatCompletion"], None], failed: Failed
    ) -> None:
        """Send all requests and `read` each reply; make a body only when it is sent."""
        try:
            asyncio.run(self._gather(bodies, read, failed))
        except ServerFault as fault:
            raise InputError(f"server.base_url={self._settings.base_url}: {fault}") from None

    async def _gather(
        self, bodies: Sequence[Body], read: Callable[[int, "ChatCompletion"], None], failed: Failed
    ) -> None:
        from llm_client.client import ChatClient  # needs the extra `judge`

        client = ChatClient(self._settings)
        slots = asyncio.Semaphore(self._settings.max_concurrency)

        async def ask(number: int, body: Body) -> None:
            async with slots:
                fields = body()
                messages = fields.pop("messages")
                request = chat_body(model, messages, {**self._fields, **fields}, self._extra)
                try:
                    await client.complete(request, partial(read, number))
                except ServerFault as fault:
                    if not _is_of_one_request(fault):
                        raise
                    failed(number, fault)

        try:
            model = await client.model_name()
            self._settings = self._settings.model_copy(update={"model": model})
            await asyncio.gather(*(ask(number, body) for number, body in enumerate(bodies)))
        finally:
            await client.aclose()


def _refuse(_: int, fault: ServerFault) -> None:
    raise fault


def _is_of_one_request(fault: ServerFault) -> bool:
    """Return whether other requests may succeed."""
    if isinstance(fault, PermanentFault):
        return fault.one_request
    return not isinstance(fault, BreakerOpen)


def picture_part(picture: Image.Image) -> dict[str, Any]:
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    url = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def chat_messages(prompt: Prompt, patch_size: int) -> list[dict[str, Any]]:
    """Return the prompt's messages with its picture in place of `<image>`."""
    picture = picture_part(load_image(prompt, patch_size))
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


MARKS = 2
"""Tokens that mark the beginning and the end of a picture."""

_WORDS = {"type": "text", "text": "?"}
_IGNORE = "or compare nothing with server.compare=false"


def served_processor(folder: str | None) -> Any:
    """Return the served model's processor, None if `folder` is not on this machine."""
    if not folder or not (Path(folder) / "tokenizer_config.json").is_file():
        return None
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder)


def connect(config: DictConfig, prompts: Sequence[Prompt], patch_size: int) -> ServedModel:
    """Return the model behind `config.server`, compared with the local engine by `compare`.

    Raises:
        InputError: a wrong setting, no usable reply, or a server that sees other prompts.
    """
    processor = served_processor(config.model.path)
    tokenizer = processor.tokenizer if processor is not None else None
    if processor is not None and not config.server.response_prefix:
        template = plain(config.data.apply_chat_template_kwargs)
        text = prompt_text(prompts[0].messages, processor, **template)
        config.server.response_prefix = response_prefix(text)
    served = ServedModel(config, patch_size, tokenizer)
    if config.server.compare:
        compare(served, prompts, processor)
    else:
        served.note("server.compare=false: pictures and text were not compared")
    return served


def compare(served: ServedModel, prompts: Sequence[Prompt], processor: Any) -> None:
    """Compare the sizes of pictures and, with a processor, the text; note what is not compared.

    Raises:
        InputError: the server sees a picture in another size, or another text.
    """
    if not _compare_pictures(served, prompts):
        served.note("its replies count no prompt tokens: pictures and text were not compared")
    elif processor is None:
        served.note(
            "chat template and system prompt were not compared: give model.path=FOLDER of the "
            "served model"
        )
    else:
        _compare_text(served, prompts[0], processor)


def _compare_pictures(served: ServedModel, prompts: Sequence[Prompt]) -> bool:
    """Compare the smallest and the largest picture; return whether the server counts tokens."""
    by_area = sorted(prompts, key=_area)
    extremes = [by_area[0], by_area[-1]]
    pictures = [load_image(prompt, served.patch_size) for prompt in extremes]
    contents = [[_WORDS], *([picture_part(picture), _WORDS] for picture in pictures)]
    counts = served.prompt_tokens([[{"role": "user", "content": parts}] for parts in contents])
    if not all(counts):
        return False
    for prompt, picture, count in zip(extremes, pictures, counts[1:], strict=True):
        actual, expected = count - counts[0] - MARKS, image_tokens(picture, served.patch_size)
        if actual != expected:
            raise InputError(_other_pixels(prompt, picture, actual, expected))
    return True


def _area(prompt: Prompt) -> int:
    width, height = json.loads(prompt.ground_truth)["image_size"]
    return int(width * height)


def _other_pixels(prompt: Prompt, picture: Image.Image, actual: int, expected: int) -> str:
    row = prompt.images[0]
    limits = {key: row[key] for key in ("min_pixels", "max_pixels") if row.get(key)}
    extra = ",".join(f"{key}:{value}" for key, value in limits.items())
    return (
        f"server: it sees a picture of {picture.width}x{picture.height} pixels as {actual} "
        f"tokens, but the boxes are written for {expected}: give it the data's pixel limits with "
        f"'+server.extra_body.mm_processor_kwargs={{{extra}}}' or vLLM's --mm-processor-kwargs "
        f"'{json.dumps(limits)}', {_IGNORE}"
    )


def _compare_text(served: ServedModel, prompt: Prompt, processor: Any) -> None:
    text = prompt_text(prompt.messages, processor, **served.template)
    picture = load_image(prompt, served.patch_size)
    tokens = prompt_length(processor.tokenizer, text, picture, served.patch_size)
    (counted,) = served.prompt_tokens([chat_messages(prompt, served.patch_size)])
    if counted != tokens:
        raise InputError(
            f"server: a prompt has {counted} tokens there and {tokens} under model.path's chat "
            "template: serve the model with its own template and no system prompt of the "
            f"server's, {_IGNORE}"
        )
