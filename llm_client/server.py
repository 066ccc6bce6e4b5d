"""An OpenAI-compatible server: its settings, requests and replies, and the faults of both.

By default nothing leaves this machine: the user must allow the address of another one.
"""

import importlib.util
import ipaddress
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

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
    """Return the text of a reply's first choice; raise TransientFault if it is missing or cut.

    `option` maps the key of a setting to its name in messages.
    """
    choice = reply.choices[0]
    content = choice.message.content
    if choice.finish_reason == "length" or not isinstance(content, str):
        raise TransientFault(_no_text(choice, option))
    text = writable(content)
    return Completion(text, counted(reply, "prompt_tokens"), counted(reply, "completion_tokens"))


def writable(text: str) -> str:
    """Return a text without the unpaired surrogates that JSON may hold and no file can."""
    return text.encode("utf-8", "replace").decode()


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


Option = Callable[[str], str]
"""Maps the key of a setting to its name in messages."""

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Text, ...], Field(strict=False)]  # lists too
StructuredOutput = Literal["json_schema", "json_object", "none"]


class ServerSettings(BaseModel):
    """The address of a server, the limits of its retries, and more fields of each request.

    A request has up to `attempts` attempts of at most `timeout_s` seconds, with exponential waits
    from `backoff_s` to `backoff_max_s` seconds between them. After `breaker_failures` failed
    requests in a row no request is sent for `breaker_cooldown_s` seconds; a request that the server
    refuses for its content counts as answered. `extra_body` becomes canonical JSON.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    reserved: ClassVar[tuple[str, ...]] = ("stream",)
    """Fields of a request that `extra_body` must not hold."""

    base_url: str | None = None
    model: Text | None = None
    api_key_env: str | None = None
    data_may_leave: bool = False
    trusted_hosts: Names = ()
    extra_body: str = "{}"
    timeout_s: Positive = 60.0
    max_concurrency: Count = 64
    attempts: Count = 4
    backoff_s: Positive = 0.5
    backoff_max_s: Positive = 20.0
    breaker_failures: Count = 16
    breaker_cooldown_s: Positive = 30.0

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Check settings, also those of a configuration library; a ValueError names a wrong one."""
        try:
            return cls.model_validate(_plain(values))
        except ValidationError as error:
            raise ValueError(cls._one_line(error.errors()[0])) from None

    @classmethod
    def option(cls, key: str) -> str:
        """Return the name of a setting in messages."""
        return f"server.{key}"

    def without(self, fields: Iterable[str]) -> str:
        """Return the setting that leaves fields out of requests, for messages."""
        return f"{self.option('extra_body')} {json.dumps(dict.fromkeys(fields))}"

    def api_key(self) -> str | None:
        """Return the server's key, None without `api_key_env`.

        Raises:
            ValueError: the variable that `api_key_env` names is not set.
        """
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env)
        if not key:
            option = self.option("api_key_env")
            raise ValueError(f"{option}: the variable {self.api_key_env} is not set")
        return key

    @classmethod
    def _one_line(cls, fault: ErrorDetails) -> str:
        if fault["type"] == "value_error":  # one of the checks below
            return str(fault["ctx"]["error"])
        key = str(fault["loc"][0])
        if fault["type"] == "extra_forbidden":
            return f"unknown setting {cls.option(key)}: known are {', '.join(cls.model_fields)}"
        # The user may have written the key itself here.
        value = "" if key == "api_key_env" else f" is {fault['input']!r}"
        return f"{cls.option(key)}{value}: {fault['msg'][0].lower()}{fault['msg'][1:]}"

    @field_validator("api_key_env")
    @classmethod
    def _check_variable(cls, name: str | None) -> str | None:
        if name is not None and not name.isidentifier():
            option = cls.option("api_key_env")
            raise ValueError(f"{option} is not the name of an environment variable (never the key)")
        return name

    @field_validator("extra_body", mode="before")
    @classmethod
    def _canonical(cls, value: Any) -> str:
        option = cls.option("extra_body")
        if not isinstance(value, Mapping):
            raise ValueError(f"{option} is {value!r}, not an object")
        for field in value:
            if field in cls.reserved:
                raise ValueError(f"{option}.{field} cannot be set here: the program sets it itself")
        try:
            return json.dumps(value, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError(f"{option} holds what JSON cannot") from None

    @model_validator(mode="after")
    def _check_address(self) -> Self:
        if self.base_url is not None:
            check_address(self.base_url, self.data_may_leave, self.trusted_hosts, self.option)
        return self


class JsonServerSettings(ServerSettings):
    """Settings of a server that must reply with one JSON object."""

    reserved = (
        "stream",
        "model",
        "messages",
        "temperature",
        "seed",
        "max_tokens",
        "response_format",
    )

    structured_output: StructuredOutput = "json_schema"
    max_tokens: Count = 512
    seed: int = 0

    def body(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        schema: tuple[str, Mapping[str, Any]],
        **fields: Any,
    ) -> dict[str, Any]:
        """Return a request's body.

        `schema` is the name and the JSON schema of the reply's object; `fields` replace values of
        the settings.
        """
        fields = {"seed": self.seed, "max_tokens": self.max_tokens, **fields}
        body = chat_body(model, messages, fields, json.loads(self.extra_body))
        if self.structured_output == "json_schema":
            form = {"name": schema[0], "strict": True, "schema": schema[1]}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        elif self.structured_output == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body


def _plain(value: Any) -> Any:
    """Return a container of a configuration library as plain lists and dicts."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def check_packages(*more: str) -> None:
    """Raise ValueError if a package that a client needs, or one of `more`, is missing."""
    for package in ("openai", "tenacity", *more):
        if importlib.util.find_spec(package) is None:
            raise ValueError(missing_package(package))


def missing_package(name: str | None) -> str:
    install = "in this project's folder, pip install -e '.[judge]'"
    return f"asking a server needs the package {name}: {install}"


# Only a host and a port: no user and no escapes, which two URL parsers could read differently.
_NETLOC = re.compile(
    r"""
    (?P<host> [A-Za-z0-9] (?: [A-Za-z0-9._-]* [A-Za-z0-9] )?  # a name or an IPv4 address
            | \[ [0-9A-Fa-f:.]+ \] )                          # an IPv6 address
    (?: : (?P<port> [0-9]{1,5} ) )?
    """,
    re.VERBOSE,
)


def host_of(base_url: str, option: Option = ServerSettings.option) -> str:
    """Return the host of a URL `http(s)://HOST[:PORT][/PATH]` in lower case.

    Raises:
        ValueError: it is no such URL.
    """
    try:
        parts = urlsplit(base_url)
    except ValueError:
        parts = urlsplit("")
    netloc = _NETLOC.fullmatch(parts.netloc)
    if (
        re.search(r"[^!-~]|\\", base_url)  # only visible ASCII characters
        or netloc is None
        or parts.scheme not in ("http", "https")
        or parts.query
        or parts.fragment
        or int(netloc["port"] or 0) > 65535
    ):
        # Hide what may be a password or a key.
        shown = re.sub(r"//[^/]*@", "//***@", base_url.split("?")[0])
        raise ValueError(
            f"{option('base_url')} is {shown!r}, not an address such as http://127.0.0.1:8000/v1 "
            f"(a key goes into the variable that {option('api_key_env')} names)"
        )
    return netloc["host"].strip("[]").lower()


def check_address(
    base_url: str,
    data_may_leave: bool,
    trusted_hosts: Collection[str],
    option: Option = ServerSettings.option,
) -> None:
    """Check that data, and text derived from it, may be sent to an address.

    Raises:
        ValueError: The address is malformed, or neither on this machine nor allowed by the user.
    """
    host = host_of(base_url, option)
    if is_loopback(host) or data_may_leave or host in {name.lower() for name in trusted_hosts}:
        return
    raise ValueError(
        f"{option('base_url')}: {host} is not this machine, and the data use agreement of "
        "MIMIC-CXR forbids sending its data or anything derived from it to others: name a host of "
        f"your own cluster ({option('trusted_hosts')}), or say that this data may leave "
        f"({option('data_may_leave')})"
    )


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
