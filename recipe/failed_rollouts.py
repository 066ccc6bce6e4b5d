"""Whether so many rollouts of a step failed that the run has to end.

verl 0.9.1 logs the error of a rollout that fails and trains on the others, padding the batch; where
vLLM or the reward is gone, that goes on with fewer and fewer of them.
"""

from collections.abc import Sequence


class RolloutsFailing(Exception):
    """More rollouts of a step failed than the configuration allows; the message is one line."""


def failed_rollouts(keys: Sequence[str], wanted: int, most: float, step: int) -> dict[str, float]:
    """How many rollouts of a step failed and are missing from its batch.

    Args:
        keys: of the rollouts that came.
        wanted: prompts times group size.
        most: share of `wanted` that may be missing.
        step: for the message.

    Raises:
        RolloutsFailing: more are missing.
    """
    missing = max(0, wanted - len(keys))
    if missing > most * wanted:
        raise RolloutsFailing(
            f"{missing} of {wanted} rollouts of step {step} failed, more than "
            f"trainer.v1.thinkvg.max_failed_rollouts={most:g} of them: the agent loop's errors "
            "above say why"
        )
    return {"training/failed_rollouts": float(missing)}
