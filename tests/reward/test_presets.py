"""Presets as files: the reward's own reader and the form that Hydra wants."""

import importlib
import inspect
from typing import Any, cast

import pytest
from omegaconf import OmegaConf

from recipe.program import compose_config
from reward.settings import is_judged, load_preset, preset_names


def test_the_presets_and_ablations_are_there() -> None:
    assert set(preset_names()) == {
        *("dense", "paper", "paper_judge"),
        *("format_only", "answer_only", "grounding_only", "no_think_grounding", "no_alignment"),
        "no_reasoning",
    }


def _composed(name: str) -> dict[str, Any]:
    overrides = ["data.dir=DIR", f"reward={name}"]
    function = compose_config("train", overrides).reward.custom_reward_function
    return cast("dict[str, Any]", OmegaConf.to_container(function))


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_read_as_hydra_composes_it(name: str) -> None:
    function = _composed(name)
    assert load_preset(name) == function["reward_kwargs"]
    module = importlib.import_module(function["path"].removeprefix("pkg://"))
    scorer = getattr(module, function["name"])
    assert inspect.iscoroutinefunction(scorer) is is_judged(function["reward_kwargs"])


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("format_only", (1, 0, 0, 0, 0)),
        ("answer_only", (0, 1, 0, 0, 0)),
        ("grounding_only", (0, 0, 1, 0, 0)),
        ("no_think_grounding", (0.5, 1, 1, 0, 0.5)),
        ("no_alignment", (0.5, 1, 1, 0.5, 0)),
        ("no_reasoning", (0, 1, 1, 0, 0)),
    ],
)
def test_an_ablation_differs_from_dense_by_its_weights_only(
    name: str, weights: tuple[float, ...]
) -> None:
    kwargs, dense = load_preset(name), load_preset("dense")
    assert tuple(kwargs.pop("weights").values()) == weights
    assert kwargs == {key: value for key, value in dense.items() if key != "weights"}


@pytest.mark.parametrize("name", ["", "nosuch", "../dense", "dense.yaml"])
def test_an_unknown_preset_is_answered_with_the_known(name: str) -> None:
    with pytest.raises(ValueError, match=r"unknown preset .*dense, .*paper"):
        load_preset(name)
