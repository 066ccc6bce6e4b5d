"""The reference of a question: the `ground_truth` of a rollout row."""

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from string import ascii_uppercase
from typing import Annotated, Any, Literal, Protocol, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from reward.boxes_in_text import Box, to_box
from reward.grounding import distinct
from reward.response import Region

QuestionType = Literal["closed", "single", "multi", "open"]
QUESTION_TYPES: tuple[str, ...] = get_args(QuestionType)
Coordinates = Literal["absolute", "norm1000"]

_SMALLEST_AREA = 1e-12
_LARGEST_NUMBER = 10**12


def _check_region(region: Region) -> Region:
    box = to_box(region.box)
    if box is None or max(map(abs, box)) >= _LARGEST_NUMBER:
        raise ValueError("box is not four finite numbers with x1 < x2 and y1 < y2")
    return region


_Letter = Annotated[str, Field(pattern="^[A-Z]$")]
_Side = Annotated[int, Field(gt=0, lt=_LARGEST_NUMBER)]
_Regions = tuple[Annotated[Region, AfterValidator(_check_region)], ...]


class GroundTruth(BaseModel):
    """The reference of one question.

    `answer` is "Yes" or "No" (closed), a letter (single), a tuple of letters (multi) or a text
    (open). Boxes are in the coordinates of the model's output: pixels of an image of
    `image_size` (width, height) for "absolute", 0 to 1000 for "norm1000".
    """

    model_config = ConfigDict(frozen=True)

    question_type: QuestionType
    answer: str | tuple[str, ...]
    choices: dict[_Letter, str] | None = None
    regions: _Regions
    think_regions: _Regions
    image_size: tuple[_Side, _Side]
    coordinates: Coordinates

    @classmethod
    def parse(cls, source: str | Mapping[str, Any]) -> "GroundTruth":
        """Read a JSON string or an object.

        Raises:
            ValueError: one line that names each key at fault.
        """
        try:
            if isinstance(source, str):
                return cls.model_validate_json(source)
            return cls.model_validate(source)
        except ValidationError as error:
            raise ValueError(describe_errors(error, "ground_truth")) from None

    @field_validator("answer")
    @classmethod
    def _sort_letters(cls, answer: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return answer if isinstance(answer, str) else tuple(sorted(set(answer)))

    @field_validator("choices")
    @classmethod
    def _drop_empty_choices(cls, choices: dict[str, str] | None) -> dict[str, str] | None:
        return choices or None

    @model_validator(mode="after")
    def _check_answer(self) -> "GroundTruth":
        kind, answer = self.question_type, self.answer
        if kind == "open":
            if not isinstance(answer, str) or not answer.strip():
                raise ValueError("answer of an open question is not a text")
            return self
        if not answer or isinstance(answer, tuple) != (kind == "multi"):
            form = "a list of letters" if kind == "multi" else "a text"
            raise ValueError(f"answer of a {kind} question is not {form}")
        allowed = ("Yes", "No") if kind == "closed" else tuple(self.choices or ascii_uppercase)
        for value in answer if isinstance(answer, tuple) else (answer,):
            if value not in allowed:
                raise ValueError(f"answer is {value!r}, not one of {', '.join(allowed)}")
        return self

    @model_validator(mode="after")
    def _check_boxes(self) -> "GroundTruth":
        for key, regions in (("regions", self.regions), ("think_regions", self.think_regions)):
            for index, (_, box) in enumerate(regions):
                if box and to_box(normalise(box, self)) is None:
                    raise ValueError(f"{key}[{index}].box {list(box)} lies outside the image")
        return self

    @cached_property
    def placed_regions(self) -> list[Region]:
        """`regions` with boxes in [0, 1]."""
        return place(self.regions, self)

    @cached_property
    def cited_regions(self) -> list[Region]:
        """Regions that a reasoning should cite: distinct `think_regions` with boxes in [0, 1].

        If there are none, the final regions are used.
        """
        return distinct(place(self.think_regions, self)) or self.placed_regions

    def to_json(self) -> str:
        """Write the JSON string that `parse` reads, whole numbers as integers."""
        data = {
            "question_type": self.question_type,
            "answer": self.answer,
            "choices": self.choices,
            "regions": _plain_regions(self.regions),
            "think_regions": _plain_regions(self.think_regions),
            "image_size": self.image_size,
            "coordinates": self.coordinates,
        }
        return json.dumps(data, ensure_ascii=False)


class BoxSpace(Protocol):
    """What boxes are written in, as in `GroundTruth`."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height of the image in pixels."""

    @property
    def coordinates(self) -> Coordinates:
        """Whether boxes are in pixels of the image or from 0 to 1000."""


def normalise(box: Box, space: BoxSpace) -> Box:
    """Map a box from the model's coordinates to [0, 1] and clip it.

    A box outside the image loses its area.
    """
    width, height = space.image_size if space.coordinates == "absolute" else (1000, 1000)
    x1, y1, x2, y2 = box
    return (
        min(max(x1 / width, 0.0), 1.0),
        min(max(y1 / height, 0.0), 1.0),
        min(max(x2 / width, 0.0), 1.0),
        min(max(y2 / height, 0.0), 1.0),
    )


def place(regions: Iterable[Region], space: BoxSpace) -> list[Region]:
    """Return regions with boxes in [0, 1]; the box is None if nothing of it is in the image."""
    placed = []
    for ref, box in regions:
        if box is not None:
            x1, y1, x2, y2 = box = normalise(box, space)
            if (x2 - x1) * (y2 - y1) <= _SMALLEST_AREA:
                box = None
        placed.append(Region(ref, box))
    return placed


def _plain_regions(regions: Iterable[Region]) -> list[dict[str, Any]]:
    return [{"ref": ref, "box": [_whole(value) for value in box or ()]} for ref, box in regions]


def _whole(value: float) -> float:
    return int(value) if value.is_integer() else value


def describe_errors(error: ValidationError, name: str) -> str:
    """Describe in one line what is wrong with an object.

    Args:
        error: pydantic's error.
        name: name of the object for the user, such as "ground_truth".
    """
    missing = [_path(details) for details in error.errors() if details["type"] == "missing"]
    faults = [f"{name} lacks {', '.join(path.lstrip('.') for path in missing)}"] if missing else []
    for details in error.errors():
        message, value = details["msg"].removeprefix("Value error, "), details["input"]
        if message.startswith("Input should") and not isinstance(value, dict | list | tuple):
            message += f", not {value!r}"
        if details["type"] != "missing":
            faults.append(f"{name}{_path(details)}: {message}")
    return "; ".join(faults)


def _path(details: ErrorDetails) -> str:
    keys = [key for key in details["loc"] if key != "[key]"]
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
