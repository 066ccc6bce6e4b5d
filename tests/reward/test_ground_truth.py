"""The reference of a question: reading, writing, coordinates."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from reward.ground_truth import GroundTruth, normalise

PLAIN: dict[str, Any] = {
    "question_type": "multi",
    "answer": ["A", "C"],
    "choices": {"A": "Normal", "B": "Mass", "C": "Edema"},
    "regions": [{"ref": "left lung", "box": [1, 2, 30, 40.5]}],
    "think_regions": [],
    "image_size": [200, 100],
    "coordinates": "absolute",
}


def test_json_goes_round() -> None:
    truth = GroundTruth.parse(PLAIN)
    assert truth.answer == ("A", "C")
    assert json.loads(truth.to_json()) == PLAIN
    assert GroundTruth.parse(truth.to_json()) == truth


def test_json_is_spelt_as_the_library_spells_it() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"question_type": "open", "answer": 'a "quoted" é\n\\ {x}', "choices": None},
        {"question_type": "single", "answer": "B"},
        {"regions": [{"ref": 'le"ft', "box": [0, 2, 30, 1000000]}] * 2, "coordinates": "norm1000"},
        {"think_regions": [{"ref": "", "box": [1e-7, 2.25, 30, 40]}]},
    ]
    for change in changes:
        expected = json.dumps(PLAIN | change, ensure_ascii=False)
        assert GroundTruth.parse(PLAIN | change).to_json() == expected


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"question_type": "essay"}, r"ground_truth\.question_type: .*, not 'essay'"),
        ({"answer": []}, "list of letters"),
        ({"answer": ["A", "Z"]}, "'Z'"),
        ({"answer": "A"}, "list of letters"),
        ({"question_type": "single", "answer": "Z"}, "'Z'"),
        ({"question_type": "single", "answer": ["A"]}, "answer"),
        ({"question_type": "closed", "answer": "yes"}, "'yes', not one of Yes, No"),
        ({"question_type": "open", "answer": " "}, "open question"),
        ({"choices": {"1": "a"}}, r"ground_truth\.choices\.1: "),
        ({"choices": ["a"]}, r"ground_truth\.choices: "),
        ({"regions": None}, r"ground_truth\.regions: "),
        ({"regions": [[1, 2, 3, 4]]}, r"regions\[0\]"),
        ({"regions": [{"ref": "a", "box": [1, 2, 3]}]}, r"ground_truth lacks regions\[0\]\.box"),
        ({"regions": [{"ref": "a", "box": [3, 2, 1, 4]}]}, r"ground_truth\.regions\[0\]: box"),
        (
            {"think_regions": [{"ref": "a", "box": [1, 2, None, 4]}]},
            r"\.think_regions\[0\]\.box",
        ),
        ({"regions": [{"ref": "a", "box": [300, 2, 400, 4]}]}, "outside the image"),
        ({"image_size": [0, 5]}, "image_size"),
        ({"image_size": [5]}, "image_size"),
        ({"coordinates": "percent"}, "coordinates"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as error:
        GroundTruth.parse(PLAIN | changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["", "{", "[]", "3", "[" * 100_000])
def test_what_is_no_object_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="ground_truth"):
        GroundTruth.parse(source)


def test_missing_keys_are_named() -> None:
    with pytest.raises(ValueError, match=r"ground_truth lacks answer, regions$"):
        GroundTruth.parse({k: v for k, v in PLAIN.items() if k not in ("answer", "regions")})


def test_choices_may_be_absent() -> None:
    data = {k: v for k, v in PLAIN.items() if k != "choices"}
    assert GroundTruth.parse(data).choices is None


def test_boxes_are_divided_by_the_frame_and_clipped(make_truth: Callable[..., GroundTruth]) -> None:
    absolute = make_truth(image_size=[200, 100])
    thousand = make_truth(image_size=[200, 100], coordinates="norm1000")
    assert normalise((-20, 10, 100, 150), absolute) == (0, 0.1, 0.5, 1)
    assert normalise((-20, 100, 500, 1500), thousand) == (0, 0.1, 0.5, 1)
