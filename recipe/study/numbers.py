"""Means over seeds and questions, with intervals that resample both seeds and patients."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from recipe.errors import InputError
from recipe.evaluation.clusters import Estimate
from recipe.study.runs import VALUES, question_table

RESAMPLES = 5000
CLAIM_MARGIN = 0.02
"""An arm that is worse by less than this, at the interval's lower end, counts as comparable: this
project's choice, since the paper gives none."""

Results = Mapping[str, Mapping[int, dict[str, Any]]]
"""Results by arm and seed."""


def over_seeds(values: Sequence[pd.Series], patients: pd.Series) -> Estimate:
    """Mean and 95 % interval of the same questions' values under several seeds.

    The interval is the wider of two at either end: of a bootstrap over seeds and patients, which
    knows how questions vary but reaches hardly beyond the seeds' own values where they are few, and
    of Student's t over the seeds' means. With one seed it is the bootstrap, for that seed alone.

    Args:
        values: of each seed, indexed by question.
        patients: of each question, with the same index.

    Raises:
        InputError: the seeds did not answer the same questions.
    """
    drawn = two_way_bootstrap(values, patients)
    spread = student_t([float(one.mean()) for one in values])["ci95"]
    if spread is None or drawn["ci95"] is None:
        return drawn
    (low, high), (lower, higher) = drawn["ci95"], spread
    return {"mean": drawn["mean"], "ci95": [min(low, lower), max(high, higher)]}


def two_way_bootstrap(values: Sequence[pd.Series], patients: pd.Series, seed: int = 0) -> Estimate:
    """Mean and 95 % interval in which seeds and patients are drawn, independently.

    Owen, The pigeonhole bootstrap, 2007. There is no interval where there are fewer than two
    patients. Errors as of `over_seeds`.

    Args:
        values: of each seed, indexed by question; numbers, none of them missing.
        patients: of each question, with the same index.
        seed: of the resampling; the same seed gives the same interval.
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
        "ci95": [float(low), float(high)] if n_patients > 1 else None,
    }


def student_t(values: Sequence[float]) -> Estimate:
    """Mean of the seeds' values and its 95 % interval; without an interval where there is one."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return {"mean": mean, "ci95": None}
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return {"mean": mean, "ci95": [mean - half, mean + half]}


def arm_estimate(results: Results, arm: str, metric: str) -> Estimate | None:
    """An arm's metric over all of its seeds; None where it has not been run.

    Of metrics that are not kept by question, such as the sampled reward, the interval is
    `student_t`'s.
    """
    if not (values := seed_values(results, arm, "overall", metric)):
        return None
    if metric not in VALUES:
        return student_t(list(values.values()))
    tables = [question_table(results[arm][seed]) for seed in values]
    return over_seeds([table[metric] for table in tables], tables[0]["patient"])


def difference(results: Results, arm: str, other: str, metric: str) -> Estimate | None:
    """`arm` less `other`, paired by seed and question, over the seeds that both have."""
    if not (values := seed_differences(results, arm, other, "overall", metric)):
        return None
    if metric not in VALUES:
        return student_t(list(values.values()))
    pairs = [
        (question_table(results[arm][seed]), question_table(results[other][seed]))
        for seed in values
    ]
    gains = [one[metric] - two[metric] for one, two in pairs]
    return over_seeds(gains, pairs[0][0]["patient"])


def seed_values(results: Results, arm: str, *keys: str) -> dict[int, float]:
    """An arm's value under each seed that has it, in the order of the seeds; `keys` lead to it."""
    found = {seed: _value(result, keys) for seed, result in sorted(results.get(arm, {}).items())}
    return {seed: value for seed, value in found.items() if value is not None}


def seed_differences(results: Results, arm: str, other: str, *keys: str) -> dict[int, float]:
    """`arm` less `other` under each seed that both have, in the order of the seeds."""
    one, two = seed_values(results, arm, *keys), seed_values(results, other, *keys)
    return {seed: value - two[seed] for seed, value in one.items() if seed in two}


def all_seeds(results: Results) -> list[int]:
    """The seeds under which any arm was run."""
    return sorted({seed for runs in results.values() for seed in runs})


def _value(result: Mapping[str, Any], keys: Sequence[str]) -> float | None:
    """None where the run has no such value, as of a question type that does not occur."""
    found: Any = result
    for key in keys:
        if key not in found:
            return None
        found = found[key]
    return float(found)


def interval(gain: Estimate) -> tuple[float, float]:
    """The 95 % interval; without bounds where there is none."""
    low, high = gain["ci95"] or (-math.inf, math.inf)
    return low, high


def verdict(gain: Estimate) -> str:
    """What a difference to SFT on all data says about "comparable"."""
    if gain["ci95"] is None:
        return "not judged"
    low, high = gain["ci95"]
    if low > 0:
        return "better"
    if low > -CLAIM_MARGIN:
        return "comparable"
    return "worse" if high < 0 else "inconclusive"


def one_seed(seeds: int) -> str:
    """What stands behind a judgement that one seed alone gave."""
    return " (one seed)" if seeds == 1 else ""
