"""A small run folder with real files: images, parquet, predictions, logs, summary."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.program import encode_metadata
from recipe.evaluate.predictions import (
    Prediction,
    read_questions,
    score_predictions,
    write_predictions,
)
from recipe.evaluate.results import Evaluated, build_summary, results, write_summary

KINDS = {"closed": "Yes", "single": "B", "multi": ["A", "C"], "open": "There is an opacity."}
PATIENTS = 123_456_780
"""The first patient's number, of nine digits as a hospital may have them."""
SCRIPT = "<script>alert('x')</script>"
RUN = {
    "seed": 1,
    "versions": {"verl": "0.9.1"},
    "wall_seconds": {"sft": 220.5},
    "grpo_steps": 3,
    "rollouts": 96,
}


def _row(index: int, kind: str, image: str) -> dict[str, Any]:
    letters = kind in ("single", "multi")
    regions = [{"ref": "left lung", "box": [56, 10, 100, 100]}]
    truth = {
        "question_type": kind,
        "answer": KINDS[kind],
        "choices": {"A": "opacity", "B": "effusion", "C": "device"} if letters else None,
        "regions": regions,
        "think_regions": regions,
        "image_size": [112, 112],
        "coordinates": "absolute",
    }
    question = f"Question number {index}, x < y & z?"
    return {
        "images": [{"image": image, "min_pixels": 1, "max_pixels": 2}],
        "reward_model": {"style": "rule", "ground_truth": json.dumps(truth)},
        "extra_info": {"index": index, "question": question, "patient": f"p{PATIENTS + index}"},
    }


def _predictions(rows: list[dict[str, Any]], bottom: int, samples: int) -> list[Prediction]:
    found = []
    for row in rows:
        truth, extra = json.loads(row["reward_model"]["ground_truth"]), row["extra_info"]
        box = [56, 10, 100, bottom]
        for sample in range(samples):
            response = (
                f"<think>{SCRIPT} in the left lung {box}</think>\n<answer>Yes {SCRIPT}</answer>\n"
                f"<location><ref>{SCRIPT}</ref><box>{box}</box></location>"
            )
            index = extra["index"]
            found.append(Prediction(f"q{index}", index, sample, response, truth, extra))
    return score_predictions(found)


def _evaluate(
    folder: Path,
    rows: list[dict[str, Any]],
    bottom: int,
    beside: dict[str, list[Prediction]],
    synthetic: bool,
) -> tuple[list[Prediction], list[Prediction]]:
    """Write what recipe.evaluate writes; the controls answer as the model does."""
    greedy, sampled = _predictions(rows, bottom, 1), _predictions(rows, bottom, 2)
    for name in ("greedy", "blank", "shuffled"):
        write_predictions(folder / f"{name}.jsonl", greedy)
    write_predictions(folder / "sampled.jsonl", sampled)
    train = read_questions(folder.parents[1] / "data" / "train.parquet")
    model = Evaluated(greedy, sampled, {"blank": greedy, "shuffled": greedy}, beside)
    metrics = {"synthetic": synthetic, **results(model, train)}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return greedy, sampled


def _write_run(run: Path, synthetic: bool) -> None:
    data = run / "data"
    data.mkdir(parents=True)
    rows = []
    for index in range(16):
        Image.new("L", (120, 110), 10 * index).save(data / f"{index}.png")
        rows.append(_row(index, list(KINDS)[index % 4], f"{index}.png"))
    metadata = encode_metadata({}, synthetic)
    files = data / "train.parquet", data / "test.parquet"
    for file in files:
        pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata(metadata), file)
    sft = _evaluate(run / "eval" / "sft", rows, 70, {}, synthetic)
    grpo = _evaluate(run / "eval" / "grpo", rows, 90, {"SFT": sft[0]}, synthetic)
    write_summary(run / "summary.json", build_summary(sft, grpo, *files, RUN))
    write_metrics(run / "sft" / "metrics.jsonl", {"train/loss": [3.0, 2.0, 1.0]})
    write_metrics(
        run / "grpo" / "metrics.jsonl",
        {
            "critic/score/mean": [0.4, 0.5, 0.6],
            "reward/format/mean": [0.9, 1.0, 1.0],
            "reward/format/std": [0.3, 0.0, 0.0],
            "reward/grounding/mean": [0.4, 0.5, 0.6],
            "response_length/mean": [60.0, 61.0, 62.0],
            "timing_s/step": [5.0, 5.0, 5.0],
        },
    )


@pytest.fixture(scope="session")
def written_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """A run folder on synthetic data or on patients', written once."""

    @cache
    def write(synthetic: bool) -> Path:
        run = tmp_path_factory.mktemp("written") / "run"
        _write_run(run, synthetic)
        return run

    return write


@pytest.fixture
def make_run(tmp_path: Path, written_run: Callable[[bool], Path]) -> Callable[..., Path]:
    """Write a whole run of 16 test questions, four of each type, as the demo leaves it."""

    def make(synthetic: bool = True) -> Path:
        return Path(shutil.copytree(written_run(synthetic), tmp_path / "run"))

    return make


def write_metrics(path: Path, columns: dict[str, list[float]]) -> None:
    """Lines as verl's file logger writes them, steps from 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    steps = len(next(iter(columns.values())))
    lines = [
        json.dumps({"step": i + 1, "data": {name: values[i] for name, values in columns.items()}})
        for i in range(steps)
    ]
    path.write_text("\n".join(lines) + "\n")
