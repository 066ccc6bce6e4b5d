"""A-score, V-score and their companions, per question type and overall.

The names follow GEMeX (arXiv 2411.16778): A-score is the share of right answers, V-score the mean
IoU of the answer's regions. All values are in 0..1.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import pandas as pd

from recipe.errors import InputError
from recipe.evaluation.predictions import Prediction
from reward.answers import answer_is_correct
from reward.response import parse_response

QUESTION_TYPES = ("closed", "single", "multi", "open")
OVERALL = "overall"
METRICS = ("reward", "a_score", "v_score", "iou_50", "iou_75", "format")
# Grounding of the reasoning and agreement of reasoning and answer, in 0..1, and characters.
DETAILS = ("think_grounding", "alignment", "length")
AR_SCORE = "ar_score"  # of predictions that a judge has scored: `recipe.evaluation.judged`
# Metric -> key of compute_score; a_score is decided on the answer itself, whatever the preset.
_SCORE_KEYS = {
    "reward": "score",
    "v_score": "mean_iou",
    "iou_50": "iou_50",
    "iou_75": "iou_75",
    "format": "format",
    "think_grounding": "think_grounding",
    "alignment": "alignment",
    "length": "response_chars",
}


def prediction_values(predictions: Sequence[Prediction]) -> pd.DataFrame:
    """One row per prediction: `id`, `sample`, `question_type` and every metric, in input order.

    Raises:
        InputError: there are no predictions, or one has not been scored.
    """
    if not predictions:
        raise InputError("no predictions to evaluate")
    return pd.DataFrame([_values(p) for p in predictions])


def metrics_table(predictions: Sequence[Prediction]) -> pd.DataFrame:
    """Mean of every metric and the number of predictions `n`.

    Returns:
        Rows: the question types that occur, in the order of `QUESTION_TYPES`, then `overall`.
        Columns: `METRICS`, `DETAILS`, `ar_score` where a judge gave some, and `n`.
    """
    values = prediction_values(predictions)
    return table_by_type(values, metrics_in(values))


def metrics_in(values: pd.DataFrame) -> list[str]:
    """The metrics among the columns of `values`, in the order in which they are reported."""
    known = (*METRICS[:2], AR_SCORE, *METRICS[2:], *DETAILS)
    return [metric for metric in known if metric in values.columns]


def question_values(predictions: Sequence[Prediction]) -> pd.DataFrame:
    """One row per question, indexed by its id: means over its samples.

    Returns:
        Columns: `patient` (what is resampled in intervals; the id where the data names none),
        `question_type`, and the metrics of `metrics_in`. A judged score is NaN where all of a
        question's samples lack it.
    """
    values = prediction_values(predictions)
    groups = values.groupby("id", sort=False)
    table = groups[metrics_in(values)].mean()
    table.insert(0, "question_type", groups["question_type"].first())
    patients = {p.id: p.patient for p in predictions}
    table.insert(0, "patient", pd.Series(patients))
    return table


def table_by_type(values: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Means of `columns` and the row count `n`, per `question_type` and overall."""
    groups = {kind: values[values["question_type"] == kind] for kind in QUESTION_TYPES}
    groups = {kind: rows for kind, rows in groups.items() if len(rows)}
    groups[OVERALL] = values
    table = pd.DataFrame(
        {kind: rows[list(columns)].astype(float).mean() for kind, rows in groups.items()}
    ).T
    table["n"] = [len(rows) for rows in groups.values()]
    return table


def summary_metrics(
    greedy: Sequence[Prediction], sampled: Sequence[Prediction]
) -> dict[str, float | int]:
    """The summary's entry of one model: the overall metrics of greedy decoding, `n` questions,
    and `reward_sampled`, the mean reward over the sampled predictions.

    Raises:
        InputError: greedy has not exactly one prediction per question, sampled covers other
            questions, or questions have different numbers of samples.
    """
    greedy_reward = mean_by_question(greedy, "reward")
    if len(greedy_reward) != len(greedy):
        raise InputError(
            f"greedy predictions: {len(greedy)} predictions for {len(greedy_reward)} questions, "
            "expected one each"
        )
    sampled_reward = mean_by_question(sampled, "reward")
    check_same_questions(greedy_reward, sampled_reward)
    overall = metrics_table(greedy).loc[OVERALL].to_dict()
    means = {name: float(overall[name]) for name in METRICS}
    reward_sampled = sum(sampled_reward.values()) / len(sampled_reward)
    return {
        "reward": means.pop("reward"),
        "reward_sampled": reward_sampled,
        **means,
        "n": len(greedy),
    }


def mean_by_question(predictions: Sequence[Prediction], metric: str) -> dict[str, float]:
    """Mean of `metric` over the samples of each question, by question id.

    Raises:
        InputError: questions have different numbers of samples (their mean would then differ
            from the mean over all predictions).
    """
    counts = Counter(p.id for p in predictions)
    if len(set(counts.values())) > 1:
        (most, high), (least, low) = counts.most_common()[0], counts.most_common()[-1]
        raise InputError(
            f"question {least!r} has {low} samples and question {most!r} has {high}; "
            "generate the same number for all"
        )
    values: dict[str, list[float]] = {}
    for prediction in predictions:
        values.setdefault(prediction.id, []).append(metric_value(prediction, metric))
    return {key: sum(found) / len(found) for key, found in values.items()}


def check_same_questions(a: Collection[str] | Mapping[str, object], b: Collection[str]) -> None:
    """Raise an InputError naming one question that only one side has."""
    if missing := set(a) ^ set(b):
        raise InputError(
            f"question {min(missing)!r} and {len(missing) - 1} more were answered on one side "
            "only; evaluate both on the same split"
        )


def metric_value(prediction: Prediction, metric: str) -> float:
    """One of `METRICS` (0..1) or `DETAILS` for one prediction.

    Raises:
        InputError: the prediction has not been scored.
    """
    if metric == "a_score":
        return float(answer_correct(prediction))
    key = _SCORE_KEYS[metric]
    if key not in prediction.scores:
        raise InputError(
            f"prediction {prediction.id!r} sample {prediction.sample} has no score {key!r}; "
            "score the predictions first"
        )
    return float(prediction.scores[key])


def answer_correct(prediction: Prediction) -> bool:
    """Whether the answer is right: exact for closed, single and multi, by text score for open."""
    truth = prediction.truth
    return answer_is_correct(parse_response(prediction.response).answer, truth)


def _values(prediction: Prediction) -> dict[str, str | int | float]:
    values: dict[str, str | int | float] = {
        "id": prediction.id,
        "sample": prediction.sample,
        "question_type": prediction.question_type,
        **{metric: metric_value(prediction, metric) for metric in (*METRICS, *DETAILS)},
    }
    if AR_SCORE in prediction.scores:
        values[AR_SCORE] = prediction.scores[AR_SCORE]
    return values
