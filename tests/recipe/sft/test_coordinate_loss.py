"""Soft coordinate targets against hand-computed values."""

import math

import pytest
import torch

from recipe.algorithms.soft_targets import soft_log_probs, soft_targets
from recipe.sft.trainer import CoordinateLoss


def test_targets_are_distributions_around_the_coordinate() -> None:
    targets = soft_targets(50, width=2.0)
    assert targets.sum(dim=1) == pytest.approx(torch.ones(50))
    assert targets.argmax(dim=1).tolist() == list(range(50))
    assert targets[20, 22] / targets[20, 20] == pytest.approx(math.exp(-0.5))


def test_a_narrow_target_is_plain_cross_entropy() -> None:
    logits = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 9, 3, 4, 5, 1])
    values = soft_log_probs(logits, labels, torch.tensor([3, 4, 5]), soft_targets(3, 0.05))
    assert values == pytest.approx(torch.log_softmax(logits, -1)[range(6), labels])


def test_near_misses_cost_less_than_far_ones() -> None:
    ids = torch.arange(20)
    targets = soft_targets(20, 2.0)

    def value(peak: int) -> float:
        logits = torch.full((1, 20), -4.0)
        logits[0, peak] = 4.0
        return float(soft_log_probs(logits, torch.tensor([10]), ids, targets))

    assert value(10) > value(11) > value(14)


def test_other_tokens_keep_their_target() -> None:
    logits = torch.randn(1, 8, generator=torch.Generator().manual_seed(1))
    value = soft_log_probs(logits, torch.tensor([7]), torch.tensor([0, 1, 2]), soft_targets(3, 2.0))
    assert value == pytest.approx(torch.log_softmax(logits, -1)[0, 7:8])


def test_validation_gets_verls_loss() -> None:
    lengths = torch.tensor([0, 3])
    data = {
        "pad_mode": "no_padding",
        "dp_size": 1,
        "batch_num_tokens": 2,
        "loss_mask": torch.nested.nested_tensor_from_jagged(torch.tensor([0, 1, 1]), lengths),
    }
    log_probs = torch.nested.nested_tensor_from_jagged(torch.tensor([-1.0, -3.0, -9.0]), lengths)
    loss, _ = CoordinateLoss([0, 1], 1.0)(
        model_output={"log_probs": log_probs}, data=data, dp_group=None
    )
    assert float(loss) == pytest.approx(2.0)  # the last position predicts nothing
