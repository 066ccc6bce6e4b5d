"""Means over seeds and questions, with intervals that resample both seeds and patients."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from recipe.errors import InputError
from recipe.evaluation.clusters import Estimate
from recipe.study.runs import question_table

RESAMPLES = 5000
CLAIM_MARGIN = 0.02
"""An arm that is worse by less than this, at the interval's lower end, counts as comparable."""

Results = Mapping[str, Mapping[int, dict[str, Any]]]
"""Results by arm and seed."""


def over_seeds(values: Sequence[pd.Series], patients: pd.Series, seed: int = 0) -> Estimate:
    """Mean and 95 % interval of the same questions' values under several seeds.

    Seeds and patients are drawn with replacement, independently (a two-way bootstrap; Owen, The
    pigeonhole bootstrap, 2007). With one seed the interval holds for that seed alone.

    Args:
        values: of each seed, indexed by question.
        patients: of each question, with the same index.

    Raises:
        InputError: the seeds did not answer the same questions.
    """
    for one in values:
        if not one.index.equals(patients.index):
            raise InputError("the seeds of an arm did not answer the same questions")
    codes, names = pd.factorize(patients)
    sums = np.array(
        [np.bincount(codes, one.to_numpy(dtype=float), minlength=len(names)) for one in values]
    )
    counts = np.bincount(codes, minlength=len(names)).astype(float)
    draw = np.random.default_rng(seed)
    n_seeds, n_patients = sums.shape
    seed_weights = draw.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=RESAMPLES)
    weights = draw.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=RESAMPLES)
    means = ((seed_weights / n_seeds) @ sums * weights).sum(axis=1) / (weights @ counts)
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "mean": float(sums.mean(axis=0).sum() / counts.sum()),
        "ci95": [float(low), float(high)],
    }


def arm_estimate(results: Results, arm: str, metric: str) -> Estimate | None:
    """An arm's metric over all of its seeds; None where it has not been run."""
    tables = [question_table(result) for _, result in sorted(results.get(arm, {}).items())]
    if not tables:
        return None
    return over_seeds([table[metric] for table in tables], tables[0]["patient"])


def difference(results: Results, arm: str, other: str, metric: str) -> Estimate | None:
    """`arm` less `other`, paired by seed and question, over the seeds that both have."""
    seeds = sorted(results.get(arm, {}).keys() & results.get(other, {}).keys())
    if not seeds:
        return None
    pairs = [
        (question_table(results[arm][seed]), question_table(results[other][seed])) for seed in seeds
    ]
    gains = [one[metric] - two[metric] for one, two in pairs]
    return over_seeds(gains, pairs[0][0]["patient"])


def seed_values(results: Results, arm: str, metric: str) -> list[float]:
    """An arm's metric under each seed, in the order of the seeds."""
    return [
        float(question_table(result)[metric].mean())
        for _, result in sorted(results.get(arm, {}).items())
    ]


def interval(gain: Estimate) -> tuple[float, float]:
    """The 95 % interval; without bounds where there is none."""
    low, high = gain["ci95"] or (-math.inf, math.inf)
    return low, high


def verdict(gain: Estimate) -> str:
    """What a difference to SFT on all data says about "comparable"."""
    low, high = interval(gain)
    if low > 0:
        return "better"
    if low > -CLAIM_MARGIN:
        return "comparable"
    return "worse" if high < 0 else "not shown to be comparable"
