"""Bootstrap intervals in which patients, not questions, are drawn.

Questions about one patient share its pictures, so they are not independent: a bootstrap over
questions would be too sure. Whole patients are drawn with replacement (the cluster bootstrap; Field
and Welsh, Bootstrapping Clustered Data, 2007), and the mean is over the questions of those drawn.
"""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import pandas as pd

from recipe.errors import InputError
from recipe.evaluation.bootstrap import CONFIDENCE, RESAMPLES
from recipe.evaluation.metrics import check_same_questions

_MOST_DRAWN = 20_000_000  # numbers held in memory at a time


class Estimate(TypedDict):
    """A mean and its 95 % interval; null where fewer than two patients have values."""

    mean: float
    ci95: list[float] | None


def estimates(
    values: pd.DataFrame,
    patients: Sequence[str] | pd.Series,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Estimate]:
    """Mean of each column that has a number, with a percentile interval over resampled patients.

    Args:
        values: a row for each question, a column of numbers for each metric; NaN is left out.
        patients: of each row.
        seed: of the resampling; the same seed gives the same intervals.
        resamples: number of bootstrap samples.
    """
    numbers = values.to_numpy(dtype=float)
    codes, names = pd.factorize(np.asarray(patients))
    present = ~np.isnan(numbers)
    sums, counts = (np.zeros((len(names), numbers.shape[1])) for _ in range(2))
    np.add.at(sums, codes, np.where(present, numbers, 0.0))
    np.add.at(counts, codes, present)
    found: dict[str, Estimate] = {}
    drawn = _resampled(sums, counts, seed, resamples)
    tail = 100 * (1 - CONFIDENCE) / 2
    for column, name in enumerate(values.columns):
        total = counts[:, column].sum()
        if not total:
            continue
        mean = float(sums[:, column].sum() / total)
        interval = None
        if np.count_nonzero(counts[:, column]) > 1:
            ends = np.nanpercentile(drawn[:, column], [tail, 100 - tail])
            interval = [float(end) for end in ends]
        found[str(name)] = {"mean": mean, "ci95": interval}
    return found


def _resampled(sums: np.ndarray, counts: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Means of the resamples, (resamples, metrics); NaN where none of those drawn has a value."""
    draw = np.random.default_rng(seed)
    clusters = len(sums)
    batch = max(1, _MOST_DRAWN // clusters)
    means = []
    for start in range(0, resamples, batch):
        size = min(batch, resamples - start)
        # How often each patient is drawn: multinomial counts in place of lists of patients.
        weights = draw.multinomial(clusters, np.full(clusters, 1 / clusters), size=size)
        with np.errstate(invalid="ignore"):
            means.append((weights @ sums) / (weights @ counts))
    return np.concatenate(means)


def paired(
    before: pd.DataFrame, after: pd.DataFrame, *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Estimate]:
    """Mean of `after - before` for each metric that both have, questions paired.

    Args:
        before, after: of `question_values`, or with its columns `patient` and any metrics.

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
