"""Presets as files: the reward's own reader and the form that Hydra wants."""

import importlib
import inspect

import pytest
import yaml

from reward.presets import PRESETS, load_preset, preset_names


def test_the_first_presets_are_there() -> None:
    assert {"dense", "paper"} <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_names_a_function_that_exists(name: str) -> None:
    assert load_preset(name)["weights"]
    content = yaml.safe_load((PRESETS / f"{name}.yaml").read_text())
    function = content["custom_reward_function"]
    module = importlib.import_module(function["path"].removeprefix("pkg://"))
    assert inspect.isfunction(getattr(module, function["name"]))


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_extends_the_entry_of_the_engine(name: str) -> None:
    content = yaml.safe_load((PRESETS / f"{name}.yaml").read_text())
    assert content["defaults"] == ["reward", "_self_"]
    assert set(content) == {"defaults", "custom_reward_function"}


@pytest.mark.parametrize("name", ["", "nosuch", "../dense", "dense.yaml"])
def test_an_unknown_preset_is_answered_with_the_known(name: str) -> None:
    with pytest.raises(ValueError, match=r"unknown preset .*dense, .*paper"):
        load_preset(name)
