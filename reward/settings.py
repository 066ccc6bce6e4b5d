"""The settings of a reward, and presets: named settings in `configs/reward/NAME.yaml`.

The files are entries of verl's Hydra group `reward`; here they are read one by one, with the
presets that they extend, so that scoring does not need verl.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from reward.ground_truth import describe_errors
from reward.judge.settings import JudgeSettings

PRESETS = Path(__file__).resolve().parent.parent / "configs" / "reward"

Component = Literal["format", "answer", "grounding", "think_grounding", "alignment"]
COMPONENTS: tuple[str, ...] = get_args(Component)

_Rule = Literal["dense", "paper"]
_Weight = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(strict=True, ge=0, le=1)]


class Settings(BaseModel):
    """How components are computed and weighted: a preset's `reward_kwargs` without its judge.

    `grounding_rule` "dense" is smooth, "paper" gates by the count of boxes and `iou_threshold`.
    `answer_rule` "dense" gives open answers their text score, and a set of options that is not the
    right one `multi_partial` at most; "paper" gives 1 or 0, and an open answer 1 from a text score
    of `open_threshold`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    grounding_rule: _Rule
    answer_rule: _Rule
    weights: dict[Component, _Weight]
    iou_threshold: _Share = 0.75
    open_threshold: _Share = 0.75
    multi_partial: _Share = 0.5

    @field_validator("weights")
    @classmethod
    def _check_sum(cls, weights: dict[Component, float]) -> dict[Component, float]:
        if not sum(weights.values()) > 0:
            raise ValueError("the weights are all 0: give one component a weight")
        return weights

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any]) -> "Settings":
        """Check a preset's `reward_kwargs`.

        Raises:
            ValueError: one line that names each key at fault.
        """
        try:
            return cls.model_validate(kwargs)
        except ValidationError as error:
            raise ValueError(describe_errors(error, "reward_kwargs")) from None


def check_kwargs(kwargs: Mapping[str, Any]) -> None:
    """Check the `reward_kwargs` of a preset, with or without a judge.

    Raises:
        ValueError: one line that names each key at fault.
    """
    Settings.from_kwargs({key: value for key, value in kwargs.items() if key != "judge"})
    if is_judged(kwargs):
        JudgeSettings.from_kwargs(kwargs["judge"])


def is_judged(kwargs: Mapping[str, Any]) -> bool:
    """Return whether `reward_kwargs` are for `compute_score_judged`."""
    return "judge" in kwargs


def preset_names() -> list[str]:
    """Return the names of all presets, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_preset(name: str, judge: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a preset's `reward_kwargs`, checked.

    Args:
        name: one of `preset_names()`.
        judge: settings that replace those of a judged preset.

    Raises:
        ValueError: the preset is unknown, or a key of it is wrong.
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
    changes = OmegaConf.select(content, "custom_reward_function.reward_kwargs", default={})
    return cast("DictConfig", OmegaConf.merge(*bases, changes))
