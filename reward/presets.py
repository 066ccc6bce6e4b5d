"""Presets: named settings of the reward, in `configs/reward/NAME.yaml`.

The files are entries of verl's Hydra group `reward`; here they are read one by one, with the
presets that they extend, so that scoring does not need verl.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

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
    kwargs = cast("dict[str, Any]", OmegaConf.to_container(_read(name), resolve=True))
    if not kwargs:
        raise ValueError(f"preset {name!r} has no custom_reward_function.reward_kwargs")
    try:
        if judge:
            if not is_judged(kwargs):
                raise ValueError(f"it has no judge, so judge.{min(judge)} cannot be set")
            kwargs["judge"] = {**kwargs["judge"], **judge}
        check_kwargs(kwargs)
    except ValueError as error:
        raise ValueError(f"preset {name!r}: {error}") from None
    return kwargs


def _read(name: str) -> DictConfig:
    """Return a file's `reward_kwargs` on top of those of the presets that it extends."""
    content = cast("DictConfig", OmegaConf.load(PRESETS / f"{name}.yaml"))
    bases = [_read(base) for base in content.get("defaults", []) if base in preset_names()]
    own = OmegaConf.select(content, "custom_reward_function.reward_kwargs", default={})
    return cast("DictConfig", OmegaConf.merge(*bases, own))


def is_judged(kwargs: Mapping[str, Any]) -> bool:
    """Whether `reward_kwargs` are for `compute_score_judged`."""
    return "judge" in kwargs


def check_kwargs(kwargs: Mapping[str, Any]) -> None:
    """Check the `reward_kwargs` of either function; ValueError names the key at fault."""
    Settings.from_kwargs({key: value for key, value in kwargs.items() if key != "judge"})
    if is_judged(kwargs):
        JudgeSettings.from_kwargs(kwargs["judge"])
