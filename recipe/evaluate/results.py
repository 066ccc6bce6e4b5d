"""The contents of `metrics.json`, for one model, and of the demo's `summary.json`.

The summary compares SFT with SFT + GRPO on the held-out test split.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from scipy.optimize import linear_sum_assignment

from data_prep.program import InputError, write_whole
from recipe.evaluate.controls import baseline_summary, control_report, control_values, region_key
from recipe.evaluate.metrics import (
    OVERALL,
    Estimate,
    estimates,
    metric_value,
    metrics_table,
    paired,
    question_values,
    sample_values,
    split_by_type,
    summary_metrics,
)
from recipe.evaluate.predictions import (
    AR_FAILED,
    AR_SCORE,
    Prediction,
    Question,
    first_fault,
    read_questions,
)
from recipe.evaluate.sets import by_set
from reward.boxes_in_text import Box
from reward.ground_truth import place
from reward.grounding import iou_matrix, is_above
from reward.response import parse_response

REGION_METRICS = ("v_score", "iou_50", "iou_75", "a_score")


@dataclass(frozen=True)
class Evaluated:
    """Scored predictions of a model."""

    greedy: Sequence[Prediction]  # one for each question
    sampled: Sequence[Prediction] = ()  # several for each question, or none
    # greedy predictions by the keys of `IMAGE_CONTROLS`
    controls: Mapping[str, Sequence[Prediction]] = field(default_factory=dict)
    # greedy predictions of other models on the same questions, by their titles
    beside: Mapping[str, Sequence[Prediction]] = field(default_factory=dict)


def results(model: Evaluated, train: Sequence[Question], seed: int = 0) -> dict[str, Any]:
    """Compute the numbers of `metrics.json`; `train` has the questions for the baselines."""
    values = question_values(model.greedy)
    questions = [prediction.question for prediction in model.greedy]
    beside = {title: question_values(predictions) for title, predictions in model.beside.items()}
    return {
        "overall": summary_metrics(model.greedy, model.sampled),
        "cut_off": cut_off(model),
        "by_type": json.loads(metrics_table(model.greedy).to_json(orient="index")),
        "baselines": baseline_summary(train, questions),
        "patients": int(values["patient"].nunique()),
        "intervals": intervals(values, seed),
        "samples": intervals(sample_values(model.sampled), seed) if model.sampled else None,
        "by_region": by_region(model.greedy, seed),
        "judged": judged_counts(model.greedy),
        **control_report(values, control_values(model.greedy, model.controls, train), seed),
        "beside": {title: intervals(table, seed)[OVERALL] for title, table in beside.items()},
        "over_beside": {title: paired(table, values, seed=seed) for title, table in beside.items()},
        "sets": by_set(model.greedy, model.controls, model.beside, train, seed),
    }


def read_results(folder: Path) -> dict[str, Any]:
    """Read an evaluation's metrics.json; return nothing if there is none, or an older one.

    Raises:
        InputError: it is not JSON.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        return {}
    try:
        loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON ({error.msg})") from error
    return loaded if "over_controls" in loaded else {}


def check_presets(metrics: Mapping[Path, Mapping[str, Any]]) -> None:
    """Refuse to compare evaluations, by folder, whose rewards are of different presets.

    Raises:
        InputError: two of them name different presets in their `metrics.json`.
    """
    presets = {folder: each["preset"] for folder, each in metrics.items() if "preset" in each}
    if len(set(presets.values())) > 1:
        named = ", ".join(f"{folder} preset={preset}" for folder, preset in presets.items())
        raise InputError(
            f"rewards of different presets cannot be compared ({named}): score one again with "
            "python -m recipe.evaluate data.dir=DATA preset=NAME predictions=FOLDER out=OTHER"
        )


def intervals(values: pd.DataFrame, seed: int = 0) -> dict[str, dict[str, Estimate]]:
    """Estimate every metric for each question type that occurs and overall."""
    return {
        kind: estimates(rows.drop(columns=["patient", "question_type"]), rows["patient"], seed=seed)
        for kind, rows in split_by_type(values).items()
    }


def cut_off(model: Evaluated) -> dict[str, int]:
    """Count the responses that `data.max_response_length` ended, by the name of their file."""
    runs = {"greedy": model.greedy, "sampled": model.sampled, **model.controls}
    return {name: sum(p.is_cut for p in predictions) for name, predictions in runs.items()}


def judged_counts(predictions: Sequence[Prediction]) -> dict[str, int]:
    """Count the predictions with an AR-score, and those on which the judge failed."""
    return {
        "scored": sum(AR_SCORE in p.scores for p in predictions),
        "failed": sum(p.scores.get(AR_FAILED, 0) > 0 for p in predictions),
    }


def by_region(predictions: Sequence[Prediction], seed: int = 0) -> dict[str, dict[str, Any]]:
    """Estimate `REGION_METRICS` and count reference boxes by region, most frequent region first.

    A superfluous box of a response lowers the V-score of its question, but of no region.
    """
    groups = [(str(name), rows) for name, rows in region_values(predictions).groupby("region")]
    return {
        name: {
            **estimates(rows[list(REGION_METRICS)], rows["patient"], seed=seed),
            "boxes": len(rows),
        }
        for name, rows in sorted(groups, key=lambda group: (-len(group[1]), group[0]))
    }


def region_values(predictions: Sequence[Prediction]) -> pd.DataFrame:
    """Return a row per reference box and prediction: `region`, `patient`, `REGION_METRICS`."""
    rows: list[dict[str, Any]] = []
    for prediction in predictions:
        truth = prediction.truth
        predicted = place(parse_response(prediction.response).regions, truth)
        reference = truth.placed_regions
        ious = reference_ious([box for _, box in predicted], [box for _, box in reference])
        right = metric_value(prediction, "a_score")
        rows += [
            {
                "region": region_key(ref) or "(unnamed)",
                "patient": prediction.patient,
                "v_score": iou,
                "iou_50": float(is_above(iou, 0.5)),
                "iou_75": float(is_above(iou, 0.75)),
                "a_score": right,
            }
            for (ref, _), iou in zip(reference, ious, strict=True)
        ]
    return pd.DataFrame(rows, columns=["region", "patient", *REGION_METRICS])


def reference_ious(predicted: Sequence[Box | None], reference: Sequence[Box | None]) -> list[float]:
    """Return the IoU of each reference box in the one-to-one matching of largest total IoU.

    Boxes are in 0..1. A reference box without a partner has 0.
    """
    if not reference:
        return []
    matrix = np.array(iou_matrix(predicted, reference)).reshape(-1, len(reference))
    ious = [0.0] * len(reference)
    for row, column in zip(*linear_sum_assignment(matrix, maximize=True), strict=True):
        ious[column] = float(matrix[row, column])
    return ious


_ROUNDING = 1e-9
Share = Annotated[float, Field(ge=-_ROUNDING, le=1 + _ROUNDING)]
Difference = Annotated[float, Field(ge=-1 - _ROUNDING, le=1 + _ROUNDING)]
Count = Annotated[int, Field(ge=0)]
Models = tuple[Sequence[Prediction], Sequence[Prediction]]
"""One model's greedy and sampled predictions."""


class _Object(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _ModelSummary(_Object):
    reward: Share
    reward_sampled: Share
    a_score: Share
    v_score: Share
    iou_50: Share
    iou_75: Share
    format: Share
    n: Annotated[int, Field(ge=1)]


class _Models(_Object):
    sft: _ModelSummary
    grpo: _ModelSummary


class _Majority(_Object):
    a_score: Share


class _RegionPrior(_Object):
    v_score: Share
    iou_75: Share


class _Baselines(_Object):
    majority: _Majority
    region_prior: _RegionPrior


class _Gain(_Object):
    mean: Difference
    ci95: Annotated[list[Difference], Field(min_length=2, max_length=2)]

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.ci95[0] > self.ci95[1]:
            raise ValueError("ci95 has its low end above its high end")
        return self


class _Gains(_Object):
    reward: _Gain
    reward_sampled: _Gain
    a_score: _Gain
    v_score: _Gain


class _Run(_Object):
    seed: Count
    versions: dict[str, Any]
    wall_seconds: dict[str, Annotated[float, Field(ge=0)]]
    grpo_steps: Count
    rollouts: Count


class Summary(_Object):
    """The contents of `summary.json`; all values but `reward_sampled` are of greedy decoding."""

    models: _Models
    baselines: _Baselines
    gain: _Gains
    run: _Run

    @model_validator(mode="after")
    def _check_gains(self) -> Self:
        for key in _Gains.model_fields:
            difference = getattr(self.models.grpo, key) - getattr(self.models.sft, key)
            if abs(getattr(self.gain, key).mean - difference) > 1e-6:
                raise ValueError(f"gain.{key}.mean is not GRPO minus SFT ({difference:.6f})")
        return self


def build_summary(
    sft: Models,
    grpo: Models,
    train_parquet: str | Path,
    test_parquet: str | Path,
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """Compute the summary from scored predictions of both models on the complete test split.

    The parquet files are of rollouts; baselines come from that of training. `run` has the values of
    `_Run`, of which the seed is also that of the bootstrap.

    Raises:
        InputError: the models did not answer exactly the questions of the test split, a
            prediction is not scored, or `run` has other keys.
    """
    _validate(_Run, run, "summary: run")
    train, test = read_questions(train_parquet), read_questions(test_parquet)
    expected = {question.index for question in test}
    for name, predictions in zip(
        ("SFT greedy", "SFT sampled", "GRPO greedy", "GRPO sampled"), (*sft, *grpo), strict=True
    ):
        answered = {prediction.index for prediction in predictions}
        if answered != expected:
            raise InputError(
                f"{name} predictions: {len(expected - answered)} questions of {test_parquet} are "
                f"missing and {len(answered - expected)} are not from it; evaluate the whole split"
            )
    summary = {
        "models": {"sft": summary_metrics(*sft), "grpo": summary_metrics(*grpo)},
        "baselines": baseline_summary(train, test),
        "gain": gains(sft, grpo, seed=run["seed"]),
        "run": dict(run),
    }
    _validate(Summary, summary, "summary")
    return summary


def gains(before: Models, after: Models, *, seed: int = 0) -> dict[str, Estimate]:
    """Compute the summary's `gain`: `after` minus `before`, paired by question.

    A question's `reward_sampled` is its mean over the samples.

    Raises:
        InputError: the two models did not answer the same questions, or all are about one patient.
    """
    greedy, sampled = (
        paired(question_values(old), question_values(new), seed=seed)
        for old, new in zip(before, after, strict=True)
    )
    by_metric = greedy | {"reward_sampled": sampled["reward"]}
    chosen = {key: by_metric[key] for key in _Gains.model_fields}
    if any(gain["ci95"] is None for gain in chosen.values()):
        raise InputError("gain: all questions are about one patient; an interval needs two")
    return chosen


def write_summary(path: str | Path, summary: Mapping[str, Any]) -> None:
    """Validate and write a summary; the file gets its name only when it is complete."""
    _validate(Summary, summary, str(path))
    write_whole(Path(path), json.dumps(summary, indent=2, allow_nan=False) + "\n")


def read_summary(path: str | Path) -> dict[str, Any]:
    """Read and validate a summary file.

    Raises:
        InputError: missing, not JSON or not a valid summary; names the file and the key.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such summary")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON ({error.msg})") from error
    _validate(Summary, summary, str(path))
    return dict(summary)


def _validate(model: type[BaseModel], values: Any, where: str) -> None:
    try:
        model.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where}: {first_fault(error)}") from error
