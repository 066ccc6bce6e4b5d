"""What a question should have been answered with: the `ground_truth` of a rollout row."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, cast

from reward.boxes import distinct
from reward.numbers import Box, box_text, to_box
from reward.response import Region

QuestionType = Literal["closed", "single", "multi", "open"]
Coordinates = Literal["absolute", "norm1000"]

QUESTION_TYPES: tuple[QuestionType, ...] = ("closed", "single", "multi", "open")
COORDINATES: tuple[Coordinates, ...] = ("absolute", "norm1000")
_SMALLEST_AREA = 1e-12
_encode = json.JSONEncoder(ensure_ascii=False).encode
_KEYS = (
    "question_type",
    "answer",
    "choices",
    "regions",
    "think_regions",
    "image_size",
    "coordinates",
)


@dataclass(frozen=True)
class GroundTruth:
    """The reference of one question.

    `answer` is "Yes" or "No" (closed), a letter (single), a tuple of letters (multi) or a text
    (open). Boxes are in the coordinates of the model's output: pixels of an image of
    `image_size` (width, height) for "absolute", 0 to 1000 for "norm1000".
    """

    question_type: QuestionType
    answer: str | tuple[str, ...]
    choices: dict[str, str] | None
    regions: tuple[Region, ...]
    think_regions: tuple[Region, ...]
    image_size: tuple[int, int]
    coordinates: Coordinates

    @classmethod
    def parse(cls, source: str | Mapping[str, Any]) -> "GroundTruth":
        """Read a JSON string or an object; ValueError says in one line what is wrong with it."""
        data = _load(source)
        missing = [key for key in _KEYS if key not in data and key != "choices"]
        if missing:
            raise ValueError(f"ground_truth lacks {', '.join(missing)}")
        question_type = data["question_type"]
        if question_type not in QUESTION_TYPES:
            raise ValueError(
                f"ground_truth.question_type is {question_type!r}, not one of "
                f"{', '.join(QUESTION_TYPES)}"
            )
        coordinates = data["coordinates"]
        if coordinates not in COORDINATES:
            raise ValueError(
                f"ground_truth.coordinates is {coordinates!r}, not one of {', '.join(COORDINATES)}"
            )
        choices = _choices(data.get("choices"))
        truth = cls(
            question_type=question_type,
            answer=_answer(data["answer"], question_type, choices),
            choices=choices,
            regions=_regions(data["regions"], "regions"),
            think_regions=_regions(data["think_regions"], "think_regions"),
            image_size=_image_size(data["image_size"]),
            coordinates=coordinates,
        )
        _check_inside(truth)
        return truth

    @cached_property
    def extent(self) -> tuple[int, int]:
        """Width and height that boxes are divided by."""
        return (1000, 1000) if self.coordinates == "norm1000" else self.image_size

    @cached_property
    def placed_regions(self) -> list[Region]:
        """`regions` with boxes in [0, 1]."""
        return place(self.regions, self)

    @cached_property
    def placed_boxes(self) -> list[Box | None]:
        """The boxes of `placed_regions`."""
        return [box for _, box in self.placed_regions]

    @cached_property
    def cited_regions(self) -> list[Region]:
        """What a reasoning should cite: distinct `think_regions` with boxes in [0, 1].

        Where there are none the final regions stand in, which is all that can be known of it.
        """
        if self.think_regions == self.regions:
            return distinct(self.placed_regions)
        return distinct(place(self.think_regions, self)) or self.placed_regions

    def to_json(self) -> str:
        """Write the JSON string that `parse` reads; whole numbers are written as integers."""
        is_text = isinstance(self.answer, str)
        answer = _encode(self.answer) if is_text else f"[{', '.join(map(_encode, self.answer))}]"
        # Put together here because json's encoder takes thrice as long for so many short lists.
        return (
            f'{{"question_type": {_short_json(self.question_type)}, "answer": {answer}, '
            f'"choices": {_choices_json(self.choices)}, "regions": {_regions_json(self.regions)}, '
            f'"think_regions": {_regions_json(self.think_regions)}, '
            f'"image_size": {_short_json(self.image_size)}, '
            f'"coordinates": {_short_json(self.coordinates)}}}'
        )


def normalise(box: Box, ground_truth: GroundTruth) -> Box:
    """Map a box from the model's coordinates to [0, 1], clipped.

    A box wholly outside the image comes out without area.
    """
    width, height = ground_truth.extent
    x1, y1, x2, y2 = box
    return _clipped((x1 / width, y1 / height, x2 / width, y2 / height))


def place(regions: Iterable[Region], ground_truth: GroundTruth) -> list[Region]:
    """Return regions with boxes in [0, 1]; the box is None where nothing of it is in the image."""
    width, height = ground_truth.extent
    placed = []
    for ref, box in regions:
        if box is not None:
            x1, y1, x2, y2 = box
            x1, y1, x2, y2 = box = x1 / width, y1 / height, x2 / width, y2 / height
            if x1 < 0 or y1 < 0 or x2 > 1 or y2 > 1:
                x1, y1, x2, y2 = box = _clipped(box)
            if (x2 - x1) * (y2 - y1) <= _SMALLEST_AREA:
                box = None
        placed.append(Region(ref, box))
    return placed


def _clipped(box: Box) -> Box:
    x1, y1, x2, y2 = (0.0 if value < 0 else 1.0 if value > 1 else value for value in box)
    return x1, y1, x2, y2


def _check_inside(truth: GroundTruth) -> None:
    for key, regions in (("regions", truth.regions), ("think_regions", truth.think_regions)):
        for position, region in enumerate(regions):
            if region.box and to_box(normalise(region.box, truth)) is None:
                raise ValueError(
                    f"ground_truth.{key}[{position}].box {list(region.box)} lies outside the image"
                )


def _choices_json(choices: Mapping[str, str] | None) -> str:
    if choices is None:
        return "null"
    pairs = [f"{_encode(letter)}: {_encode(text)}" for letter, text in choices.items()]
    return f"{{{', '.join(pairs)}}}"


def _regions_json(regions: tuple[Region, ...]) -> str:
    return f"[{', '.join(map(_region_json, regions))}]"


@lru_cache(maxsize=1024)  # the regions of an image come again with each question about it
def _region_json(region: Region) -> str:
    ref, box = region
    if box is None:
        raise ValueError(f"region {ref!r} has no box to write")
    x1, y1, x2, y2 = box
    if x1 % 1 == y1 % 1 == x2 % 1 == y2 % 1 == 0:
        return f'{{"ref": {_short_json(ref)}, "box": {box_text(box)}}}'
    numbers = [int(value) if float(value).is_integer() else value for value in box]
    return f'{{"ref": {_encode(ref)}, "box": {_encode(numbers)}}}'


@lru_cache(maxsize=1024)
def _short_json(value: str | tuple[int, int]) -> str:
    return _encode(value)


def _load(source: str | Mapping[str, Any]) -> Mapping[str, Any]:
    data: Any = source
    if isinstance(source, str):
        try:
            data = json.loads(source)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"ground_truth is not valid JSON: {error}") from None
    if not isinstance(data, Mapping):
        raise ValueError(f"ground_truth is a {type(data).__name__}, not an object")
    return cast("Mapping[str, Any]", data)


def _choices(value: Any) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(
        _is_letter(key) and isinstance(text, str) for key, text in value.items()
    ):
        raise ValueError("ground_truth.choices is not an object of capital letters to texts")
    return dict(value) or None


def _is_letter(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 1 and "A" <= value <= "Z"


def _answer(
    value: Any, question_type: str, choices: dict[str, str] | None
) -> str | tuple[str, ...]:
    if question_type == "closed":
        if value not in ("Yes", "No"):
            raise ValueError(f"ground_truth.answer is {value!r}, not Yes or No")
        return str(value)
    if question_type == "open":
        if not isinstance(value, str) or not value.strip():
            raise ValueError("ground_truth.answer of an open question is not a text")
        return value
    if question_type == "single":
        _check_letters([value], choices)
        return str(value)
    letters = list(value) if isinstance(value, list | tuple) else []
    if not letters:
        raise ValueError("ground_truth.answer of a multi question is not a list of letters")
    _check_letters(letters, choices)
    return tuple(sorted(set(letters)))


def _check_letters(letters: list[Any], choices: dict[str, str] | None) -> None:
    for letter in letters:
        if not _is_letter(letter) or (choices is not None and letter not in choices):
            among = f"one of {', '.join(choices)}" if choices else "a capital letter"
            raise ValueError(f"ground_truth.answer is {letter!r}, not {among}")


def _regions(value: Any, key: str) -> tuple[Region, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"ground_truth.{key} is not a list")
    regions = []
    for position, item in enumerate(value):
        where = f"ground_truth.{key}[{position}]"
        if not isinstance(item, Mapping) or not isinstance(item.get("ref", ""), str):
            raise ValueError(f"{where} is not an object with ref and box")
        box = _box(item.get("box"))
        if box is None:
            raise ValueError(f"{where}.box is not four finite numbers x1 < x2, y1 < y2")
        regions.append(Region(item.get("ref", ""), box))
    return tuple(regions)


def _box(value: Any) -> Box | None:
    if not isinstance(value, list | tuple) or not all(map(_is_number, value)):
        return None
    return to_box([float(number) for number in value])


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e12 and math.isfinite(value)


def _image_size(value: Any) -> tuple[int, int]:
    if (
        not isinstance(value, list | tuple)
        or len(value) != 2
        or not all(_is_number(side) and side > 0 and float(side).is_integer() for side in value)
    ):
        raise ValueError(f"ground_truth.image_size is {value!r}, not two whole numbers above 0")
    return (int(value[0]), int(value[1]))
