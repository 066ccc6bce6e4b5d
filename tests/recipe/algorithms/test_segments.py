"""Credit by segment: which tokens a component's advantage reaches."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoTokenizer
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

from data_prep.program import InputError
from phantom.base import BASE
from recipe.algorithms.advantages import (
    Scored,
    advantage_by_segment,
    rollouts_of_step,
    tokens_up_to,
)
from recipe.preflight.choices import check_gdpo
from recipe.program import compose_config

TEXTS = [
    "<think>The spine [1, 2, 3, 4] is normal.</think>\n<answer>Yes</answer>\n<location></location>",
    "<think>It is normal.</think>\n<answer>No</answer>\n<location><ref>spine</ref></location>",
    "<think>No end",
    "<think>a</think><answer>Yes</answer>",
]
GROUPS = np.array(["a", "a", "b", "b"], dtype=object)
KEYS = ["answer", "grounding", "think_grounding"]
ROWS = [
    {"answer": 1.0, "grounding": 0.5, "think_grounding": 0.1},
    {"answer": 0.0, "grounding": 0.7, "think_grounding": 0.3},
    {"answer": 1.0, "grounding": 0.1, "think_grounding": 0.4},
    {"answer": 1.0, "grounding": 0.9, "think_grounding": 0.4},
]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


def advantages_of(tokenizer, keys: list[str], weights: list[float]):
    """The advantages, (rollouts, tokens), the mask and the responses."""
    responses = [torch.tensor(tokenizer(text)["input_ids"]) for text in TEXTS]
    lengths = torch.tensor([len(response) for response in responses])
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    config = OmegaConf.create({"gdpo_reward_keys": keys, "gdpo_reward_weights": weights})
    with rollouts_of_step(Scored(ROWS, responses, tokenizer)):
        advantages, returns = advantage_by_segment(
            torch.zeros(mask.shape), mask, GROUPS, config=config
        )
    assert torch.equal(advantages, returns)
    assert torch.equal(advantages * mask, advantages)  # nothing behind a response's end
    return advantages, mask, responses


def test_the_end_of_a_segment_is_the_end_of_its_tag(tokenizer) -> None:
    for text in TEXTS:
        response = torch.tensor(tokenizer(text)["input_ids"])
        for tag in ("</think>", "</answer>"):
            end = tokens_up_to(tag, response, tokenizer)
            head = tokenizer.decode(response[:end])
            assert head.endswith(tag) if tag in text else end == len(response)
            assert head.count(tag) <= 1


def test_a_component_that_reaches_every_token_gives_grpos_advantage(tokenizer) -> None:
    advantages, mask, _ = advantages_of(tokenizer, ["grounding"], [2.0])
    scores = torch.zeros(mask.shape)
    scores[:, 0] = torch.tensor([row["grounding"] for row in ROWS])
    expected, _ = compute_grpo_outcome_advantage(scores, mask, GROUPS)
    assert torch.allclose(advantages, expected, atol=1e-5)


def test_a_component_stops_where_its_segment_ends(tokenizer) -> None:
    weights = [1.0, 1.0, 0.5]
    advantages, mask, responses = advantages_of(tokenizer, KEYS, weights)
    total = np.array([[row[key] for key in KEYS] for row in ROWS]) * weights / np.sum(weights)
    for number, members in ((0, slice(0, 2)), (1, slice(0, 2)), (3, slice(2, 4))):
        part = (total[number] - total[members].mean(axis=0)) / (
            total[members].sum(axis=1).std(ddof=1) + 1e-6
        )
        think, answer = (
            tokens_up_to(tag, responses[number], tokenizer) for tag in ("</think>", "</answer>")
        )
        row = advantages[number].numpy()
        assert row[:think] == pytest.approx(part.sum(), abs=1e-5)
        assert row[think:answer] == pytest.approx(part[0] + part[1], abs=1e-5)
        assert row[answer : int(mask[number].sum())] == pytest.approx(part[1], abs=1e-5)


def test_the_ablation_is_complete_and_checked() -> None:
    config = compose_config("train", ["data.dir=x", "model.path=y", "ablation=segments"])
    assert config.algorithm.adv_estimator == "thinkvg_segments"
    assert len(config.algorithm.gdpo_reward_weights) == len(config.algorithm.gdpo_reward_keys) == 5
    check_gdpo(config)
    config.algorithm.gdpo_reward_keys = ["style"]
    with pytest.raises(InputError, match="gdpo_reward_keys: style"):
        check_gdpo(config)
