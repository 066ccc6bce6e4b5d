"""Requests to an OpenAI-compatible server, its replies, and the faults of both."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion
    from openai.types.chat.chat_completion import Choice


class ServerFault(Exception):
    """The server gave no usable reply. The message is one line and holds no text of the request."""


class TransientFault(ServerFault):
    """A fault that another attempt may overcome, `retry_after` seconds later at the earliest."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentFault(ServerFault):
    """A fault of this request if `one_request`, otherwise of all requests; a retry would fail."""

    def __init__(self, message: str, one_request: bool = False) -> None:
        super().__init__(message)
        self.one_request = one_request


class BreakerOpen(ServerFault):
    """The server failed so often that no request is sent to it for a while."""


NEUTRAL_SAMPLING: Mapping[str, float] = {
    "top_p": 1.0,
    # -1 turns it off in every vLLM and in SGLang, 0 only in newer vLLM.
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Sampling from the model's unchanged probabilities, as in verl's rollout.

A server takes every field that a request leaves out from the model's `generation_config.json`: for
Qwen2.5-VL top_k 1, top_p 0.001 and a repetition penalty of 1.05.
"""

TOKEN_IDS = "return_token_ids"
"""The field that asks vLLM for the token ids of a reply, too."""


def chat_body(
    model: str,
    messages: Sequence[Mapping[str, Any]],
    fields: Mapping[str, Any],
    extra_body: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the body of a chat completion request.

    Sampling is neutral unless `fields` (of the program) or `extra_body` (of the user) change it. A
    field that they set to null is not sent: hosted servers refuse unknown fields.
    """
    body = {"model": model, "messages": messages, "temperature": 0, **NEUTRAL_SAMPLING}
    body |= {**fields, **extra_body}
    return {key: value for key, value in body.items() if value is not None}


def refused_fields(reply: str) -> list[str]:
    """Return the optional fields that a server names when it refuses a request."""
    return [field for field in (*NEUTRAL_SAMPLING, TOKEN_IDS) if re.search(rf"\b{field}\b", reply)]


class Completion(NamedTuple):
    """The text of a reply, and the tokens that the server counted (0 if it did not)."""

    text: str
    prompt_tokens: int
    completion_tokens: int


def whole_text(reply: "ChatCompletion", option: Callable[[str], str]) -> Completion:
    """Return the text of a reply's first choice; raise TransientFault if there is none or a part.

    `option` maps the key of a setting to its name in messages.
    """
    choice = reply.choices[0]
    content = choice.message.content
    if choice.finish_reason == "length" or not isinstance(content, str):
        raise TransientFault(_no_text(choice, option))
    clean = content.encode("utf-8", "replace").decode()  # JSON may hold unpaired surrogates
    return Completion(clean, counted(reply, "prompt_tokens"), counted(reply, "completion_tokens"))


def _no_text(choice: "Choice", option: Callable[[str], str]) -> str:
    """Say why a choice has no complete text; it may be in the field for the reasoning."""
    is_reasoning = bool(reasoning_of(choice)) and not choice.message.content
    if choice.finish_reason == "length":
        fault = f"a reply cut off at {option('max_tokens')}"
        return f"{fault} while the model was still reasoning" if is_reasoning else fault
    if is_reasoning:
        return (
            "a reply whose text is all in the message's field for the reasoning: start the server "
            "without its reasoning parser, or turn thinking off with "
            f"{option('extra_body')} (chat_template_kwargs)"
        )
    return "a reply without text"


def reasoning_of(choice: "Choice") -> str:
    """Return the reasoning that the server's parser moved out of the text, "" if none."""
    for name in ("reasoning_content", "reasoning"):  # the second is the newer name
        value = getattr(choice.message, name, None)
        if isinstance(value, str) and value:
            return value
    return ""


def counted(reply: "ChatCompletion", name: str) -> int:
    """Return a count of tokens from the reply's usage, 0 if the server did not count."""
    number = getattr(reply.usage, name, None)
    return number if isinstance(number, int) else 0


def read_object(content: str) -> dict[str, Any]:
    """Return the JSON object of a reply; raise TransientFault if there is none."""
    # The object may follow a reasoning or be inside a code block. The whole text is tried first,
    # since a string of the object may quote the tag.
    for text in (content, content.rpartition("</think>")[2]):
        try:
            # vLLM's structured output lets bare control characters into a string.
            reply = json.loads(text[text.find("{") : text.rfind("}") + 1], strict=False)
        except (ValueError, RecursionError):
            continue
        if isinstance(reply, dict):
            return reply
    raise TransientFault("a reply that is not a JSON object")
