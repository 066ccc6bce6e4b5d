"""Advantages that see the components of the reward: GDPO, and credit by segment.

verl's V1 trainer passes an estimator the total rewards only. Here the trainer sets the rollouts of
a step with `rollouts_of_step`, and the estimators read their components from there.

**GDPO** (``thinkvg_gdpo``): each component is normalised within its group, their weighted sum
within the batch (https://arxiv.org/abs/2601.05242). verl 0.9.1 has the estimator; it needs the
components, the prompts and the attention mask of each rollout, which are passed to it here.

**Credit by segment** (``thinkvg_segments``): in GRPO every token of a rollout gets the advantage of
the whole score. But the boxes in `<location>` change nothing about the answer that stands before
them. Here (after SD-GRPO, arXiv 2606.09871; the segments are this project's)

    advantage of token t = sum over components k of w_k (r_k - mean r_k) [t <= end_k]
                           / (sum of w_k x (standard deviation of the weighted mean + 1e-6))

with mean and deviation over the group, and end_k the end of what k scores: `</think>` for
`think_grounding`, `</answer>` for `answer`, the end of the response for the others. With all ends
there, this is GRPO's advantage.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from verl.trainer.ppo.core_algos import compute_gdpo_outcome_advantage, register_adv_est

from recipe.program import GDPO, SEGMENTS

SEGMENT_END = {"think_grounding": "</think>", "answer": "</answer>"}


@dataclass(frozen=True)
class Scored:
    """Rollouts of a step, in the order of the batch."""

    rows: Sequence[Mapping[str, float]]  # reward components of each
    # for credit by segment: token ids of each response, without padding, and what decodes them
    responses: Sequence[torch.Tensor] = ()
    tokenizer: Any = None


_step: ContextVar[Scored] = ContextVar("rollouts of the step")


@contextmanager
def rollouts_of_step(scored: Scored) -> Iterator[None]:
    """Set the rollouts for the estimators."""
    token = _step.set(scored)
    try:
        yield
    finally:
        _step.reset(token)


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
    rows = _step.get().rows
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


def tokens_up_to(tag: str, response: torch.Tensor, tokenizer: Any) -> int:
    """Return the number of tokens up to the end of a tag, all of them if it is not there."""
    ids = response.tolist()
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if tag in tokenizer.decode(ids[:middle]):
            high = middle
        else:
            low = middle + 1
    return low


@register_adv_est(SEGMENTS)
def advantage_by_segment(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray,
    config: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return advantages and returns, like `componentwise_advantage` and with its arguments."""
    scored = _step.get()
    keys = list(config.gdpo_reward_keys)
    weights = np.array(config.get("gdpo_reward_weights") or [1.0] * len(keys))
    values = np.array([[row[key] for key in keys] for row in scored.rows]) * weights / weights.sum()
    centred = values.copy()
    for group in set(index):
        members = index == group
        if members.sum() > 1:
            deviation = values[members].sum(axis=1).std(ddof=1)
            centred[members] = (values[members] - values[members].mean(axis=0)) / (deviation + 1e-6)
    positions = torch.arange(response_mask.shape[1])
    advantages = torch.zeros(response_mask.shape)
    for column, key in enumerate(keys):
        tag = SEGMENT_END.get(key)
        ends = [tokens_up_to(tag, r, scored.tokenizer) if tag else len(r) for r in scored.responses]
        reached = positions < torch.tensor(ends)[:, None]
        advantages += torch.tensor(centred[:, column, None], dtype=torch.float32) * reached
    advantages = (advantages * response_mask.cpu()).to(response_mask.device)
    return advantages, advantages
