"""Learning rates by parameter name, and the type of adapters."""

from types import SimpleNamespace

import pytest
import torch

from phantom.base import BASE
from phantom.tiny.model import TWINS, build_model, train_tokenizer
from recipe.algorithms.learning_rates import (
    EngineWithRates,
    parameter_groups,
    rates_by_name,
    restore_frequencies,
)

NAMES = ["model.visual.proj.weight", "model.layers.0.norm.weight", "model.norm.weight"]


def test_the_first_match_counts_and_the_rest_has_the_common_rate() -> None:
    entries = [{"match": r"visual", "lr": 0}, {"match": r"model\.norm", "lr": 0.5}]
    assert rates_by_name(NAMES, entries, rest=0.1) == dict(zip(NAMES, [0.0, 0.1, 0.5], strict=True))


def test_an_expression_that_matches_nothing_is_named() -> None:
    with pytest.raises(ValueError, match="vision_tower"):
        rates_by_name(NAMES, [{"match": "vision_tower", "lr": 0}], rest=0.1)


def test_something_must_be_left_to_train() -> None:
    with pytest.raises(ValueError, match="nothing to train"):
        rates_by_name(NAMES, [{"match": "model", "lr": 0}], rest=0.1)


def test_groups_hold_every_trained_parameter_once() -> None:
    parameters = [(name, torch.nn.Parameter(torch.zeros(1))) for name in NAMES]
    rates = dict(zip(NAMES, [0.0, 0.1, 0.1], strict=True))
    groups = parameter_groups(parameters, rates)
    assert [group["lr"] for group in groups] == [0.1]
    assert [id(each) for each in groups[0]["params"]] == [id(p) for _, p in parameters[1:]]


def test_adapters_are_float32_on_a_base_in_bfloat16() -> None:
    from transformers import AutoModelForImageTextToText

    engine = object.__new__(EngineWithRates)
    engine.model_config = SimpleNamespace(
        **{"lora_adapter_path": None, "lora_rank": 4, "lora_alpha": 8, "target_parameters": None},
        **{"target_modules": "all-linear", "exclude_modules": ".*visual.*"},
    )
    base = AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.bfloat16)
    parameters = list(engine._build_lora_module(base).parameters())
    trained = {p.dtype for p in parameters if p.requires_grad}
    frozen = {p.dtype for p in parameters if not p.requires_grad}
    assert (trained, frozen) == ({torch.float32}, {torch.bfloat16})


@pytest.mark.parametrize("family", TWINS)
def test_positions_are_exact_on_a_base_in_bfloat16(family: str) -> None:
    tokenizer = train_tokenizer(["Is the left lung clear?"], 50, family)
    model = build_model(tokenizer, seed=0, family=family)
    exact = {name: b.clone() for name, b in model.named_buffers() if "inv_freq" in name}
    assert len(exact) >= 2  # of the language model and of the vision tower
    model.to(torch.bfloat16)
    restore_frequencies(model)
    restored = {name: b for name, b in model.named_buffers() if "inv_freq" in name}
    assert restored.keys() == exact.keys()
    for name, frequencies in exact.items():
        assert torch.equal(restored[name], frequencies)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_frozen_base_of_adapters_is_in_no_group() -> None:
    base = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
    adapter = torch.nn.Parameter(torch.zeros(1))
    named = [("layers.0.q_proj.base_layer.weight", base), ("layers.0.q_proj.lora_A", adapter)]
    (group,) = parameter_groups(named, {name: 0.1 for name, _ in named})
    assert group["params"] == [adapter]
