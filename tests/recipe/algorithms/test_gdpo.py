"""Advantages by reward component: verl's estimator given what it wants."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from data_prep.program import InputError
from recipe.algorithms.advantages import Scored, componentwise_advantage, rollouts_of_step
from recipe.preflight.choices import check_gdpo
from recipe.program import compose_config

MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]])
GROUPS = np.array(["a", "a", "b", "b"], dtype=object)
ROWS = [
    {"answer": 1.0, "grounding": 0.50, "format": 1.0},
    {"answer": 0.0, "grounding": 0.52, "format": 1.0},
    {"answer": 1.0, "grounding": 0.10, "format": 1.0},
    {"answer": 1.0, "grounding": 0.90, "format": 1.0},
]


def _advantages(keys: list[str], weights: list[float] | None) -> torch.Tensor:
    settings = {"gdpo_reward_keys": keys, "gdpo_reward_weights": weights}
    with rollouts_of_step(Scored(ROWS)):
        advantages, returns = componentwise_advantage(
            torch.zeros(MASK.shape), MASK, GROUPS, config=OmegaConf.create(settings)
        )
    assert torch.equal(advantages, returns)
    assert torch.equal(advantages * MASK, advantages)  # nothing behind a response's end
    return advantages[:, 0]


def _expected(keys: list[str], weights: list[float]) -> np.ndarray:
    """The formula by hand: by component within groups, then whitened over all tokens."""
    total = np.zeros(len(ROWS))
    for key, weight in zip(keys, weights, strict=True):
        values = np.array([row[key] for row in ROWS])
        for group in ("a", "b"):
            members = group == GROUPS
            deviation = values[members].std(ddof=1)
            total[members] += (
                weight * (values[members] - values[members].mean()) / (deviation + 1e-6)
            )
    lengths = MASK.sum(1).numpy()
    tokens = np.repeat(total, lengths)
    return (total - tokens.mean()) / np.sqrt(tokens.var(ddof=1) + 1e-8)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, 2.0, 1.0]])
def test_each_component_is_normalised_by_itself(weights: list[float]) -> None:
    keys = ["answer", "grounding", "format"]
    given = _advantages(keys, weights)
    np.testing.assert_allclose(given.numpy(), _expected(keys, weights), atol=1e-4)


def test_a_small_spread_counts_like_a_large_one() -> None:
    first, second, third, fourth = _advantages(["grounding"], None).tolist()
    # 0.02 and 0.8 apart
    assert second - first == pytest.approx(fourth - third, rel=1e-3)


def test_without_components_it_is_not_usable() -> None:
    with pytest.raises(LookupError):
        componentwise_advantage(torch.zeros(MASK.shape), MASK, GROUPS, config=OmegaConf.create())


@pytest.mark.parametrize("preset", ["dense", "paper", "no_alignment"])
def test_the_shipped_entry_has_the_weights_of_the_preset(preset: str) -> None:
    config = compose_config("train", ["data.dir=DIR", "ablation=gdpo", f"reward={preset}"])
    check_gdpo(config)
    weights = config.reward.custom_reward_function.reward_kwargs.weights
    pairs = zip(
        config.algorithm.gdpo_reward_keys, config.algorithm.gdpo_reward_weights, strict=True
    )
    assert dict(pairs) == dict(weights)


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("algorithm.gdpo_reward_keys=[answer,speed]", "speed; name components"),
        ("algorithm.gdpo_reward_keys=[]", "empty; name components"),
        ("algorithm.gdpo_reward_keys=[answer,answer]", "named twice"),
        ("algorithm.gdpo_reward_weights=[1,2]", "2 weights for 5 components"),
        ("algorithm.gdpo_reward_weights=[0,0,0,0,-1]", "a number from 0"),
        ("algorithm.gdpo_reward_weights=[a,b,c,d,e]", "a number from 0"),
    ],
)
def test_wrong_settings_are_named(override: str, fault: str) -> None:
    config = compose_config("train", ["data.dir=DIR", "ablation=gdpo", override])
    with pytest.raises(InputError, match=fault):
        check_gdpo(config)


@pytest.mark.parametrize("ablation", ["gdpo", "segments"])
@pytest.mark.parametrize(
    "override",
    ["algorithm.use_kl_in_reward=true", "algorithm.norm_adv_by_std_in_grpo=false"],
)
def test_settings_that_would_have_no_effect_are_refused(ablation: str, override: str) -> None:
    overrides = ["data.dir=DIR", f"ablation={ablation}"]
    with pytest.raises(InputError, match=f"^{override}: thinkvg_{ablation} "):
        check_gdpo(compose_config("train", [*overrides, override]))
    check_gdpo(compose_config("train", overrides))
    check_gdpo(compose_config("train", ["data.dir=DIR", override]))  # GRPO uses both
