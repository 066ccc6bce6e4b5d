"""What can be had without looking at the image: numbers that a model must beat.

A grounding score in particular means little by itself, because regions of a chest lie in much the
same place in every image.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd

from recipe.errors import InputError
from recipe.evaluation.metrics import OVERALL, table_by_type
from recipe.evaluation.questions import Question
from reward.answers import answer_is_correct
from reward.boxes import matched_ious
from reward.ground_truth import GroundTruth
from reward.numbers import Box

OVERLAPS = ("v_score", "iou_50", "iou_75")


def majority_baseline(train: Sequence[Question], test: Sequence[Question]) -> pd.DataFrame:
    """A-score of always giving the question type's most frequent training answer.

    Of equally frequent answers the alphabetically first is given; a type that training lacks is
    answered wrongly.

    Returns:
        Rows: question types and `overall`; columns `a_score` (0..1) and `n`.
    """
    return table_by_type(majority_values(train, test), ("a_score",))


def majority_values(train: Sequence[Question], test: Sequence[Question]) -> pd.DataFrame:
    """A row for each test question, in order: `question_type` and `a_score` of the above."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for question in train:
        counts[question.ground_truth.question_type][answer_text(question.ground_truth)] += 1
    answers = {
        kind: min(found, key=lambda answer: (-found[answer], answer))
        for kind, found in counts.items()
    }
    rows = [
        {
            "question_type": question.ground_truth.question_type,
            "a_score": _is_right(answers.get(question.ground_truth.question_type), question),
        }
        for question in test
    ]
    return pd.DataFrame(rows)


def region_prior_baseline(train: Sequence[Question], test: Sequence[Question]) -> pd.DataFrame:
    """Overlap of each region's mean training box, the true regions' names being told.

    One box is given for each region of a test question. The means are over `regions` of the
    training split, in normalised coordinates; a region that training lacks gets the mean over all
    its boxes. Boxes are paired one to one and scored as the reward scores a response's.

    Returns:
        Rows: question types and `overall`; columns `v_score`, `iou_50`, `iou_75` (0..1) and `n`.
    """
    return table_by_type(region_prior_values(train, test), OVERLAPS)


def region_prior_values(
    train: Sequence[Question],
    test: Sequence[Question],
    named: Sequence[Sequence[str]] | None = None,
) -> pd.DataFrame:
    """A row for each test question, in order: `question_type` and `OVERLAPS` of the above.

    `named` gives the names of the regions for each test question in place of the true ones, for
    example those that a model named: what is left of its boxes if it only knows the names.
    """
    priors, fallback = mean_boxes(train)
    rows = []
    for number, question in enumerate(test):
        truth = question.ground_truth
        names = [region.ref for region in truth.regions] if named is None else named[number]
        boxes = [priors.get(region_key(name), fallback) for name in names]
        rows.append({"question_type": truth.question_type, **_overlap(boxes, truth)})
    return pd.DataFrame(rows)


def baseline_summary(
    train: Sequence[Question], test: Sequence[Question]
) -> dict[str, dict[str, float]]:
    """The summary's `baselines`: the overall values."""
    majority = majority_baseline(train, test).loc[OVERALL].to_dict()
    prior = region_prior_baseline(train, test).loc[OVERALL].to_dict()
    return {
        "majority": {"a_score": float(majority["a_score"])},
        "region_prior": {key: float(prior[key]) for key in ("v_score", "iou_75")},
    }


def mean_boxes(train: Sequence[Question]) -> tuple[dict[str, Box], Box]:
    """Mean box of each region by `region_key`, and of all regions; in 0..1.

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
    every = [box for found in boxes.values() for box in found]
    return {key: _mean(found) for key, found in boxes.items()}, _mean(every)


def region_key(ref: str) -> str:
    """A region's name without differences of case and spacing."""
    return " ".join(ref.lower().split())


def answer_text(truth: GroundTruth) -> str:
    """The reference answer as a response writes it: `Yes`, `B`, `A, C` or a sentence."""
    return truth.answer if isinstance(truth.answer, str) else ", ".join(sorted(truth.answer))


def _is_right(answer: str | None, question: Question) -> float:
    return float(answer_is_correct(answer, question.ground_truth))


def _mean(boxes: Sequence[Box]) -> Box:
    x1, y1, x2, y2 = np.mean(np.array(boxes), axis=0).tolist()
    return (x1, y1, x2, y2)


def _overlap(boxes: Sequence[Box], truth: GroundTruth) -> dict[str, float]:
    """Mean IoU and shares above 0.5 and 0.75; 1 where no region is wanted, as in the reward."""
    ious = matched_ious(boxes, [box for _, box in truth.placed_regions]) or [1.0]
    return {
        "v_score": sum(ious) / len(ious),
        "iou_50": sum(iou > 0.5 for iou in ious) / len(ious),
        "iou_75": sum(iou > 0.75 for iou in ious) / len(ious),
    }
