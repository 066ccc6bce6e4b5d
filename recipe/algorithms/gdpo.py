"""Advantages normalised for each reward component (GDPO), with verl's own estimator.

verl 0.9.1 has the estimator ``gdpo``: each component is normalised within its group, their weighted
sum within the batch (https://arxiv.org/abs/2601.05242). It needs the components, the prompts and
the attention mask of each rollout, and verl's V1 trainer passes none of them, so configuration
alone cannot use it. Here the trainer sets the components of a step with `components_of_step`, and
the estimator ``thinkvg_gdpo`` passes them to verl's.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from verl.trainer.ppo.core_algos import compute_gdpo_outcome_advantage, register_adv_est

from recipe.program import GDPO

_rows: ContextVar[Sequence[Mapping[str, float]]] = ContextVar("reward components of the step")


@contextmanager
def components_of_step(rows: Sequence[Mapping[str, float]]) -> Iterator[None]:
    """Set the reward components of each rollout for the estimator, in the order of the batch."""
    token = _rows.set(rows)
    try:
        yield
    finally:
        _rows.reset(token)


@register_adv_est(GDPO)
def componentwise_advantage(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray,
    config: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return advantages and returns, both of shape (rollouts, longest response).

    Args:
        token_level_rewards: total rewards in the same shape; not used.
        response_mask: 1 for the tokens of a response, in the same shape.
        index: the group of each rollout.
        config: ``algorithm``, with `gdpo_reward_keys` and optionally `gdpo_reward_weights`.
    """
    rows = _rows.get()
    components = {key: np.array([row[key] for row in rows]) for key in config.gdpo_reward_keys}
    # verl searches for the last token of a response after the prompt; here there is no prompt.
    batch = {"prompts": response_mask[:, :0], "attention_mask": response_mask}
    return compute_gdpo_outcome_advantage(
        token_level_rewards,
        response_mask,
        index,
        config=config,
        non_tensor_batch=components,
        batch=batch,
    )
