"""Baselines and controls that a model must beat to show that it used the image."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from data_prep.program import InputError
from recipe.evaluate.metrics import (
    WITHOUT_TRUTH,
    Estimate,
    estimates,
    is_above_zero,
    number_or_none,
    paired,
    question_values,
)
from recipe.evaluate.predictions import Prediction, Question
from reward.answers import answer_is_correct
from reward.boxes_in_text import Box
from reward.ground_truth import GroundTruth
from reward.grounding import is_above, matched_ious
from reward.response import parse_response

OVERLAPS = ("v_score", "iou_50", "iou_75")
MAJORITY = "majority answer"
PRIOR_TOLD = "region prior, region told"
PRIOR_NAMED = "region prior, region named by the model"
IMAGE_CONTROLS = {"blank": "blank image", "shuffled": "shuffled images"}
COMPARED = ("a_score", "v_score")
"""Metrics in which a model is compared with its controls."""


def majority_values(train: Sequence[Question], test: Sequence[Question]) -> pd.DataFrame:
    """Compute the A-score of always giving the question type's most frequent training answer.

    Of equally frequent answers the alphabetically first is taken. Questions of a type that is not
    in the training split count as wrong.

    Returns:
        A row for each test question, in order: `question_type` and `a_score` (0 or 1).
    """
    answers = majority_answers(train)
    rows = []
    for question in test:
        truth = question.ground_truth
        is_right = answer_is_correct(answers.get(truth.question_type), truth)
        row = {"question_type": truth.question_type, "a_score": float(is_right)}
        rows.append(_with_truth(row, question))
    return pd.DataFrame(rows)


def majority_answers(train: Sequence[Question]) -> dict[str, str]:
    """Return the most frequent training answer of each question type."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for question in train:
        counts[question.ground_truth.question_type][answer_text(question.ground_truth)] += 1
    return {
        kind: min(answer_counts, key=lambda answer: (-answer_counts[answer], answer))
        for kind, answer_counts in counts.items()
    }


def _with_truth(row: dict[str, Any], question: Question) -> dict[str, Any]:
    """Return the row with NaN where the question has no truth."""
    without = WITHOUT_TRUTH[question.scored]
    return {key: math.nan if key in without else value for key, value in row.items()}


def region_prior_values(
    train: Sequence[Question],
    test: Sequence[Question],
    named: Sequence[Sequence[str]] | None = None,
) -> pd.DataFrame:
    """Compute the overlap of each region's mean training box, given the regions' names.

    Each region of a test question is answered with one box: its mean over `regions` of the training
    split, in normalised coordinates, or the mean of all boxes if training lacks the region. Boxes
    are paired one to one and scored as in the reward.

    `named` has region names for each test question in place of the true ones. Those that a model
    gave show how much of its overlap comes from the names alone.

    Returns:
        A row for each test question, in order: `question_type` and `OVERLAPS` (0..1).
    """
    rows = []
    for question, boxes in zip(test, prior_boxes(train, test, named), strict=True):
        truth = question.ground_truth
        row = {"question_type": truth.question_type, **_overlap(boxes, truth)}
        rows.append(_with_truth(row, question))
    return pd.DataFrame(rows)


def prior_boxes(
    train: Sequence[Question],
    test: Sequence[Question],
    named: Sequence[Sequence[str]] | None = None,
) -> list[list[Box]]:
    """Return the boxes that the region prior answers each test question with, in 0..1."""
    priors, fallback = mean_boxes(train)
    names = named or [[region.ref for region in q.ground_truth.regions] for q in test]
    return [[priors.get(region_key(name), fallback) for name in of_one] for of_one in names]


def baseline_summary(
    train: Sequence[Question], test: Sequence[Question]
) -> dict[str, dict[str, float | None]]:
    """Return the entry `baselines` of the summary: the overall values."""
    majority = majority_values(train, test)
    prior = dict[str, float | None](v_score=None, iou_75=None)
    if has_regions(train):
        values = region_prior_values(train, test)
        prior = {key: number_or_none(values[key].mean()) for key in prior}
    return {
        "majority": {"a_score": number_or_none(majority["a_score"].mean())},
        "region_prior": prior,
    }


def has_regions(questions: Sequence[Question]) -> bool:
    """Return whether any question has a box, which the region prior is made of."""
    return any(box for question in questions for _, box in question.ground_truth.placed_regions)


def mean_boxes(train: Sequence[Question]) -> tuple[dict[str, Box], Box]:
    """Return the mean box of each region by `region_key`, and of all regions; in 0..1.

    Raises:
        InputError: no training question has a region.
    """
    boxes: dict[str, list[Box]] = defaultdict(list)
    for question in train:
        for ref, box in question.ground_truth.placed_regions:
            if box:
                boxes[region_key(ref)].append(box)
    if not boxes:
        raise InputError("no question of the training split has a region; the prior needs some")
    all_boxes = [box for region_boxes in boxes.values() for box in region_boxes]
    return {key: _mean(region_boxes) for key, region_boxes in boxes.items()}, _mean(all_boxes)


def region_key(ref: str) -> str:
    """Return a region's name without differences of case and spacing."""
    return " ".join(ref.lower().split())


def answer_text(truth: GroundTruth) -> str:
    """Return the reference answer as a response writes it: `Yes`, `B`, `A, C` or a sentence."""
    return truth.answer if isinstance(truth.answer, str) else ", ".join(sorted(truth.answer))


def control_values(
    greedy: Sequence[Prediction],
    controls: Mapping[str, Sequence[Prediction]],
    train: Sequence[Question],
) -> dict[str, pd.DataFrame]:
    """Return values of baselines, then of `controls` (by keys of `IMAGE_CONTROLS`), by title.

    They are like `question_values`. The majority answer has only an A-score, the region priors
    only overlaps; without a region in `train` there are no priors.
    """
    questions = [p.question for p in greedy]
    tables = {MAJORITY: majority_values(train, questions)}
    if has_regions(train):
        named = [[ref for ref, _ in parse_response(p.response).regions] for p in greedy]
        tables[PRIOR_TOLD] = region_prior_values(train, questions)
        tables[PRIOR_NAMED] = region_prior_values(train, questions, named)
    patients = [p.patient for p in greedy]
    for table in tables.values():
        table.index = pd.Index([p.id for p in greedy], name="id")
        table.insert(0, "patient", patients)
    return tables | {
        IMAGE_CONTROLS[name]: question_values(predictions) for name, predictions in controls.items()
    }


def control_report(
    values: pd.DataFrame, controls: Mapping[str, pd.DataFrame], seed: int = 0
) -> dict[str, Any]:
    """Compare `question_values` of a model's greedy predictions with those of controls, by title.

    Returns:
        `controls` (title -> metric -> estimate), `over_controls` (title -> metric -> estimate of
        model minus control, paired, patients resampled), `no_better_than` (metric of `COMPARED`
        -> titles of the controls that the model does not clearly beat, see `flags`), and
        `no_better_than_by_type` (the same for each question type).
    """

    def gains(rows: pd.DataFrame) -> dict[str, dict[str, Estimate]]:
        return {
            title: paired(table.loc[rows.index], rows, seed=seed)
            for title, table in controls.items()
        }

    # Not `gains`: `paired` refuses controls that answered other questions.
    over = {title: paired(table, values, seed=seed) for title, table in controls.items()}
    return {
        "controls": {
            title: estimates(
                table.drop(columns=["patient", "question_type"]), table["patient"], seed=seed
            )
            for title, table in controls.items()
        },
        "over_controls": over,
        "no_better_than": flags(over),
        "no_better_than_by_type": {
            str(kind): flags(gains(rows))
            for kind, rows in values.groupby("question_type", sort=False)
        },
    }


def flags(over: Mapping[str, Mapping[str, Estimate]]) -> dict[str, list[str]]:
    """Return for each metric of `COMPARED` the titles whose gain has no interval above zero."""
    return {
        metric: [
            title
            for title, gains in over.items()
            if metric in gains and not is_above_zero(gains[metric])
        ]
        for metric in COMPARED
    }


def other_patients(patients: Sequence[str], seed: int) -> list[int]:
    """Return for each question the position of another patient's question, whose image it gets.

    Every position is used once if no patient has more than half of the questions.

    Raises:
        InputError: all questions are about one patient.
    """
    if len(set(patients)) < 2:
        raise InputError("controls=shuffled: all questions are about one patient")
    order = list(range(len(patients)))
    random.Random(seed).shuffle(order)
    # Sorted by patient and shifted by the most questions of a patient, so that the patient changes.
    ranks = {name: rank for rank, name in enumerate(dict.fromkeys(patients[i] for i in order))}
    order.sort(key=lambda i: ranks[patients[i]])
    step = max(Counter(patients).values())
    pictures = [0] * len(patients)
    for rank, position in enumerate(order):
        ahead = (rank + step) % len(order)
        while patients[order[ahead]] == patients[position]:
            ahead = (ahead + 1) % len(order)
        pictures[position] = order[ahead]
    return pictures


def _mean(boxes: Sequence[Box]) -> Box:
    x1, y1, x2, y2 = np.mean(np.array(boxes), axis=0).tolist()
    return (x1, y1, x2, y2)


def _overlap(boxes: Sequence[Box], truth: GroundTruth) -> dict[str, float]:
    """Return mean IoU and shares above 0.5 and 0.75; 1 without a true region, as in the reward."""
    ious = matched_ious(boxes, [box for _, box in truth.placed_regions]) or [1.0]
    return {
        "v_score": sum(ious) / len(ious),
        "iou_50": sum(is_above(iou, 0.5) for iou in ious) / len(ious),
        "iou_75": sum(is_above(iou, 0.75) for iou in ious) / len(ious),
    }
