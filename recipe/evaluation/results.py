"""All results of one model on one split: what `recipe.evaluate` writes, made from predictions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from recipe.evaluation.baselines import baseline_summary
from recipe.evaluation.clusters import Estimate, estimates, paired
from recipe.evaluation.controls import control_report, control_values
from recipe.evaluation.metrics import (
    OVERALL,
    QUESTION_TYPES,
    metrics_table,
    question_values,
    summary_metrics,
)
from recipe.evaluation.predictions import Prediction
from recipe.evaluation.questions import Question
from recipe.evaluation.regions import by_region
from recipe.evaluation.samples import sample_values


@dataclass(frozen=True)
class Evaluated:
    """Scored predictions of one model.

    `sampled` and `controls` (by the keys of `controls.IMAGE_CONTROLS`) may be empty; `beside` holds
    greedy predictions of other models on the same questions, by their titles.
    """

    greedy: Sequence[Prediction]
    sampled: Sequence[Prediction] = ()
    controls: Mapping[str, Sequence[Prediction]] = field(default_factory=dict)
    beside: Mapping[str, Sequence[Prediction]] = field(default_factory=dict)


def results(model: Evaluated, train: Sequence[Question], seed: int = 0) -> dict[str, Any]:
    """All numbers, as `metrics.json` holds them.

    Args:
        model: predictions, scored.
        train: questions of the training split, for the baselines.
        seed: of the bootstrap.
    """
    values = question_values(model.greedy)
    questions = [Question(p.index, p.truth) for p in model.greedy]
    sampled = sample_values(model.sampled) if model.sampled else None
    return {
        "overall": summary_metrics(model.greedy, model.sampled or model.greedy),
        "by_type": json.loads(metrics_table(model.greedy).to_json(orient="index")),
        "baselines": baseline_summary(train, questions),
        "patients": int(values["patient"].nunique()),
        "intervals": intervals(values, seed),
        "samples": intervals(sampled, seed) if sampled is not None else None,
        "by_region": by_region(model.greedy, seed),
        "judged": judged_counts(model.greedy),
        **control_report(values, control_values(model.greedy, model.controls, train), seed),
        **_beside(values, model.beside, seed),
    }


def intervals(values: pd.DataFrame, seed: int = 0) -> dict[str, dict[str, Estimate]]:
    """Estimates of every metric for each question type that occurs and overall."""
    kinds = {kind: values[values["question_type"] == kind] for kind in QUESTION_TYPES}
    kinds[OVERALL] = values
    return {
        kind: estimates(rows.drop(columns=["patient", "question_type"]), rows["patient"], seed=seed)
        for kind, rows in kinds.items()
        if len(rows)
    }


def judged_counts(predictions: Sequence[Prediction]) -> dict[str, int]:
    """How many predictions the judge scored for the AR-score, and how many it failed on."""
    return {
        "scored": sum("ar_score" in p.scores for p in predictions),
        "failed": sum(p.scores.get("ar_failed", 0) > 0 for p in predictions),
    }


def _beside(
    values: pd.DataFrame, beside: Mapping[str, Sequence[Prediction]], seed: int
) -> dict[str, Any]:
    tables = {title: question_values(predictions) for title, predictions in beside.items()}
    return {
        "beside": {title: intervals(table, seed)[OVERALL] for title, table in tables.items()},
        "over_beside": {title: paired(table, values, seed=seed) for title, table in tables.items()},
    }
