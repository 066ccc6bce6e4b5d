"""A-score, V-score and intervals against scikit-learn, pycocotools and scipy."""

import json
import random

import numpy as np
import pandas as pd
import pytest
from pycocotools import mask
from scipy import stats
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import MultiLabelBinarizer

from recipe.evaluate.metrics import estimates, metrics_table, paired, question_values
from recipe.evaluate.predictions import Prediction, score_predictions

SIZE = (140, 98)
LETTERS = "ABCD"


def random_box(draw):
    x1, y1 = draw.randint(0, SIZE[0] - 20), draw.randint(0, SIZE[1] - 20)
    return [x1, y1, draw.randint(x1 + 5, SIZE[0]), draw.randint(y1 + 5, SIZE[1])]


def random_prediction(number, draw):
    """A response with a random answer and random boxes, and what it should be scored against."""
    kind = draw.choice(("closed", "single", "multi"))
    pick = {
        "closed": lambda: draw.choice(("Yes", "No")),
        "single": lambda: draw.choice(LETTERS),
        "multi": lambda: sorted(draw.sample(LETTERS, draw.randint(1, 4))),
    }[kind]
    wanted, given = pick(), pick()
    reference = [random_box(draw) for _ in range(draw.randint(1, 4))]
    # Some boxes near the true ones, so that all IoUs occur.
    predicted = [
        random_box(draw)
        if draw.random() < 0.4
        else [box[0], box[1], box[2], min(SIZE[1], box[3] + 9)]
        for box in draw.sample(reference, draw.randint(0, len(reference)))
    ] + [random_box(draw) for _ in range(draw.randint(0, 2))]
    boxes = "".join(f"<ref>lung</ref><box>{box}</box>" for box in predicted)
    answer = given if isinstance(given, str) else ", ".join(given)
    truth = {
        "question_type": kind,
        "answer": wanted,
        "choices": None if kind == "closed" else dict.fromkeys(LETTERS, "opacity"),
        "regions": [{"ref": "lung", "box": box} for box in reference],
        "think_regions": [],
        "image_size": list(SIZE),
        "coordinates": "absolute",
    }
    truth["choices"] = truth["choices"] and {k: f"finding {k}" for k in LETTERS}
    response = f"<think>t</think><answer>{answer}</answer><location>{boxes}</location>"
    info = {"patient": f"p{draw.randint(0, 24)}"}
    prediction = Prediction(str(number), number, 0, response, truth, info)
    return prediction, given, predicted


@pytest.fixture(scope="module")
def cases():
    draw = random.Random(4)
    found = [random_prediction(number, draw) for number in range(300)]
    scored = score_predictions([prediction for prediction, _, _ in found])
    return [(new, given, boxes) for new, (_, given, boxes) in zip(scored, found, strict=True)]


@pytest.mark.parametrize("kind", ["closed", "single", "multi"])
def test_the_a_score_is_scikit_learns_accuracy(cases, kind):
    chosen = [(p, given) for p, given, _ in cases if p.question_type == kind]
    wanted = [p.ground_truth["answer"] for p, _ in chosen]
    given = [given for _, given in chosen]
    if kind == "multi":
        sets = MultiLabelBinarizer(classes=list(LETTERS))
        wanted, given = sets.fit_transform(wanted), sets.fit_transform(given)
    table = metrics_table([p for p, _, _ in cases])
    assert table.loc[kind, "a_score"] == pytest.approx(accuracy_score(wanted, given))


def coco_ious(predicted, reference):
    """IoUs of one question, by pycocotools, matched by scipy; unmatched boxes have 0."""
    as_coco = [
        np.array([[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in boxes], dtype=float)
        for boxes in (predicted, reference)
    ]
    total = max(len(predicted), len(reference))
    if not predicted:
        return [0.0] * total
    ious = mask.iou(as_coco[0], as_coco[1], np.zeros(len(reference), dtype=np.uint8))
    matched = ious[linear_sum_assignment(ious, maximize=True)].tolist()
    return matched + [0.0] * (total - len(matched))


def test_the_v_score_is_that_of_pycocotools(cases):
    each = [
        coco_ious(boxes, [r["box"] for r in p.ground_truth["regions"]]) for p, _, boxes in cases
    ]
    table = metrics_table([p for p, _, _ in cases]).loc["overall"]
    assert table["v_score"] == pytest.approx(np.mean([np.mean(ious) for ious in each]))
    for metric, threshold in (("iou_50", 0.5), ("iou_75", 0.75)):
        shares = [np.mean(np.array(ious) > threshold + 1e-9) for ious in each]
        assert table[metric] == pytest.approx(np.mean(shares))


def scipy_interval(values, patients):
    """Percentile interval of the mean over questions, patients resampled, by scipy."""
    frame = pd.DataFrame({"value": list(values), "patient": list(patients)})
    groups = frame.groupby("patient")["value"]
    found = stats.bootstrap(
        (groups.sum().to_numpy(), groups.count().to_numpy().astype(float)),
        lambda sums, counts, axis: sums.sum(axis=axis) / counts.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=40_000,
        method="percentile",
        rng=np.random.default_rng(99),
    )
    return list(found.confidence_interval)


def test_intervals_over_patients_are_scipys(cases):
    values = question_values([p for p, _, _ in cases])
    found = estimates(values[["a_score", "v_score"]], values["patient"], resamples=40_000)
    for metric in ("a_score", "v_score"):
        assert found[metric]["mean"] == pytest.approx(values[metric].mean())
        expected = scipy_interval(values[metric], values["patient"])
        assert found[metric]["ci95"] == pytest.approx(expected, abs=2e-3)


def test_paired_intervals_are_scipys(cases):
    before = question_values([p for p, _, _ in cases])
    after = before.copy()
    draw = np.random.default_rng(1)
    after["v_score"] = np.clip(before["v_score"] + draw.normal(0.05, 0.2, len(before)), 0, 1)
    found = paired(before, after.sample(frac=1, random_state=3), resamples=40_000)["v_score"]
    difference = after["v_score"] - before["v_score"]
    assert found["mean"] == pytest.approx(difference.mean())
    expected = scipy_interval(difference, before["patient"])
    assert found["ci95"] == pytest.approx(expected, abs=2e-3)


def test_patients_with_many_alike_questions_make_an_interval_wider():
    # 10 patients with 20 questions each, all of a patient right or all wrong.
    right = np.repeat([1.0, 0.0] * 5, 20)
    values = pd.DataFrame({"a_score": right})
    clustered = estimates(values, [f"p{i // 20}" for i in range(200)])["a_score"]["ci95"]
    alone = estimates(values, [f"q{i}" for i in range(200)])["a_score"]["ci95"]
    assert clustered[1] - clustered[0] > 3 * (alone[1] - alone[0])


def test_estimates_survive_json(cases):
    values = question_values([p for p, _, _ in cases][:5])
    assert json.dumps(estimates(values[["a_score"]], ["one"] * 5))
    assert estimates(values[["a_score"]], ["one"] * 5)["a_score"]["ci95"] is None
    # A metric that no row has is left out; one that some lack is the mean of the others.
    some = pd.DataFrame({"none": [float("nan")] * 4, "ar": [1.0, 0.0, float("nan"), float("nan")]})
    found = estimates(some, ["a", "b", "c", "c"])
    assert list(found) == ["ar"]
    assert found["ar"] == {"mean": 0.5, "ci95": [0.0, 1.0]}
