"""Presets: named settings of the reward, in `configs/reward/NAME.yaml`.

The files are entries of verl's Hydra group `reward`; here they are read as plain YAML, so that
scoring needs neither Hydra nor verl.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from reward.judge.settings import JudgeSettings
from reward.settings import Settings

PRESETS = Path(__file__).resolve().parent.parent / "configs" / "reward"


def preset_names() -> list[str]:
    """Return the names of all presets, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_preset(name: str, judge: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a preset's `reward_kwargs`, checked.

    `judge` replaces settings of a judged preset. Raises ValueError naming the known presets, or
    the key that is wrong.
    """
    if name not in preset_names():
        known = ", ".join(preset_names()) or f"none in {PRESETS}"
        raise ValueError(f"unknown preset {name!r}: known are {known}")
    content = yaml.safe_load((PRESETS / f"{name}.yaml").read_text(encoding="utf-8"))
    try:
        kwargs = dict(content["custom_reward_function"]["reward_kwargs"])
    except (KeyError, TypeError):
        raise ValueError(f"preset {name!r} has no custom_reward_function.reward_kwargs") from None
    try:
        if judge:
            if not is_judged(kwargs):
                raise ValueError(f"it has no judge, so judge.{min(judge)} cannot be set")
            kwargs["judge"] = {**kwargs["judge"], **judge}
        check_kwargs(kwargs)
    except ValueError as error:
        raise ValueError(f"preset {name!r}: {error}") from None
    return kwargs


def is_judged(kwargs: Mapping[str, Any]) -> bool:
    """Whether `reward_kwargs` are for `compute_score_judged`."""
    return "judge" in kwargs


def check_kwargs(kwargs: Mapping[str, Any]) -> None:
    """Check the `reward_kwargs` of either function; ValueError names the key at fault."""
    Settings.from_kwargs({key: value for key, value in kwargs.items() if key != "judge"})
    if is_judged(kwargs):
        JudgeSettings.from_kwargs(kwargs["judge"])
