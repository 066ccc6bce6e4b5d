"""The judge's settings: what `reward_kwargs.judge` may hold."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from reward.ground_truth import QUESTION_TYPES
from reward.judge.address import check_address
from reward.judge.server import judge_option

STRUCTURED_OUTPUTS = ("json_schema", "json_object", "none")
_OWN_FIELDS = (
    "model",
    "messages",
    "temperature",
    "seed",
    "max_tokens",
    "response_format",
    "stream",
)


@dataclass(frozen=True)
class JudgeSettings:
    """Which server judges which responses, how patiently, and what counts as too many faults.

    What each field means, with its unit, is in `docs/judge.md`. `extra_body` is canonical JSON.
    """

    base_url: str | None = None
    model: str | None = None
    api_key_env: str | None = None
    data_may_leave: bool = False
    trusted_hosts: tuple[str, ...] = ()
    question_types: tuple[str, ...] = ("open",)
    score_difference: float = 2.0
    reasoning: bool = True
    alignment: bool = False
    structured_output: str = "json_schema"
    max_tokens: int = 512
    seed: int = 0
    extra_body: str = "{}"
    timeout_s: float = 60.0
    max_concurrency: int = 64
    attempts: int = 4
    backoff_s: float = 0.5
    backoff_max_s: float = 20.0
    breaker_failures: int = 16
    breaker_cooldown_s: float = 30.0
    cache_dir: str | None = None
    max_failed_share: float = 0.25
    failed_window: int = 3

    @classmethod
    def from_kwargs(cls, kwargs: Any) -> "JudgeSettings":
        """Check a preset's `judge`; ValueError names the key at fault.

        The address may still be missing: a preset has none, and verl gives its own router's.
        """
        if not isinstance(kwargs, Mapping):
            raise ValueError("reward_kwargs.judge is not an object of settings")
        known = [field.name for field in fields(cls)]
        for key in kwargs:
            if key not in known:
                raise ValueError(f"unknown judge key {key!r}: known are {', '.join(known)}")
        checked = {key: _CHECKS[key](value, f"judge.{key}") for key, value in kwargs.items()}
        settings = cls(**checked)
        if settings.alignment and not settings.reasoning:
            raise ValueError("judge.alignment asks about the reasoning: set judge.reasoning=true")
        if settings.base_url is not None:
            check_address(settings.base_url, settings.data_may_leave, settings.trusted_hosts)
        return settings

    def option(self, key: str) -> str:
        """How a key is named to the user."""
        return judge_option(key)

    def at(self, router_address: str | None) -> "JudgeSettings":
        """Return the settings with an address: their own, or else that of verl's router.

        The router is part of the run's own cluster, so it needs no permission. ValueError where
        there is neither.
        """
        if self.base_url is not None:
            return self
        if router_address is None:
            raise ValueError(
                "judge.base_url is not set: give the address of an OpenAI-compatible server, such "
                "as http://127.0.0.1:8000/v1, or let verl serve one (reward.reward_model.enable)"
            )
        return replace(self, base_url=f"http://{router_address}/v1")

    def worst_case_s(self, responses: int) -> float:
        """Seconds after which `responses` sent at once to a dead server have all fallen back.

        The first failures open the circuit breaker, and what waits behind them falls back at
        once; until then every attempt may last until its timeout.
        """
        waves = math.ceil(min(responses, self.breaker_failures) / self.max_concurrency)
        waits = sum(
            min(self.backoff_s * 2**retry + self.backoff_s, self.backoff_max_s)
            for retry in range(self.attempts - 1)
        )
        return waves * (self.attempts * self.timeout_s + waits)


def _text(value: Any, where: str) -> str | None:
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise ValueError(f"{where} is {value!r}, neither a text nor null")
    return value


def _variable(value: Any, where: str) -> str | None:
    if value is not None and not (
        isinstance(value, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value)
    ):
        # Not shown: it may be the key itself.
        raise ValueError(f"{where} is not the name of an environment variable (never the key)")
    return value


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{where} is {value!r}, neither true nor false")
    return value


def _number(value: Any, where: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{where} is {value!r}, not a number above 0")
    return float(value)


def _share(value: Any, where: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1:
        raise ValueError(f"{where} is {value!r}, not a number from 0 to 1")
    return float(value)


def _count(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{where} is {value!r}, not a whole number from 1")
    return value


def _whole(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{where} is {value!r}, not a whole number")
    return value


def _names(value: Any, where: str) -> tuple[str, ...]:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if not is_list or not all(isinstance(name, str) and name for name in value):
        raise ValueError(f"{where} is {value!r}, not a list of names")
    return tuple(value)


def _one_of(*known: str) -> Callable[[Any, str], str]:
    def check(value: Any, where: str) -> str:
        if value not in known:
            raise ValueError(f"{where} is {value!r}, not one of {', '.join(known)}")
        return str(value)

    return check


def _question_types(value: Any, where: str) -> tuple[str, ...]:
    names = _names(value, where)
    for name in names:
        _one_of(*QUESTION_TYPES)(name, where)
    return tuple(name for name in QUESTION_TYPES if name in names)


def _extra_body(value: Any, where: str) -> str:
    try:
        text = json.dumps(_plain(value), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(f"{where} holds what JSON cannot") from None
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is {value!r}, not an object")
    for key in value:
        if key in _OWN_FIELDS:
            raise ValueError(f"{where}.{key} is not yours to set: the judge sets it itself")
    return text


def _plain(value: Any) -> Any:
    """Return a container of a configuration library as plain lists and dicts."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "base_url": _text,
    "model": _text,
    "api_key_env": _variable,
    "data_may_leave": _flag,
    "trusted_hosts": _names,
    "question_types": _question_types,
    "score_difference": _number,
    "reasoning": _flag,
    "alignment": _flag,
    "structured_output": _one_of(*STRUCTURED_OUTPUTS),
    "max_tokens": _count,
    "seed": _whole,
    "extra_body": _extra_body,
    "timeout_s": _number,
    "max_concurrency": _count,
    "attempts": _count,
    "backoff_s": _number,
    "backoff_max_s": _number,
    "breaker_failures": _count,
    "breaker_cooldown_s": _number,
    "cache_dir": _text,
    "max_failed_share": _share,
    "failed_window": _count,
}
