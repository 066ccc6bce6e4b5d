"""What the judge answers, and the reading of it."""

import json
from dataclasses import dataclass
from typing import Any

from reward.judge.faults import TransientFault


@dataclass(frozen=True)
class Verdict:
    """Scores from 1 to 10. `supported` is None where it was not asked for."""

    candidate: float
    reference: float
    supported: bool | None = None

    def reward(self, difference: float) -> float:
        """Return 1 if the two scores differ by less than `difference`, else 0."""
        return float(abs(self.candidate - self.reference) < difference)


def read_verdict(content: str, candidate_first: bool, asks_support: bool) -> Verdict:
    """Read a reply.

    Text around the object is tolerated, for servers without structured output. TransientFault
    where the object, a key or a score from 1 to 10 is missing.
    """
    reply = read_object(content)
    first, second = _score(reply, "score_1"), _score(reply, "score_2")
    supported = reply.get("supported") if asks_support else None
    if asks_support and not isinstance(supported, bool):
        raise TransientFault("a reply without true or false under 'supported'")
    return Verdict(*((first, second) if candidate_first else (second, first)), supported)


def read_object(content: str) -> dict[str, Any]:
    """Read the JSON object of a reply; TransientFault where there is none."""
    # A reasoning model may think aloud first, and a chatty one wrap its reply in a code block. The
    # whole comes first: a reason may quote a tag.
    for text in (content, content.rpartition("</think>")[2]):
        try:
            # vLLM's structured output lets bare control characters into a string.
            reply = json.loads(text[text.find("{") : text.rfind("}") + 1], strict=False)
        except (ValueError, RecursionError):
            continue
        if isinstance(reply, dict):
            return reply
    raise TransientFault("a reply that is not a JSON object")


def _score(reply: dict[str, Any], key: str) -> float:
    value = reply.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 1 <= value <= 10:
        raise TransientFault(f"a reply without a score from 1 to 10 under {key!r}")
    return float(value)
