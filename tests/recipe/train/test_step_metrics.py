"""Metrics and pictures of a training step, from known rollouts."""

import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from recipe.train.metrics import (
    ANSWER,
    BINS,
    REFERENCE,
    Sample,
    component_metrics,
    draw,
    histograms,
    length_metrics,
    numbers,
    reasonings,
    type_metrics,
)
from reward.ground_truth import GroundTruth
from reward.settings import COMPONENTS
from reward.thinkvg import SCORE_KEYS


def row(score: float) -> dict[str, float]:
    return {**dict.fromkeys(SCORE_KEYS, 0.0), "score": score, "answer": score}


ROWS = [row(0.0), row(1.0), row(0.5)]
TYPES = ["closed", "closed", "open"]


def test_each_type_has_its_own_mean_and_spread() -> None:
    metrics = type_metrics(ROWS, TYPES)
    assert metrics["by_type/closed/score/mean"] == 0.5
    assert metrics["by_type/closed/score/std"] == 0.5
    assert metrics["by_type/open/score/mean"] == 0.5
    assert metrics["by_type/open/score/std"] == 0.0
    assert metrics["by_type/closed/share"] == pytest.approx(2 / 3)


def test_a_type_without_rollouts_has_no_values() -> None:
    metrics = type_metrics(ROWS, TYPES)
    assert metrics["by_type/multi/share"] == 0.0
    assert not any(name.startswith("by_type/multi/score") for name in metrics)
    assert all(math.isfinite(value) for value in metrics.values())


def test_histograms_count_every_rollout() -> None:
    found = histograms(ROWS, TYPES)
    for name in ("score", *COMPONENTS):
        counts, edges = found[f"histogram/{name}"]
        assert counts.sum() == len(ROWS)
        assert len(edges) == BINS + 1
    counts, _ = found["histogram/closed/score"]
    assert counts[0] == counts[-1] == 1
    assert "histogram/multi/score" not in found


def test_reasonings_are_what_stands_in_think() -> None:
    texts = ["<think>clear lungs</think><answer>Yes</answer>", "<answer>Yes</answer>", ""]
    assert reasonings(texts) == ["clear lungs", "", ""]
    assert length_metrics([4, 0, 0]) == {
        "reasoning_length/mean": pytest.approx(4 / 3),
        "reasoning_length/std": pytest.approx(np.std([4, 0, 0])),
        "reasoning_length/max": 4.0,
        "reasoning_length/none": pytest.approx(2 / 3),
    }


def test_boxes_are_drawn_where_they_are(tmp_path) -> None:
    Image.new("RGB", (200, 100)).save(tmp_path / "black.png")
    truth = GroundTruth.parse(
        {
            "question_type": "closed",
            "answer": "Yes",
            "regions": [{"ref": "left lung", "box": [28, 28, 56, 56]}],
            "think_regions": [],
            "image_size": [112, 112],
            "coordinates": "absolute",
        }
    )
    response = (
        "<answer>Yes</answer><location><ref>left lung</ref><box>[56, 56, 84, 84]</box></location>"
    )
    sample = Sample(str(tmp_path / "black.png"), "?", response, truth, 0.5)
    picture = draw(sample)
    assert picture.size == (200, 100)
    wanted = tuple(bytes.fromhex(REFERENCE[1:]))
    given = tuple(bytes.fromhex(ANSWER[1:]))
    assert picture.getpixel((50, 40)) == wanted  # a quarter of the width, on the left edge
    assert picture.getpixel((150, 60)) == given  # three quarters, on the right edge
    assert picture.getpixel((75, 37)) == (0, 0, 0)  # inside
    assert picture.getpixel((10, 10)) == (0, 0, 0)


@pytest.mark.parametrize(
    "given",
    [{"acc": -2.5}, {"score": -2.5, "note": "too short", "bleu": 0.5}],
    ids=["a number", "other components"],
)
def test_another_reward_function_has_the_metrics_that_there_are(given: dict[str, Any]) -> None:
    rows = [numbers(given)] * 3
    assert component_metrics(rows)["reward/score/mean"] == -2.5
    assert "reward/note/mean" not in component_metrics(rows)
    metrics = type_metrics(rows, TYPES)
    assert metrics["by_type/closed/score/mean"] == -2.5
    assert "by_type/closed/answer/mean" not in metrics
    counted = histograms(rows, TYPES)
    assert set(counted) == {f"histogram/{name}" for name in ("score", "closed/score", "open/score")}
    assert counted["histogram/score"][0][0] == 3
