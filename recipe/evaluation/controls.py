"""What a model must beat to have used the image: baselines and controls beside it.

The baselines never see an image; the controls are the model itself on a blank image and on another
patient's. A model whose interval over one of them includes zero, or lies below it, is flagged.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from recipe.errors import InputError
from recipe.evaluation.baselines import majority_values, region_prior_values
from recipe.evaluation.clusters import Estimate, estimates, paired
from recipe.evaluation.metrics import question_values
from recipe.evaluation.predictions import Prediction
from recipe.evaluation.questions import Question
from reward.response import parse_response

BLANK, SHUFFLED = "blank image", "shuffled images"
MAJORITY = "majority answer"
PRIOR_TOLD = "region prior, region told"
PRIOR_NAMED = "region prior, region named by the model"
IMAGE_CONTROLS = {"blank": BLANK, "shuffled": SHUFFLED}
COMPARED = ("a_score", "v_score")
"""The metrics by which a model is flagged."""


def baseline_values(
    greedy: Sequence[Prediction], train: Sequence[Question]
) -> dict[str, pd.DataFrame]:
    """The values of each baseline on the questions of `greedy`, as `question_values` gives them.

    The majority answer has an A-score only, the region priors overlaps only.
    """
    questions = [Question(p.index, p.truth) for p in greedy]
    named = [[ref for ref, _ in parse_response(p.response).regions] for p in greedy]
    tables = {
        MAJORITY: majority_values(train, questions),
        PRIOR_TOLD: region_prior_values(train, questions),
        PRIOR_NAMED: region_prior_values(train, questions, named),
    }
    patients = [p.patient for p in greedy]
    for table in tables.values():
        table.index = pd.Index([p.id for p in greedy], name="id")
        table.insert(0, "patient", patients)
    return tables


def control_values(
    greedy: Sequence[Prediction],
    controls: Mapping[str, Sequence[Prediction]],
    train: Sequence[Question],
) -> dict[str, pd.DataFrame]:
    """Baselines, then the controls that were answered (keys of `IMAGE_CONTROLS`)."""
    answered = {
        IMAGE_CONTROLS[name]: question_values(predictions) for name, predictions in controls.items()
    }
    return baseline_values(greedy, train) | answered


def control_report(
    values: pd.DataFrame, controls: Mapping[str, pd.DataFrame], seed: int = 0
) -> dict[str, Any]:
    """A model beside its controls.

    Args:
        values: `question_values` of the model's greedy predictions.
        controls: values of each control, by its title.

    Returns:
        `controls` (title -> metric -> estimate), `over_controls` (title -> metric -> estimate of
        model minus control, paired, patients resampled), `no_better_than` (metric of `COMPARED`
        -> titles of the controls whose interval does not lie above zero; empty where the model
        beats them all), and `no_better_than_by_type` (the same for each question type).
    """
    plain = {
        title: estimates(_numbers(table), table["patient"], seed=seed)
        for title, table in controls.items()
    }
    over = {title: paired(table, values, seed=seed) for title, table in controls.items()}
    return {
        "controls": plain,
        "over_controls": over,
        "no_better_than": flags(over),
        "no_better_than_by_type": {
            str(kind): flags(
                {
                    title: paired(table.loc[rows.index], rows, seed=seed)
                    for title, table in controls.items()
                }
            )
            for kind, rows in values.groupby("question_type", sort=False)
        },
    }


def flags(over: Mapping[str, Mapping[str, Estimate]]) -> dict[str, list[str]]:
    """For each metric of `COMPARED` the titles over which a model's gain is not clearly above 0."""
    return {
        metric: [
            title
            for title, gains in over.items()
            if metric in gains and not is_above_zero(gains[metric])
        ]
        for metric in COMPARED
    }


def is_above_zero(gain: Estimate) -> bool:
    """Whether the whole 95 % interval lies above zero."""
    return gain["ci95"] is not None and gain["ci95"][0] > 0


def other_patients(patients: Sequence[str], seed: int) -> list[int]:
    """For each question the position of a question about another patient, whose image it gets.

    Every position is used once where no patient has more than half of the questions.

    Raises:
        InputError: all questions are about one patient.
    """
    if len(set(patients)) < 2:
        raise InputError("controls=shuffled: all questions are about one patient")
    order = list(range(len(patients)))
    random.Random(seed).shuffle(order)
    # Patients in blocks, and every question looks one largest block ahead: never within its own.
    ranks = {name: rank for rank, name in enumerate(dict.fromkeys(patients[i] for i in order))}
    order.sort(key=lambda i: ranks[patients[i]])
    step = max(sum(name == patient for name in patients) for patient in set(patients))
    given = [0] * len(patients)
    for place, position in enumerate(order):
        ahead = (place + step) % len(order)
        while patients[order[ahead]] == patients[position]:
            ahead = (ahead + 1) % len(order)
        given[position] = order[ahead]
    return given


def _numbers(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=["patient", "question_type"])
