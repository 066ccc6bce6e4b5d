"""Metrics of external sets, against independent code and worked examples."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco
from sklearn.metrics import balanced_accuracy_score, f1_score

from recipe.evaluate.controls import IMAGE_CONTROLS, MAJORITY, PRIOR_NAMED, PRIOR_TOLD
from recipe.evaluate.metrics import estimates
from recipe.evaluate.predictions import Prediction, Question, score_predictions
from recipe.evaluate.results import Evaluated, results
from recipe.evaluate.sets import (
    DERIVED,
    SECOND_READER,
    answer_metrics,
    average_precision,
    box_metrics,
    token_recall,
    union_iou,
)
from recipe.evaluate.tables import page
from reward.ground_truth import GroundTruth

SIDE = 40
WHOLE = st.integers(0, SIDE - 1)


def corners(left: int, top: int, right: int, bottom: int) -> tuple[float, float, float, float]:
    """A box of whole pixels with area, from four numbers below `SIDE`."""
    x1, x2 = sorted((left, right))
    y1, y2 = sorted((top, bottom))
    return (float(x1), float(y1), float(x2 + 1), float(y2 + 1))


BOXES = st.lists(st.builds(corners, WHOLE, WHOLE, WHOLE, WHOLE), max_size=6)


def raster(boxes: list[tuple[float, ...]]) -> np.ndarray:
    grid = np.zeros((SIDE, SIDE), dtype=np.uint8, order="F")
    for x1, y1, x2, y2 in boxes:
        grid[int(y1) : int(y2), int(x1) : int(x2)] = 1
    return grid


def sum_of_interpolated_precisions(
    predicted: list[tuple[float, ...]], reference: list[tuple[float, ...]]
) -> float:
    """AP another way: each true box found adds the best precision at its rank or later.

    The IoUs are pycocotools'. Of equal IoUs the first counts, as in numpy's argmax.
    """
    if not predicted or not reference:
        return 0.0
    as_coco = [
        np.array([[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in boxes])
        for boxes in (predicted, reference)
    ]
    ious = coco.iou(*as_coco, [0] * len(reference))
    found: list[int] = []
    ranks = []
    for rank, row in enumerate(ious, 1):
        best = max(range(len(row)), key=lambda column: (row[column], -column))
        if row[best] >= 0.5 and best not in found:
            found.append(best)
            ranks.append(rank)
    precisions = {rank: number / rank for number, rank in enumerate(ranks, 1)}
    return sum(max(precisions[r] for r in ranks if r >= rank) for rank in ranks) / len(reference)


@given(BOXES, BOXES)
def test_ap_against_independent_code(predicted: list[Any], reference: list[Any]) -> None:
    expected = sum_of_interpolated_precisions(predicted, reference)
    assert average_precision(predicted, reference) == pytest.approx(expected)


def test_ap_where_boxes_are_found() -> None:
    """Random boxes rarely agree: here each predicted one is a true one, moved a little."""
    generator = random.Random(0)
    values = []
    for _ in range(500):
        reference = [corners(*(generator.randrange(SIDE) for _ in range(4))) for _ in range(3)]
        predicted = [
            tuple(max(0.0, side + generator.randint(-3, 3)) for side in generator.choice(reference))
            for _ in range(4)
        ]
        predicted = [box for box in predicted if box[0] < box[2] and box[1] < box[3]]
        value = average_precision(predicted, reference)
        assert value == pytest.approx(sum_of_interpolated_precisions(predicted, reference))
        values.append(value)
    assert len({round(value, 3) for value in values}) > 8


A, B, FAR = (0, 0, 10, 10), (20, 20, 30, 30), (35, 35, 39, 39)


@pytest.mark.parametrize(
    ("predicted", "reference", "expected"),
    [
        ([A], [A], 1.0),
        ([], [A], 0.0),
        ([A], [], 0.0),
        ([A, FAR, B], [A, B], 0.5 * 1 + 0.5 * 2 / 3),
        ([FAR, A], [A], 0.5),  # the order counts
        ([A, FAR], [A], 1.0),
        ([A, A, B], [A, B], 0.5 * 1 + 0.5 * 2 / 3),  # the second on one true box is no hit
        ([(0, 0, 10, 5)], [A], 1.0),  # an IoU of exactly 0.5
        ([(0, 0, 10, 4.9)], [A], 0.0),
        ([None, A], [A], 0.5),  # a box without area is a wrong one
    ],
)
def test_ap_of_worked_examples(predicted: Any, reference: Any, expected: float) -> None:
    assert average_precision(predicted, reference) == pytest.approx(expected)


@given(BOXES, BOXES)
def test_union_iou_against_rasters(predicted: list[Any], reference: list[Any]) -> None:
    masks = [coco.encode(raster(boxes)) for boxes in (predicted, reference)]
    either = coco.area(coco.merge(masks))
    expected = coco.area(coco.merge(masks, intersect=True)) / either if either else 0.0
    assert union_iou(predicted, reference) == pytest.approx(float(expected))


def test_union_iou_sees_areas_not_boxes() -> None:
    halves = [(0, 0, 5, 10), (5, 0, 10, 10)]
    assert union_iou(halves, [A]) == 1.0
    assert union_iou([A, A, (2, 2, 4, 4)], [A]) == 1.0
    assert union_iou([None], [A]) == 0.0
    assert union_iou([A], [B]) == 0.0


@given(BOXES, BOXES.filter(lambda boxes: len(boxes) == 1))
def test_single_box_against_pycocotools(predicted: list[Any], reference: list[Any]) -> None:
    values = box_metrics(predicted, reference)
    expected = 0.0
    if predicted:
        x1, y1, x2, y2 = predicted[0]
        u1, v1, u2, v2 = reference[0]
        first = np.array([[x1, y1, x2 - x1, y2 - y1]])
        expected = coco.iou(first, np.array([[u1, v1, u2 - u1, v2 - v1]]), [0])[0, 0]
    assert values["single_iou"] == pytest.approx(expected)
    assert values["single_50"] == float(expected > 0.5)


def test_phrases_of_several_boxes_have_no_single_box() -> None:
    assert box_metrics([A], [A, B]).keys() == {"ap_50", "union_iou"}


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("air under the diaphragm", "Air under diaphragm.", 1.0),
        ("the left lung", "left upper lung", 2 / 3),
        ("three", "3", 1.0),
        ("", "lung", 0.0),
        ("lung", "", 0.0),
        ("heart", "lung", 0.0),
        # As published, a shared word counts as often as the answer has it.
        ("lung lung lung", "left lung", 3 / 4),
        ("it isn't", "isn't", 1.0),
    ],
)
def test_token_recall(answer: str, reference: str, expected: float) -> None:
    assert token_recall(answer, reference) == pytest.approx(expected)


def closed(answer: str) -> GroundTruth:
    return GroundTruth(
        question_type="closed",
        answer=answer,
        regions=(),
        think_regions=(),
        image_size=(100, 100),
        coordinates="absolute",
    )


def test_balanced_accuracy_and_f1_against_scikit_learn() -> None:
    generator = random.Random(3)
    truths = ["Yes" if generator.random() < 0.2 else "No" for _ in range(300)]
    answers = [generator.choice(["Yes", "No", "No.", "It may be so", ""]) for _ in truths]
    rows = [
        answer_metrics(answer, closed(truth), "CLOSED")
        for answer, truth in zip(answers, truths, strict=True)
    ]
    values = estimates(pd.DataFrame(rows), [str(i // 3) for i in range(300)], derived=DERIVED)
    # An answer that is neither counts as wrong, but not as a yes: for F1 it is a no.
    wrong = {"Yes": "No", "No": "Yes"}
    read = [answer.rstrip(".") for answer in answers]
    balanced = [a if a in wrong else wrong[t] for a, t in zip(read, truths, strict=True)]
    said_yes = [a if a in wrong else "No" for a in read]
    assert values["balanced"]["mean"] == pytest.approx(balanced_accuracy_score(truths, balanced))
    f1 = f1_score(truths, said_yes, pos_label="Yes")
    assert values["f1_yes"]["mean"] == pytest.approx(f1)
    low, high = values["f1_yes"]["ci95"]
    assert low < f1 < high


def test_a_published_closed_question_without_options_is_decided_by_its_text() -> None:
    truth = closed("Yes").model_copy(update={"question_type": "open", "answer": "left"})
    assert answer_metrics("Left", truth, "CLOSED") == {"accuracy": 1.0}
    assert answer_metrics("Right", truth, "CLOSED") == {"accuracy": 0.0}
    assert answer_metrics("Left", truth, "OPEN").keys() == {"token_recall", "text_score"}
    assert answer_metrics(None, truth, "OPEN")["token_recall"] == 0


@pytest.fixture
def predict(make_truth: Callable[..., dict[str, Any]]) -> Callable[..., Prediction]:
    """A prediction of a set: the left half is true; `boxes` are those of the answer."""

    def make(index: int, response: str, truth: dict[str, Any], **info: Any) -> Prediction:
        about = {"question": "?", "patient": f"p{index // 2}", "answer_type": "", **info}
        return Prediction(f"{index}", index, 0, response, truth, about)

    return make


def answered(answer: str, *boxes: list[int]) -> str:
    located = "".join(f"<ref>finding</ref><box>{box}</box>" for box in boxes)
    return f"<think>x</think>\n<answer>{answer}</answer>\n<location>{located}</location>"


@pytest.fixture
def mixed(predict: Any, make_truth: Any) -> list[Prediction]:
    """Four questions of three sets, and one of ThinkVG."""
    where = make_truth("open", "left opacity")
    ask = {"regions": [], "think_regions": []}
    left, right = [0, 0, 50, 100], [50, 0, 100, 100]
    read = {"original_size": [200, 200], "original_boxes": [[0, 0, 100, 200]]}
    return [
        predict(0, answered("x", left), where, set="ms_cxr", scored="boxes"),
        predict(2, answered("x", right), where, set="ms_cxr", scored="boxes",
                second_reader=[[0, 0, 100, 100]], **read),
        predict(4, answered("Yes"), make_truth("closed", "No", **ask), set="slake",
                scored="answer", answer_type="CLOSED"),
        predict(6, answered("lung", left), make_truth("open", "left lung", **ask), set="vqa_rad",
                scored="answer", answer_type="OPEN"),
        predict(8, answered("Yes", left), make_truth()),
    ]  # fmt: skip


def test_sets_are_reported_beside_everything_else(
    mixed: list[Prediction], make_truth: Any, tmp_path: Path
) -> None:
    train = [Question(99, GroundTruth.parse(make_truth())), Question(98, mixed[3].truth)]
    scored = score_predictions(mixed)
    entry = results(
        Evaluated(scored, controls={"blank": scored}, beside={"untrained": scored}), train
    )
    sets = entry["sets"]
    assert list(sets) == ["ms_cxr", "slake", "vqa_rad"]
    rows = sets["ms_cxr"]["rows"]
    assert rows["model"]["ap_50"]["mean"] == 0.5
    assert rows["model"]["single_50"]["mean"] == 0.5
    assert "accuracy" not in rows["model"]  # its answer is no truth
    assert rows[SECOND_READER]["union_iou"] == {"mean": 0.5, "ci95": None}
    # Training has one box, the left half, so the prior is right everywhere.
    assert rows[PRIOR_TOLD]["ap_50"]["mean"] == rows[PRIOR_NAMED]["ap_50"]["mean"] == 1
    assert MAJORITY not in rows
    assert {IMAGE_CONTROLS["blank"], "untrained"} <= rows.keys()
    assert sets["ms_cxr"]["less"][PRIOR_TOLD]["ap_50"]["mean"] == -0.5
    assert sets["slake"]["rows"]["model"]["accuracy"]["mean"] == 0
    assert sets["slake"]["rows"][MAJORITY]["accuracy"]["mean"] == 0  # in training it is yes
    assert sets["vqa_rad"]["rows"]["model"]["token_recall"]["mean"] == 0.5
    assert sets["vqa_rad"]["rows"][MAJORITY]["token_recall"]["mean"] == 1
    # The project's own metrics leave out what has no truth: 3 answers and 3 questions on boxes.
    assert entry["overall"]["a_score"] == pytest.approx(1 / 3)
    assert entry["overall"]["v_score"] == pytest.approx(2 / 3)
    text = page({"model": "m", "split": "s", "preset": "dense", **entry})
    assert "## Set ms_cxr" in text
    assert "| second reader |" in text
    json.dumps(entry, allow_nan=False)


def test_a_set_without_answers_or_without_boxes(mixed: list[Prediction], make_truth: Any) -> None:
    train = [Question(99, GroundTruth.parse(make_truth()))]
    for part, missing in ((mixed[:2], "a_score"), (mixed[2:4], "v_score")):
        scored = score_predictions(part)
        entry = results(Evaluated(scored, sampled=scored, controls={"blank": scored}), train)
        assert entry["overall"][missing] is None
        json.dumps(entry, allow_nan=False)
        text = page({"model": "m", "split": "s", "preset": "dense", **entry})
        title = "A-score" if missing == "a_score" else "V-score"
        assert f"{title}: no question has a truth for it." in text


def test_predictions_of_thinkvg_have_no_sets(mixed: list[Prediction], make_truth: Any) -> None:
    train = [Question(99, GroundTruth.parse(make_truth()))]
    assert results(Evaluated(score_predictions(mixed[4:])), train)["sets"] == {}
