"""The settings of a reward: what a preset's `reward_kwargs` may hold."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

COMPONENTS = ("format", "answer", "grounding", "think_grounding", "alignment")
RULES = ("dense", "paper")


@dataclass(frozen=True)
class Settings:
    """How components are computed and weighted.

    `grounding_rule` is "dense" or "paper" (count gate at `iou_threshold`). `answer_rule` "dense"
    gives open answers their text score and part of a multi-choice set `multi_partial` of its
    share; "paper" gives 1 or 0, open answers 1 from a text score of `open_threshold`.
    `weights` are in the order of `COMPONENTS`.
    """

    grounding_rule: str
    answer_rule: str
    weights: tuple[float, ...]
    iou_threshold: float = 0.75
    open_threshold: float = 0.75
    multi_partial: float = 0.5

    @cached_property
    def weighted(self) -> tuple[tuple[str, float], ...]:
        """Components that have a weight, with it."""
        named = zip(COMPONENTS, self.weights, strict=True)
        return tuple((name, weight) for name, weight in named if weight)

    @cached_property
    def total_weight(self) -> float:
        """Sum of the weights."""
        return sum(self.weights)

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any]) -> "Settings":
        """Check a preset's `reward_kwargs`; ValueError names the key at fault."""
        known = [field.name for field in fields(cls)]
        for key in kwargs:
            if key not in known:
                raise ValueError(f"unknown reward_kwargs key {key!r}: known are {', '.join(known)}")
        for key in ("grounding_rule", "answer_rule"):
            if kwargs.get(key) not in RULES:
                raise ValueError(f"reward_kwargs.{key} is {kwargs.get(key)!r}, not dense or paper")
        shares = {
            key: _share(kwargs[key], f"reward_kwargs.{key}")
            for key in ("iou_threshold", "open_threshold", "multi_partial")
            if key in kwargs
        }
        return cls(
            grounding_rule=kwargs["grounding_rule"],
            answer_rule=kwargs["answer_rule"],
            weights=_weights(kwargs.get("weights")),
            **shares,
        )


def _weights(value: Any) -> tuple[float, ...]:
    if not isinstance(value, Mapping):
        raise ValueError("reward_kwargs.weights is not an object of component to weight")
    for key in value:
        if key not in COMPONENTS:
            raise ValueError(
                f"unknown reward_kwargs.weights key {key!r}: known are {', '.join(COMPONENTS)}"
            )
    weights = []
    for name in COMPONENTS:
        weight = value.get(name, 0.0)
        if not _is_number(weight) or weight < 0:
            raise ValueError(f"reward_kwargs.weights.{name} is {weight!r}, not a number from 0")
        weights.append(float(weight))
    if not sum(weights) > 0:
        raise ValueError("reward_kwargs.weights are all 0: give one component a weight")
    return tuple(weights)


def _share(value: Any, where: str) -> float:
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{where} is {value!r}, not a number from 0 to 1")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
