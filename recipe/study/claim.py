"""The part of docs/results.md on the paper's claim: RL on less data against SFT on all."""

import statistics
from collections.abc import Iterator
from typing import Any

from recipe.evaluation.markdown import estimate, lines
from recipe.study.arms import BY_NAME, BY_SHARE
from recipe.study.numbers import (
    CLAIM_MARGIN,
    Results,
    difference,
    interval,
    one_seed,
    seed_differences,
    verdict,
)
from recipe.study.tables import METRICS, gain_cell, table

CLAIM_METRICS = ("a_score", "v_score", "iou_75")


def claim_table(results: Results) -> str:
    """Every share, with SFT alone and with GRPO after it, less SFT on all of the data."""
    rows = []
    for arm in _less_data(results):
        cells = (_judged(results, arm, metric) for metric in CLAIM_METRICS)
        rows.append([BY_NAME[arm].title, *cells])
    return table(["less SFT on all data", *(METRICS[metric] for metric in CLAIM_METRICS)], rows)


def loss(results: Results) -> str:
    """What SFT alone loses on the smallest share that was run; "" where there is none."""
    for fraction in BY_SHARE[:-1]:
        gains = {m: difference(results, f"sft-{fraction}", "sft-full", m) for m in CLAIM_METRICS}
        said = ", ".join(
            f"{METRICS[metric]} {estimate(gain, signed=True)}"
            for metric, gain in gains.items()
            if gain
        )
        if said:
            share = fraction.replace("of", "/")
            return (
                f"SFT alone changes by this much from all of the data to {share}: {said}. That "
                "is all that RL on less data has to make up here."
            )
    return ""


def half_width(results: Results) -> float | None:
    """Median half-width of the claim's intervals; None where there is none."""
    gains = [
        difference(results, arm, "sft-full", metric)
        for arm in _less_data(results)
        for metric in CLAIM_METRICS
    ]
    found = (gain for gain in gains if gain is not None and gain["ci95"] is not None)
    widths = [(high - low) / 2 for low, high in map(interval, found)]
    return statistics.median(widths) if widths else None


def budget_table(budget: dict[str, Any]) -> str:
    """How many rows each share has, and how often SFT sees them."""
    samples = budget["sft_samples"]
    rows = [
        [
            "all" if fraction == "full" else fraction.replace("of", "/"),
            f"{budget['rows'][fraction]:,}",
            f"{samples / budget['rows'][fraction]:.2f}",
            f"{min(samples, budget['rows'][fraction]):,}",
        ]
        for fraction in BY_SHARE
    ]
    return lines(["share of the data", "rows", "passes of SFT", "different rows SFT sees"], rows)


def margin() -> str:
    """What counts as comparable, in words."""
    return (
        "*Better*: the interval of the difference lies above 0. Otherwise *comparable*: above "
        f"{-CLAIM_MARGIN:+.2f}, a margin that this project chose (the paper gives none). Otherwise "
        "*worse*: below 0. *Inconclusive*: the rest."
    )


def _less_data(results: Results) -> Iterator[str]:
    if "sft-full" in results:
        for fraction in BY_SHARE:
            arms = (f"sft-{fraction}", f"dense-{fraction}")
            yield from (arm for arm in arms if fraction != "full" and arm in results)


def _judged(results: Results, arm: str, metric: str) -> str:
    gain = difference(results, arm, "sft-full", metric)
    said = gain_cell(results, arm, "sft-full", metric)
    seeds = len(seed_differences(results, arm, "sft-full", "overall", metric))
    return f"{said}: **{verdict(gain)}**{one_seed(seeds)}" if gain else said
