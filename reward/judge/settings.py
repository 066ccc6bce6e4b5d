"""The judge's settings (`reward_kwargs.judge`), and when its failures end a run."""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from llm_client.server import Count, JsonServerSettings, Positive, ServerFault, Text, check_packages
from reward.ground_truth import QUESTION_TYPES, QuestionType

LONGEST_WAIT_S = 10.0

QuestionTypes = Annotated[tuple[QuestionType, ...], Field(strict=False)]


class JudgeSettings(JsonServerSettings):
    """The server, the responses that it judges, timeouts, and the limit of failures.

    `docs/judge.md` explains each field, with its unit.
    """

    question_types: QuestionTypes = ("open",)
    score_difference: Positive = 2.0
    reasoning: bool = True
    alignment: bool = False
    cache_dir: Text | None = None
    max_failed_share: Annotated[float, Field(ge=0, le=1)] = 0.25
    failed_window: Count = 3

    @classmethod
    def from_kwargs(cls, kwargs: Any) -> "JudgeSettings":
        """Check a preset's `judge`; its address may be missing, since verl passes its own later."""
        if not isinstance(kwargs, Mapping):
            raise ValueError("reward_kwargs.judge is not an object of settings")
        return cls.parse(kwargs)

    @classmethod
    def option(cls, key: str) -> str:
        return f"judge.{key}"

    @field_validator("question_types")
    @classmethod
    def _in_order(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in QUESTION_TYPES if name in names)

    @model_validator(mode="after")
    def _check_reasoning(self) -> "JudgeSettings":
        if self.alignment and not self.reasoning:
            raise ValueError("judge.alignment asks about the reasoning: set judge.reasoning=true")
        return self

    def at(self, router_address: str | None) -> "JudgeSettings":
        """Return the settings with their address, or that of verl's router if they have none.

        The router is part of the run's cluster, so it needs no permission. Without either address
        this is a ValueError.
        """
        if self.base_url is not None:
            return self
        if router_address is None:
            raise ValueError(
                "judge.base_url is not set: give the address of an OpenAI-compatible server, such "
                "as http://127.0.0.1:8000/v1, or let verl serve one (reward.reward_model.enable)"
            )
        return self.model_copy(update={"base_url": f"http://{router_address}/v1"})


def check_ready(kwargs: Any, router_address: str | None = None) -> JudgeSettings:
    """Check a preset's `judge` and return it with an address, that of verl's router if it has none.

    A ValueError names a wrong setting, or a missing address, key or package, in one line.
    """
    settings = JudgeSettings.from_kwargs(kwargs).at(router_address)
    check_packages("diskcache")
    settings.api_key()
    return settings


def check_health(settings: JudgeSettings) -> None:
    """Raise ValueError unless the judge's server answers and offers the model."""
    patience = {"attempts": 1, "timeout_s": min(settings.timeout_s, LONGEST_WAIT_S)}
    try:
        model, offered = asyncio.run(_model_and_offered(settings.model_copy(update=patience)))
    except ServerFault as fault:
        raise ValueError(
            f"judge.base_url={settings.base_url}: {fault}: start the judge's server there, or "
            "correct the address"
        ) from None
    if model not in offered:
        raise ValueError(
            f"judge.model={model}: the server at {settings.base_url} offers "
            f"{', '.join(offered) or 'none'}: set judge.model to one of these"
        )


async def _model_and_offered(settings: JudgeSettings) -> tuple[str, list[str]]:
    from llm_client.client import ChatClient  # needs the extra `judge`

    client = ChatClient(settings)
    try:
        return await client.model_name(), await client.models()
    finally:
        await client.aclose()


class JudgeFailing(Exception):
    """The judge failed more often than `judge.max_failed_share` allows; the message is one line."""


class FailureWatch:
    """Counts requests to the judge and its failures, by step.

    A step is a set of responses that are scored together: a training step, a validation, a block of
    a file. The share of failures is that of the last `failed_window` steps with requests.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self._limit, self._window = settings.max_failed_share, settings.failed_window
        self._steps: deque[tuple[int, int]] = deque(maxlen=self._window)

    def add(self, asked: int, failed: int) -> None:
        """Count a step; a step without requests is ignored."""
        if asked:
            self._steps.append((asked, failed))

    def fault(self, at_end: bool = False) -> str | None:
        """Return one line that says why to stop, or None.

        Fewer than `failed_window` steps are judged only `at_end`, when no more steps follow.
        """
        asked = sum(step[0] for step in self._steps)
        failed = sum(step[1] for step in self._steps)
        if failed <= self._limit * asked or (len(self._steps) < self._window and not at_end):
            return None
        return (
            f"the judge failed for {failed} of {asked} responses, more than "
            f"judge.max_failed_share={self._limit:g}: see its warnings above and its server, then "
            "start again"
        )
