"""How sure a difference between two models is: bootstrap intervals paired by question."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from scipy import stats

from recipe.errors import InputError
from recipe.evaluation.metrics import check_same_questions, mean_by_question
from recipe.evaluation.predictions import Prediction

RESAMPLES = 10_000
CONFIDENCE = 0.95


class Gain(TypedDict):
    """A difference of two means and its 95 % interval, in units of the metric (-1..1)."""

    mean: float
    ci95: list[float]


def paired_gain(
    before: Mapping[str, float],
    after: Mapping[str, float],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Gain:
    """Mean of `after - before` over questions, with a percentile bootstrap interval.

    Questions, not answers, are resampled, and both models' values of a drawn question stay
    together (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, sections 13.3 and 16.4).
    The percentile interval is also defined where all differences are equal, and is then a point.

    Args:
        before, after: value of each question, by question id; the ids must be the same.
        seed: of the resampling; the same seed gives the same interval.
        resamples: number of bootstrap samples.

    Raises:
        InputError: the ids differ, or there are fewer than two questions.
    """
    check_same_questions(before, after)
    if len(before) < 2:
        raise InputError(f"an interval needs at least 2 questions, got {len(before)}")
    ids = sorted(before)
    a = np.array([before[i] for i in ids])
    b = np.array([after[i] for i in ids])
    result = stats.bootstrap(
        (b, a),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 10_000_000 // len(ids)),  # bounds memory to about 100 MB an array
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return {"mean": float(np.mean(b - a)), "ci95": [float(low), float(high)]}


def gains(
    before: tuple[Sequence[Prediction], Sequence[Prediction]],
    after: tuple[Sequence[Prediction], Sequence[Prediction]],
    *,
    seed: int = 0,
) -> dict[str, Gain]:
    """The summary's `gain`: reward, reward_sampled, a_score and v_score, `after` minus `before`.

    Each model is a pair (greedy predictions, sampled predictions). A question's
    `reward_sampled` is its mean over the samples.

    Raises:
        InputError: the two models did not answer the same questions.
    """
    pairs = {
        "reward": (before[0], after[0], "reward"),
        "reward_sampled": (before[1], after[1], "reward"),
        "a_score": (before[0], after[0], "a_score"),
        "v_score": (before[0], after[0], "v_score"),
    }
    return {
        name: paired_gain(mean_by_question(a, metric), mean_by_question(b, metric), seed=seed)
        for name, (a, b, metric) in pairs.items()
    }
