"""The whole reward: keys, weights, and what it makes of attempts to cheat."""

import itertools
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from reward.ground_truth import GroundTruth
from reward.settings import load_preset
from reward.thinkvg import SCORE_KEYS, compute_score

DENSE, PAPER = load_preset("dense"), load_preset("paper")
COMPONENTS = ("format", "answer", "grounding", "think_grounding", "alignment")
TRUTH: dict[str, Any] = {
    "question_type": "closed",
    "answer": "Yes",
    "choices": None,
    "regions": [{"ref": "left lung", "box": [60, 20, 90, 80]}],
    "think_regions": [{"ref": "left lung", "box": [60, 20, 90, 80]}],
    "image_size": [100, 100],
    "coordinates": "absolute",
}
THINK = "The left lung [60, 20, 90, 80] shows an opacity. So the answer is yes."
GIVEN = "<ref>left lung</ref><box>[60, 20, 90, 80]</box>"


def respond(think: str = THINK, answer: str = "Yes", location: str = GIVEN) -> str:
    return f"<think>{think}</think>\n<answer>{answer}</answer>\n<location>{location}</location>"


def dense(text: str, **changes: Any) -> dict[str, float]:
    return compute_score("thinkvg", text, json.dumps(TRUTH | changes), None, **DENSE)


def paper(text: str, **changes: Any) -> dict[str, float]:
    return compute_score("thinkvg", text, json.dumps(TRUTH | changes), None, **PAPER)


PERFECT = dense(respond())["score"]


class TestResult:
    def test_keys_are_the_documented_ones_in_order(self) -> None:
        assert (
            list(dense(""))
            == list(SCORE_KEYS)
            == [
                *("score", "format", "answer", "grounding", "think_grounding", "alignment"),
                *("mean_iou", "iou_50", "iou_75", "box_count_match", "n_boxes", "n_think_boxes"),
                *("judge_used", "judge_failed", "response_chars"),
            ]
        )

    @pytest.mark.parametrize("score", [dense, paper])
    def test_the_right_response_scores_1(self, score: Callable[..., dict[str, float]]) -> None:
        result = score(respond())
        for key in ("score", *COMPONENTS, "mean_iou", "iou_50", "iou_75", "box_count_match"):
            assert result[key] == 1
        assert (result["n_boxes"], result["n_think_boxes"]) == (1, 1)
        assert result["response_chars"] == len(respond())

    def test_nothing_scores_0(self) -> None:
        result = dense("")
        assert all(result[key] == 0 for key in ("score", *COMPONENTS, "mean_iou", "iou_50"))

    def test_score_is_the_weighted_mean_of_the_components(self) -> None:
        weights = {"format": 1, "answer": 2, "grounding": 3, "think_grounding": 4, "alignment": 5}
        result = compute_score(
            "thinkvg",
            respond(answer="No", location=""),
            TRUTH,
            None,
            **DENSE | {"weights": weights},
        )
        mean = sum(weight * result[key] for key, weight in weights.items()) / 15
        assert result["score"] == pytest.approx(mean)

    def test_components_without_weight_are_still_reported(self) -> None:
        assert PAPER["weights"]["format"] == 0
        assert paper("no form at all")["format"] == 0
        assert paper(respond())["format"] == 1

    def test_diagnostics_count_unmatched_boxes_as_0(self) -> None:
        result = dense(respond(location=GIVEN + "<ref>x</ref><box>[1, 1, 9, 9]</box>"))
        assert (result["mean_iou"], result["iou_50"], result["iou_75"]) == (0.5, 0.5, 0.5)
        assert (result["box_count_match"], result["n_boxes"]) == (0, 2)

    def test_a_reasoning_of_boxes_alone_earns_little(self) -> None:
        bare = dense(respond("a [60, 20, 90, 80]"))
        assert bare["think_grounding"] == pytest.approx(1 / 3)
        assert bare["alignment"] == pytest.approx(1 / 6)  # nor does it lead to the answer
        assert (bare["answer"], bare["grounding"], bare["format"]) == (1, 1, 1)

    def test_no_boxes_wanted_and_none_given_is_right(self) -> None:
        result = dense(
            respond("Clear: the answer is yes.", location=""), regions=[], think_regions=[]
        )
        assert (result["score"], result["mean_iou"], result["box_count_match"]) == (1, 1, 1)

    def test_ground_truth_as_object_or_string_is_the_same(self) -> None:
        assert compute_score("thinkvg", respond(), TRUTH, None, **DENSE) == dense(respond())

    def test_paper_is_all_or_nothing(self) -> None:
        off = respond(location="<ref>left lung</ref><box>[60, 20, 90, 60]</box>")
        assert paper(off)["grounding"] == 0
        assert 0.6 < dense(off)["grounding"] < 0.75
        multi = {
            "question_type": "multi",
            "answer": ["A", "B"],
            "choices": dict.fromkeys("ABCD", "x"),
        }
        assert paper(respond(answer="A"), **multi)["answer"] == 0
        assert dense(respond(answer="A"), **multi)["answer"] == 0.25
        opened = {"question_type": "open", "answer": "mild left pleural effusion"}
        assert paper(respond(answer="mild left effusion"), **opened)["answer"] == 1
        assert paper(respond(answer="left pleural effusion"), **opened)["answer"] == 0


class TestTags:
    def test_an_answer_in_the_reasoning_is_none(self) -> None:
        result = dense(f"<think>{THINK}<answer>Yes</answer></think><location>{GIVEN}</location>")
        assert (result["answer"], result["format"], result["alignment"]) == (0, 0, 0)

    def test_of_two_answers_the_first_counts_and_the_form_is_lost(self) -> None:
        text = respond() + "<answer>Yes</answer>"
        assert (dense(text)["answer"], dense(text)["format"]) == (1, 0)
        assert dense("<answer>No</answer>" + text)["answer"] == 0

    def test_hedging_is_wrong(self) -> None:
        for answer in ("Yes or No", "Yes. No.", "No, yes", "Yes/No"):
            assert dense(respond(answer=answer))["answer"] == 0


class TestSpam:
    def test_hundreds_of_boxes(self) -> None:
        spam = "".join(
            f"<ref>x</ref><box>[{i % 90}, 5, {i % 90 + 9}, 50]</box>" for i in range(600)
        )
        result = dense(respond(location=GIVEN + spam))
        assert result["n_boxes"] == 601
        assert result["grounding"] < 0.01

    def test_the_same_box_again_and_again(self) -> None:
        scores = [dense(respond(location=GIVEN * n))["score"] for n in (1, 2, 3, 10)]
        assert all(a > b + 0.02 for a, b in itertools.pairwise(scores))

    def test_citing_everything_in_the_reasoning(self) -> None:
        spam = THINK + " ".join(f"[{x}, {x}, {x + 9}, {x + 9}]" for x in range(80))
        assert dense(respond(spam))["score"] < PERFECT - 0.1

    def test_the_whole_image(self) -> None:
        full = "[0, 0, 100, 100]"
        result = dense(respond(f"lungs {full}", location=f"<ref>lungs</ref><box>{full}</box>"))
        assert result["grounding"] < 0.01
        assert result["think_grounding"] < 0.01


class TestNumbers:
    @pytest.mark.parametrize(
        "box",
        [
            "[nan, 20, 90, 80]",
            "[60, 20, inf, 80]",
            "[60, 20, 1e400, 80]",
            "[90, 80, 60, 20]",  # swapped corners
            "[60, 20, 60, 80]",  # no area
            "[60, 20, 90]",
            "[600, 200, 900, 800]",  # 0 to 1000 instead of pixels
            "[0.6, 0.2, 0.9, 0.8]",  # 0 to 1 instead of pixels
            "[-1e308, -1e308, 1e308, 1e308]",
            "left lung",
        ],
    )
    def test_a_box_that_is_none_or_in_another_space_earns_nothing(self, box: str) -> None:
        result = dense(respond(location=f"<ref>left lung</ref><box>{box}</box>"))
        assert result["n_boxes"] == 1
        assert result["grounding"] <= 0.1
        assert all(math.isfinite(value) for value in result.values())

    def test_coordinates_of_0_to_1000(self) -> None:
        boxes = [{"ref": "left lung", "box": [600, 200, 900, 800]}]
        changes = {"coordinates": "norm1000", "regions": boxes, "think_regions": boxes}
        box = "[600, 200, 900, 800]"
        text = respond(
            f"The left lung {box} is clear. The answer is yes.",
            location=f"<ref>left lung</ref><box>{box}</box>",
        )
        assert dense(text, **changes)["score"] == 1


PIECES = st.sampled_from(
    [
        *("<think>", "</think>", "<answer>", "</answer>", "<location>", "</location>", "<ref>"),
        *("</ref>", "<box>", "</box>", "[60, 20, 90, 80]", "[", "]", "(1,2),", "1e400", "nan"),
        *("Yes", "No", "A, C", "B: ", "the answer is ", "therefore, ", "left effusion", "\ud800"),
    ]
)
KINDS: list[dict[str, Any]] = [
    {},
    {"question_type": "single", "answer": "B", "choices": {"A": "Normal", "B": "Effusion"}},
    {"question_type": "multi", "answer": ["A", "C"], "choices": None},
    {"question_type": "open", "answer": "No left effusion.", "regions": []},
]


@given(
    st.lists(st.one_of(PIECES, st.text(max_size=10)), max_size=30).map("".join),
    st.sampled_from(KINDS),
    st.sampled_from([dense, paper]),
)
def test_any_text_gives_every_key_a_finite_number(
    text: str, kind: dict[str, Any], score: Callable[..., dict[str, float]]
) -> None:
    result = score(text, **kind)
    assert tuple(result) == SCORE_KEYS
    assert all(type(value) is float and math.isfinite(value) for value in result.values())
    assert all(0 <= result[key] <= 1 for key in ("score", *COMPONENTS, "mean_iou", "iou_50"))


@pytest.mark.parametrize(
    "piece",
    [
        "<think>",
        "[",
        "[1,2,3,4]",
        "<box>[1,2,3,4]</box>",
        "the answer is ",
        "so, ",
        "or ",
        "9",
        " ",
    ],
)
def test_long_adversarial_text_completes(piece: str) -> None:
    start = time.process_time()
    for prefix in ("", "<think>", "<answer>", "<think>x</think><answer>Yes</answer><location>"):
        dense(prefix + piece * (100_000 // len(piece)))
    assert time.process_time() - start < 5


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"sharpness": 3}, "sharpness"),
            ({"weights": {"beauty": 1}}, "beauty"),
            ({"weights": {"answer": -1}}, "weights.answer"),
            ({"weights": {"answer": float("nan")}}, "weights.answer"),
            ({"weights": {"answer": 0}}, "all 0"),
            ({"weights": 3}, "weights"),
            ({"weights": None}, "weights"),
            ({"grounding_rule": "soft"}, "grounding_rule"),
            ({"answer_rule": ["dense"]}, "answer_rule"),
            ({"open_threshold": 75}, "open_threshold"),
        ],
    )
    def test_a_wrong_setting_is_named(self, changes: dict[str, Any], named: str) -> None:
        with pytest.raises(ValueError, match=named):
            compute_score("thinkvg", "", TRUTH, None, **DENSE | changes)

    def test_settings_may_come_from_hydra(self) -> None:
        weights = OmegaConf.create(DENSE["weights"])  # how the engine hands them over
        kwargs = DENSE | {"weights": weights}
        assert compute_score("thinkvg", respond(), TRUTH, None, **kwargs)["score"] == 1

    def test_a_wrong_ground_truth_is_named(self) -> None:
        with pytest.raises(ValueError, match="image_size"):
            dense("", image_size=[0, 0])


def test_scoring_needs_neither_the_engine_nor_torch() -> None:
    code = (
        "import sys, reward.__main__, reward.thinkvg; "
        "print([name for name in ('torch', 'verl', 'ray', 'hydra') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ground_truth_fixture_and_json_agree(make_truth: Callable[..., GroundTruth]) -> None:
    truth = make_truth([(60, 20, 90, 80)])
    result = compute_score("thinkvg", respond(), truth.to_json(), None, **DENSE)
    assert result["score"] == 1
