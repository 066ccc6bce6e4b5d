"""A-score, V-score and their companions, and bootstrap intervals of them.

Questions about a patient share pictures, so they are not independent: a bootstrap over questions
gives intervals that are too narrow. Patients are drawn with replacement (the cluster bootstrap;
Field and Welsh, Bootstrapping Clustered Data, 2007), and the mean is over their questions.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from math import comb
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from data_prep.program import InputError
from recipe.evaluate.predictions import AR_SCORE, Prediction
from reward.answers import answer_is_correct, parse_letters, parse_yes_no
from reward.ground_truth import QUESTION_TYPES, GroundTruth
from reward.response import parse_response
from reward.text import canonical

OVERALL = "overall"
METRICS = ("reward", "a_score", "v_score", "iou_50", "iou_75", "format")
DETAILS = ("think_grounding", "alignment", "length")
"""Grounding of the reasoning, agreement of reasoning and answer (both in 0..1), and characters."""
WITHOUT_TRUTH: dict[str, tuple[str, ...]] = {
    "both": (),
    "answer": ("v_score", "iou_50", "iou_75", "think_grounding"),
    "boxes": ("a_score", "think_grounding"),
}
"""Metrics that a question has no truth for, by what is scored in it."""
MAJORITY = "majority_vote"
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


def answer_correct(prediction: Prediction) -> bool:
    """Return whether the answer is right: exact for closed and choices, by text score for open."""
    return answer_is_correct(parse_response(prediction.response).answer, prediction.truth)


def metric_value(prediction: Prediction, metric: str) -> float:
    """Return one of `METRICS` (0..1) or `DETAILS` of one prediction.

    It is NaN, which means and intervals leave out, if the question has no truth for it.

    Raises:
        InputError: the prediction has not been scored.
    """
    if metric in WITHOUT_TRUTH[prediction.scored]:
        return math.nan
    if metric == "a_score":
        return float(answer_correct(prediction))
    key = _SCORE_KEYS[metric]
    if key not in prediction.scores:
        raise InputError(
            f"prediction {prediction.id!r} sample {prediction.sample} has no score {key!r}; "
            "score the predictions first"
        )
    return float(prediction.scores[key])


def prediction_values(predictions: Sequence[Prediction]) -> pd.DataFrame:
    """Return a row per prediction, in order: `id`, `sample`, `question_type` and every metric.

    Raises:
        InputError: there are no predictions, or one has not been scored.
    """
    if not predictions:
        raise InputError("no predictions to evaluate")
    rows = []
    for prediction in predictions:
        row: dict[str, str | int | float] = {
            "id": prediction.id,
            "sample": prediction.sample,
            "question_type": prediction.question_type,
            **{metric: metric_value(prediction, metric) for metric in (*METRICS, *DETAILS)},
        }
        if AR_SCORE in prediction.scores:
            row[AR_SCORE] = prediction.scores[AR_SCORE]
        rows.append(row)
    return pd.DataFrame(rows)


def metrics_in(values: pd.DataFrame) -> list[str]:
    """Return the metrics among the columns of `values`, in the order in which they are reported."""
    known = (*METRICS[:2], AR_SCORE, *METRICS[2:], *DETAILS)
    return [metric for metric in known if metric in values.columns]


def split_by_type(values: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the rows of each `question_type` that occurs, and all rows as `overall`."""
    groups = {str(kind): values[values["question_type"] == kind] for kind in QUESTION_TYPES}
    return {kind: rows for kind, rows in groups.items() if len(rows)} | {OVERALL: values}


def table_by_type(values: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return the means of `columns` and the row count `n`, per `question_type` and overall."""
    groups = split_by_type(values)
    table = pd.DataFrame(
        {kind: rows[list(columns)].astype(float).mean() for kind, rows in groups.items()}
    ).T
    table["n"] = [len(rows) for rows in groups.values()]
    return table


def metrics_table(predictions: Sequence[Prediction]) -> pd.DataFrame:
    """Compute the mean of every metric and the number of predictions `n`.

    Returns:
        Rows: the question types that occur, in the order of `QUESTION_TYPES`, then `overall`.
        Columns: `METRICS`, `DETAILS`, `ar_score` if a judge gave some, and `n`.
    """
    values = prediction_values(predictions)
    return table_by_type(values, metrics_in(values))


def question_values(predictions: Sequence[Prediction]) -> pd.DataFrame:
    """Return one row per question, indexed by its id: means over its samples.

    Returns:
        Columns: `patient` (the id if the data names none), `question_type`, and the metrics of
        `metrics_in`. A judged score is NaN if all samples of the question lack it.
    """
    values = prediction_values(predictions)
    groups = values.groupby("id", sort=False)
    table = groups[metrics_in(values)].mean()
    table.insert(0, "question_type", groups["question_type"].first())
    table.insert(0, "patient", pd.Series({p.id: p.patient for p in predictions}))
    return table


def summary_metrics(
    greedy: Sequence[Prediction], sampled: Sequence[Prediction]
) -> dict[str, float | int | None]:
    """Compute one model's entry of the summary.

    Returns:
        The overall metrics of greedy decoding, None for those that no question has a truth for, `n`
        questions, and `reward_sampled`, the mean reward of the sampled predictions, None without
        any.

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
    sampled_reward = mean_by_question(sampled, "reward") if sampled else {}
    if sampled_reward:
        check_same_questions(greedy_reward, sampled_reward)
    overall = metrics_table(greedy).loc[OVERALL].to_dict()
    means = {name: number_or_none(overall[name]) for name in METRICS}
    return {
        "reward": means.pop("reward"),
        "reward_sampled": sum(sampled_reward.values()) / len(sampled_reward) if sampled else None,
        **means,
        "n": len(greedy),
    }


def number_or_none(value: float) -> float | None:
    """Return a number for JSON, which has no NaN."""
    return None if math.isnan(value) else float(value)


def mean_by_question(predictions: Sequence[Prediction], metric: str) -> dict[str, float]:
    """Return the mean of `metric` over the samples of each question, by question id.

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
    values = pd.Series([metric_value(p, metric) for p in predictions], [p.id for p in predictions])
    means = values.groupby(level=0, sort=False).mean()
    return {str(question): float(mean) for question, mean in means.items()}


def check_same_questions(a: Collection[str], b: Collection[str]) -> None:
    """Refuse two sides with different question ids; name one that only one side has."""
    if missing := set(a) ^ set(b):
        raise InputError(
            f"question {min(missing)!r} and {len(missing) - 1} more were answered on one side "
            "only; evaluate both on the same split"
        )


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Return the probability that at least one of `k` samples is right (pass@k).

    The unbiased estimate 1 - C(n-c, k) / C(n, k) from n `samples` of which c are `right` (Chen et
    al., Evaluating Large Language Models Trained on Code, 2021).
    """
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def sample_values(predictions: Sequence[Prediction]) -> pd.DataFrame:
    """Return pass@k and the majority vote of each question, indexed by its id.

    Returns:
        Columns: `patient`, `question_type`, `pass_at_K` for K = 1, 2, 4 … up to the number of
        samples, and `majority_vote` (1 if the most frequent answer is right, else 0).

    Raises:
        InputError: questions have different numbers of samples.
    """
    questions: dict[str, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        questions[prediction.id].append(prediction)
    counts = {len(samples) for samples in questions.values()}
    if len(counts) != 1:
        raise InputError(
            f"the samples: between {min(counts, default=0)} and {max(counts, default=0)} for a "
            "question; generate the same number for all"
        )
    ks = [2**power for power in range(counts.pop().bit_length())]
    rows = {question: _sample_row(samples, ks) for question, samples in questions.items()}
    return pd.DataFrame(rows).T.infer_objects()


def _sample_row(samples: list[Prediction], ks: list[int]) -> dict[str, str | float]:
    if "a_score" in WITHOUT_TRUTH[samples[0].scored]:
        return {
            "patient": samples[0].patient,
            "question_type": samples[0].question_type,
            **{f"pass_at_{k}": math.nan for k in ks},
            MAJORITY: math.nan,
        }
    right = [answer_correct(prediction) for prediction in samples]
    return {
        "patient": samples[0].patient,
        "question_type": samples[0].question_type,
        **{f"pass_at_{k}": pass_at_k(len(samples), sum(right), k) for k in ks},
        MAJORITY: float(right[vote(samples)]),
    }


def vote(samples: Sequence[Prediction]) -> int:
    """Return the position of the first sample with the most frequent answer; on a tie the earliest.

    Answers are the same if they are read as the same side, set of letters, or words. A sample
    without a readable answer has no vote. If no sample has one, the first is returned.
    """
    truth = samples[0].truth
    answers = [_answer_key(parse_response(sample.response).answer, truth) for sample in samples]
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        return 0
    most = max(counts.values())
    return next(i for i, answer in enumerate(answers) if answer and counts[answer] == most)


def _answer_key(answer: str | None, truth: GroundTruth) -> Hashable:
    """Return a value that is equal for equal answers, None if there is no readable answer."""
    if answer is None or not answer.strip():
        return None
    if truth.question_type == "closed":
        return parse_yes_no(answer)
    if truth.question_type == "open":
        return canonical(answer).strip(" .") or None
    return parse_letters(answer, truth.choices) or None


RESAMPLES = 10_000
CONFIDENCE = 0.95
METHOD = "95 % intervals, bootstrapped over patients; differences are paired by question"
"""How tables and pages describe every interval."""
_MOST_WEIGHTS = 20_000_000  # numbers held in memory at a time


class Estimate(TypedDict):
    """A mean and its 95 % interval; the interval is None if fewer than two patients have values."""

    mean: float
    ci95: list[float] | None


Formula = Callable[[Mapping[str, Any]], Any]
"""A metric from the means of columns, by name: numbers, or arrays of all resamples."""


def is_above_zero(gain: Estimate) -> bool:
    """Return whether the 95 % interval lies above zero."""
    return gain["ci95"] is not None and gain["ci95"][0] > 0


def direction(gain: Estimate) -> str:
    """Return `higher` or `lower` if the interval excludes zero, else `no clear difference`."""
    if is_above_zero(gain):
        return "higher"
    is_below = gain["ci95"] is not None and gain["ci95"][1] < 0
    return "lower" if is_below else "no clear difference"


def estimates(
    values: pd.DataFrame,
    patients: Sequence[str] | pd.Series,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    derived: Mapping[str, Formula] | None = None,
) -> dict[str, Estimate]:
    """Estimate the mean of each column that has a number, with a percentile interval.

    A row of `values` is a question; NaN is left out. The same seed gives the same intervals.
    `derived` are metrics of the whole set that are calculated from the means of columns.
    """
    groups = values.astype(float).groupby(np.asarray(patients), sort=False)
    sums, counts = groups.sum().to_numpy(), groups.count().to_numpy()
    names = [str(name) for name in values.columns]
    with np.errstate(invalid="ignore"):
        means = dict(zip(names, sums.sum(axis=0) / counts.sum(axis=0), strict=True))
        drawn = dict(zip(names, _resampled_means(sums, counts, seed, resamples).T, strict=True))
        patients_with = dict(zip(names, np.count_nonzero(counts, axis=0), strict=True))
        for name, formula in (derived or {}).items():
            means[name], drawn[name] = formula(means), formula(drawn)
            patients_with[name] = len(sums)
    tail = 100 * (1 - CONFIDENCE) / 2
    by_metric: dict[str, Estimate] = {}
    for name, mean in means.items():
        if math.isnan(mean):
            continue
        interval = None
        if patients_with[name] > 1:
            interval = [float(end) for end in np.nanpercentile(drawn[name], [tail, 100 - tail])]
        by_metric[name] = {"mean": float(mean), "ci95": interval}
    return by_metric


def _resampled_means(sums: np.ndarray, counts: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Return the means, (resamples, metrics); NaN if no patient of a resample has a value."""
    generator = np.random.default_rng(seed)
    clusters = len(sums)
    batch = max(1, _MOST_WEIGHTS // clusters)
    means = []
    for start in range(0, resamples, batch):
        size = min(batch, resamples - start)
        # How often each patient is drawn: multinomial counts in place of lists of patients.
        weights = generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=size)
        with np.errstate(invalid="ignore"):
            means.append((weights @ sums) / (weights @ counts))
    return np.concatenate(means)


def paired(
    before: pd.DataFrame, after: pd.DataFrame, *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Estimate]:
    """Estimate the mean of `after - before` for each metric that both have, questions paired.

    Both are from `question_values`, or tables with its column `patient` and any metrics.

    Raises:
        InputError: the questions differ, or belong to other patients.
    """
    check_same_questions([str(i) for i in before.index], [str(i) for i in after.index])
    after = after.loc[before.index]
    if (before["patient"] != after["patient"]).any():
        raise InputError("the two sides give the same questions to other patients")
    metrics = [
        name
        for name in before.columns
        if name in after.columns and name not in ("patient", "question_type")
    ]
    difference = after[metrics].astype(float) - before[metrics].astype(float)
    return estimates(difference, before["patient"], seed=seed, resamples=resamples)
