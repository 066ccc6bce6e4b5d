"""Metrics of external sets in their published forms, for the rows of `data_prep.external`.

**AP at IoU 0.5** (`average_precision`), RadVLM (uzh-dqbm-cmi/RadVLM-GRPO, `evaluate_boxes`): boxes
have no confidence, so their order in the answer counts. A box is a hit if its IoU with the true
box that it overlaps most is 0.5 or more, and no earlier box has hit that one. AP is the area under
the envelope of precision over recall, mAP the mean over questions; without a box it is 0.

**Union IoU** (`union_iou`), CURE: the area that both unions of boxes share, over that of either.

**Single box** (MedRPG, MedGround): of phrases with one true box, the IoU of the first box of the
answer, and whether it is above 0.5.

**Accuracy** is of yes/no, choices and what the set publishes as CLOSED, each decided exactly.
Balanced accuracy is the mean over the answers Yes and No, F1 that of Yes; an answer that is neither
is wrong.

**Token recall** (`token_recall`), LLaVA-Med (`calculate_f1score`): the share of the words of an
open reference that the answer has.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from recipe.evaluate.controls import (
    IMAGE_CONTROLS,
    MAJORITY,
    PRIOR_NAMED,
    PRIOR_TOLD,
    has_regions,
    majority_answers,
    prior_boxes,
)
from recipe.evaluate.metrics import Formula, estimates, paired
from recipe.evaluate.predictions import Prediction, Question
from reward.answers import answer_is_correct, answer_score, parse_yes_no
from reward.boxes_in_text import Box, to_box
from reward.ground_truth import GroundTruth, place
from reward.grounding import ROUNDING, iou, iou_matrix, is_above
from reward.response import parse_response

SET_METRICS = {
    "ap_50": "mAP at IoU 0.5",
    "union_iou": "Union IoU",
    "single_iou": "Single box, IoU",
    "single_50": "Single box, IoU > 0.5",
    "accuracy": "Accuracy",
    "balanced": "Balanced accuracy",
    "f1_yes": "F1 of Yes",
    "token_recall": "Token recall",
    "text_score": "Text score",
}
SET_TABLES = {
    "boxes": ("ap_50", "union_iou", "single_iou", "single_50"),
    "answers": ("accuracy", "balanced", "f1_yes", "token_recall", "text_score"),
}
"""The metrics by what they are of: a table of all of them is wider than a page."""
SECOND_READER = "second reader"
"""The title of another reader's boxes, scored against the truth."""
_ON_YES_NO = ("true_yes", "false_yes", "false_no", "right_yes", "right_no")
_ON_ANSWERS = ("accuracy", "token_recall", "text_score", *_ON_YES_NO)
DERIVED: dict[str, Formula] = {
    "balanced": lambda means: (means["right_yes"] + means["right_no"]) / 2,
    "f1_yes": lambda means: (
        2 * means["true_yes"] / (2 * means["true_yes"] + means["false_yes"] + means["false_no"])
    ),
}
"""Metrics of a whole set, from the means of `_ON_YES_NO`."""

Boxes = Sequence[Box | None]


def average_precision(predicted: Boxes, reference: Boxes, threshold: float = 0.5) -> float:
    """Return the AP of boxes in the order of the answer; see the module. Boxes are in any unit."""
    if not predicted or not reference:
        return 0.0
    taken: set[int] = set()
    hits = []
    for row in iou_matrix(predicted, reference):
        best = int(np.argmax(row))
        is_hit = row[best] >= threshold - ROUNDING and best not in taken
        taken |= {best} if is_hit else set()
        hits.append(is_hit)
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[hits].sum() / len(reference))


def union_iou(predicted: Boxes, reference: Boxes) -> float:
    """Return the IoU of the areas that two sets of boxes cover; 0 if either covers nothing."""
    sides = [
        np.array([box for box in boxes if box]).reshape(-1, 4) for boxes in (predicted, reference)
    ]
    corners = np.concatenate(sides)
    xs, ys = np.unique(corners[:, [0, 2]]), np.unique(corners[:, [1, 3]])
    cells = np.diff(ys)[:, None] * np.diff(xs)[None, :]
    covered = [np.zeros(cells.shape, dtype=bool) for _ in sides]
    for mask, boxes in zip(covered, sides, strict=True):
        for x1, y1, x2, y2 in boxes:
            left, right = np.searchsorted(xs, (x1, x2))
            top, bottom = np.searchsorted(ys, (y1, y2))
            mask[top:bottom, left:right] = True
    either = cells[covered[0] | covered[1]].sum()
    return float(cells[covered[0] & covered[1]].sum() / either) if either else 0.0


_ARTICLES = ("a", "an", "the")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)}


def _tokens(text: str) -> Counter[str]:
    words = re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower())
    return Counter(_DIGITS.get(word, word) for word in words if word not in _ARTICLES)


def token_recall(answer: str, reference: str) -> float:
    """Return LLaVA-Med's recall: words that both have, counted in the answer, over these and the
    reference's words that the answer lacks.

    Words are in lower case, without punctuation and articles, and numbers are digits.
    """
    words, expected = _tokens(answer), _tokens(reference)
    shared = sum(count for word, count in words.items() if word in expected)
    missing = sum(count for word, count in expected.items() if word not in words)
    return shared / (shared + missing) if shared else 0.0


def box_metrics(predicted: Boxes, reference: Boxes) -> dict[str, float]:
    """Return the metrics on boxes of a question with true boxes, all in [0, 1]."""
    values = {
        "ap_50": average_precision(predicted, reference),
        "union_iou": union_iou(predicted, reference),
    }
    if len(reference) == 1:
        values["single_iou"] = iou(predicted[0] if predicted else None, reference[0])
        values["single_50"] = float(is_above(values["single_iou"], 0.5))
    return values


def answer_metrics(answer: str | None, truth: GroundTruth, answer_type: str) -> dict[str, float]:
    """Return the metrics on the answer to one question; `answer_type` is OPEN, CLOSED or ""."""
    if truth.question_type == "open" and answer_type != "CLOSED":
        recall = token_recall(answer or "", str(truth.answer))
        return {"token_recall": recall, "text_score": answer_score(answer, truth)}
    is_right = answer_is_correct(answer, truth)
    values = {"accuracy": float(is_right)}
    if truth.question_type == "closed":
        is_yes = truth.answer == "Yes"
        values["right_yes" if is_yes else "right_no"] = float(is_right)
        values["true_yes"] = float(is_yes and is_right)
        values["false_no"] = float(is_yes and not is_right)
        values["false_yes"] = float(not is_yes and parse_yes_no(answer or "") == "Yes")
    return values


def set_values(
    predictions: Sequence[Prediction],
    answers: Sequence[str | None] | None,
    boxes: Sequence[Boxes] | None,
) -> pd.DataFrame:
    """Return the metrics of each question, indexed by its id; NaN where it has none.

    Args:
        predictions: Name the questions, their truths and patients.
        answers: The answer to each question; None to score no answer.
        boxes: The boxes for each question, in 0..1; None to score no box.
    """
    rows = []
    for position, prediction in enumerate(predictions):
        truth, info = prediction.truth, prediction.extra_info
        row: dict[str, Any] = {"patient": prediction.patient, "set": str(info["set"])}
        if answers is not None and prediction.scored != "boxes":
            answer_type = str(info.get("answer_type") or "")
            row |= answer_metrics(answers[position], truth, answer_type)
        reference = [box for _, box in truth.placed_regions]
        if boxes is not None and prediction.scored != "answer" and reference:
            row |= box_metrics(boxes[position], reference)
        rows.append(row)
    columns = ["patient", "set", *SET_TABLES["boxes"], *_ON_ANSWERS]
    index = pd.Index([prediction.id for prediction in predictions], name="id")
    return pd.DataFrame(rows, index=index).reindex(columns=columns)


def _of_model(predictions: Sequence[Prediction]) -> pd.DataFrame:
    responses = [parse_response(prediction.response) for prediction in predictions]
    boxes = [
        [box for _, box in place(response.regions, prediction.truth)]
        for response, prediction in zip(responses, predictions, strict=True)
    ]
    return set_values(predictions, [response.answer for response in responses], boxes)


def _of_second_reader(predictions: Sequence[Prediction]) -> pd.DataFrame:
    """Score another reader's boxes, of the questions that have some."""
    read = [p for p in predictions if p.extra_info.get("second_reader")]
    values = set_values(read, None, None)
    for prediction in read:
        original, other = (
            [to_box(box) for box in prediction.extra_info[key]]
            for key in ("original_boxes", "second_reader")
        )
        for name, value in box_metrics(other, original).items():
            values.loc[prediction.id, name] = value
    return values


def by_set(
    greedy: Sequence[Prediction],
    controls: Mapping[str, Sequence[Prediction]],
    beside: Mapping[str, Sequence[Prediction]],
    train: Sequence[Question],
    seed: int = 0,
) -> dict[str, Any]:
    """Return the metrics of each external set; empty if there is no question of one.

    Returns:
        Set -> `questions`, `patients`, `rows` (the model, baselines, controls, other models and a
        second reader -> metric of `SET_METRICS` -> estimate) and `less` (the model less each of
        them, paired, for the metrics that are means over questions).
    """

    def of_sets(predictions: Sequence[Prediction]) -> list[Prediction]:
        return [p for p in predictions if p.extra_info.get("set")]

    external = of_sets(greedy)
    if not external:
        return {}
    model = _of_model(external)
    others = _baselines(external, train)
    others |= {IMAGE_CONTROLS[key]: _of_model(of_sets(p)) for key, p in controls.items()}
    others |= {title: _of_model(of_sets(predictions)) for title, predictions in beside.items()}
    human = {SECOND_READER: _of_second_reader(external)}
    return {
        name: _entry(
            model[model["set"] == name],
            {title: table[table["set"] == name] for title, table in others.items()},
            {title: table[table["set"] == name] for title, table in human.items()},
            seed,
        )
        for name in dict.fromkeys(model["set"])
    }


def _baselines(
    predictions: Sequence[Prediction], train: Sequence[Question]
) -> dict[str, pd.DataFrame]:
    questions = [prediction.question for prediction in predictions]
    answers = majority_answers(train)
    majority = [answers.get(question.ground_truth.question_type) for question in questions]
    tables = {MAJORITY: set_values(predictions, majority, None)}
    if has_regions(train):
        named = [[ref for ref, _ in parse_response(p.response).regions] for p in predictions]
        tables[PRIOR_TOLD] = set_values(predictions, None, prior_boxes(train, questions))
        tables[PRIOR_NAMED] = set_values(predictions, None, prior_boxes(train, questions, named))
    return tables


def _entry(
    model: pd.DataFrame,
    others: Mapping[str, pd.DataFrame],
    human: Mapping[str, pd.DataFrame],
    seed: int,
) -> dict[str, Any]:
    rows = {"model": model, **others, **human}
    estimated = {title: _estimates(table, seed) for title, table in rows.items() if len(table)}
    less = {
        title: paired(table.drop(columns="set"), model.drop(columns="set"), seed=seed)
        for title, table in others.items()
    }
    return {
        "questions": len(model),
        "patients": int(model["patient"].nunique()),
        "rows": {title: values for title, values in estimated.items() if values},
        "less": {
            title: {name: value for name, value in values.items() if name in SET_METRICS}
            for title, values in less.items()
            if values.keys() & SET_METRICS.keys()
        },
    }


def _estimates(table: pd.DataFrame, seed: int) -> dict[str, Any]:
    values = estimates(
        table.drop(columns=["patient", "set"]), table["patient"], seed=seed, derived=DERIVED
    )
    return {
        name: value
        for name, value in values.items()
        if name in SET_METRICS and not math.isnan(value["mean"])
    }
