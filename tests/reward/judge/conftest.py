"""Responses to judge, and the judged preset at the test server."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest_asyncio

from reward.judge.judge import close_judges
from reward.settings import load_preset
from reward.thinkvg import compute_score_judged

REFERENCE = "Small left pleural effusion"
INFO = {"question": "What does the left lung show?"}

# Waits are short, and faults are tried again three times. The time limit is long enough for a busy
# machine, on which a request must not be made twice by chance.
PATIENCE = {"timeout_s": 10, "attempts": 4, "backoff_s": 0.01, "backoff_max_s": 2.0}

Score = Callable[..., Awaitable[dict[str, float]]]


def truth_of(**changes: Any) -> dict[str, Any]:
    """The ground truth of an open question."""
    data: dict[str, Any] = {
        "question_type": "open",
        "answer": REFERENCE,
        "choices": None,
        "regions": [{"ref": "left lung", "box": [63, 20, 98, 80]}],
        "think_regions": [],
        "image_size": [112, 112],
        "coordinates": "absolute",
    }
    return data | changes


THINK = "Blunting of the left lung [63, 20, 98, 80]: the answer is an effusion."


def response_of(answer: str, think: str = THINK) -> str:
    """A well-formed response."""
    return (
        f"<think>{think}</think>\n<answer>{answer}</answer>\n"
        "<location><ref>left lung</ref><box>[63, 20, 98, 80]</box></location>"
    )


@pytest_asyncio.fixture
async def score(judge_server: Any) -> Any:
    """`await score(ANSWER, judge={SETTINGS}, info={…}, truth={…})`: a result of the preset."""

    async def judged(
        answer: str,
        *,
        judge: dict[str, Any] | None = None,
        info: dict[str, Any] | None = None,
        truth: dict[str, Any] | None = None,
        think: str | None = None,
        **passed: Any,
    ) -> dict[str, float]:
        kwargs = load_preset("paper_judge")
        settings = {"base_url": judge_server.url, "model": "judge", **PATIENCE}
        kwargs["judge"] = kwargs["judge"] | settings | (judge or {})
        text = response_of(answer) if think is None else response_of(answer, think)
        known = {**INFO, **(info or {})}
        kwargs |= passed
        return await compute_score_judged("d", text, truth_of(**(truth or {})), known, **kwargs)

    yield judged
    await close_judges()
