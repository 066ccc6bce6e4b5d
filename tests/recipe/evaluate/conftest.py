"""Small questions, responses and parquet files whose scores can be worked out by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipe.evaluate.predictions import Prediction

TRUE_BOX = [0, 0, 50, 100]  # the left half of a 100 x 100 image


@pytest.fixture
def make_truth() -> Callable[..., dict[str, Any]]:
    """A ground truth: closed, answer Yes, the left half, unless told otherwise."""

    def make(question_type: str = "closed", answer: Any = "Yes", **changes: Any) -> dict[str, Any]:
        letters = question_type in ("single", "multi")
        regions = [{"ref": "left lung", "box": TRUE_BOX}]
        return {
            "question_type": question_type,
            "answer": answer,
            "choices": {"A": "opacity", "B": "effusion", "C": "device"} if letters else None,
            "regions": regions,
            "think_regions": regions,
            "image_size": [100, 100],
            "coordinates": "absolute",
        } | changes

    return make


@pytest.fixture
def make_prediction(make_truth: Callable[..., dict[str, Any]]) -> Callable[..., Prediction]:
    """An unscored prediction; `height` of its box over the true one's 100 is its IoU."""

    def make(
        index: int,
        answer: str = "Yes",
        height: int = 100,
        sample: int = 0,
        question_type: str = "closed",
        true_answer: Any = "Yes",
    ) -> Prediction:
        box = [0, 0, 50, height]
        response = (
            f"<think>the left lung {box} is seen</think>\n<answer>{answer}</answer>\n"
            f"<location><ref>left lung</ref><box>{box}</box></location>"
        )
        return Prediction(
            f"q{index}",
            index,
            sample,
            response,
            make_truth(question_type, true_answer),
            {"question": "?"},
        )

    return make


@pytest.fixture
def write_parquet(tmp_path: Path) -> Callable[..., Path]:
    """Write ground truths as rollout parquet; `extra_info.index` counts from 0."""

    def write(name: str, truths: list[dict[str, Any]]) -> Path:
        rows = [
            {
                "reward_model": {"style": "rule", "ground_truth": json.dumps(truth)},
                "extra_info": {"index": index, "patient": f"p9000000{index}"},
                "images": [{"image": f"{index}.jpg", "min_pixels": 1, "max_pixels": 2}],
            }
            for index, truth in enumerate(truths)
        ]
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path

    return write
