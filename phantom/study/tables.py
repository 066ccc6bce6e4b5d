"""Tables and plots of docs/results.md: arms, differences between them, the claim, and training."""

import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phantom.study.plan import ARMS, BY_NAME, BY_SHARE, NO_REASONING, share_of, share_title
from phantom.study.results import (
    Results,
    all_seeds,
    arm_estimate,
    difference,
    seed_differences,
    seed_values,
    verdict,
)
from recipe.evaluate.tables import NONE, estimate, markdown_table
from recipe.program import FRACTIONS
from recipe.report.charts import COLOURS
from reward.ground_truth import QUESTION_TYPES

METRICS = {
    "a_score": "A-score",
    "v_score": "V-score",
    "iou_75": "IoU > 0.75",
    "reward": "reward, greedy",
    "reward_sampled": "reward, sampled",
}
CLAIM_METRICS = ("a_score", "v_score", "iou_75")
PASS = "pass_at_"
CURVES = {"score": "its own reward", "answer": "its answer component", "mean_iou": "mean IoU"}
PAIRS = (
    ("dense-full", "sft-full"),
    ("paper-full", "sft-full"),
    *((f"dense-{fraction}", f"sft-{fraction}") for fraction in BY_SHARE if fraction != "full"),
    ("paper-full", "dense-full"),
    ("no_think_grounding", "dense-full"),
    ("no_alignment", "dense-full"),
    (NO_REASONING, f"sft-{NO_REASONING}"),
    ("sft-full", f"sft-{NO_REASONING}"),
    ("dense-full", NO_REASONING),
    ("rl-full", "base"),
)
"""Arms that are compared: GRPO with SFT, each reward with `dense`, reasoning with no reasoning."""
_STYLE = {"svg.hashsalt": "thinkvg", "svg.fonttype": "none", "font.size": 10}


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table, or a sentence if there are no rows."""
    return markdown_table(header, rows) if rows else "No results.\n"


def arms_table(results: Results) -> str:
    return _by_arm(results, METRICS, lambda arm, metric: _cell(results, arm, metric))


def samples_table(results: Results) -> str:
    """Return pass@k, for each k that was evaluated, and the majority vote."""
    runs = (run for by_seed in results.values() for run in by_seed.values())
    keys = {key for run in runs for key in (run["samples"] or {}).get("overall", ())}
    powers = sorted(int(key.removeprefix(PASS)) for key in keys if key.startswith(PASS))
    titles = {f"{PASS}{k}": f"pass@{k}" for k in powers} | {"majority_vote": "majority vote"}

    def cell(arm: str, key: str) -> str:
        return _mean_and_seeds(results, arm, "samples", "overall", key, "mean")

    return _by_arm(results, titles, cell)


def types_table(results: Results) -> str:
    """Return the A-score of greedy answers for each question type and arm."""

    def cell(arm: str, kind: str) -> str:
        return _mean_and_seeds(results, arm, "intervals", kind, "a_score", "mean")

    return _by_arm(results, {kind: kind for kind in QUESTION_TYPES}, cell)


def flags(results: Results) -> str:
    """Return which arms are no better than which controls, and under how many seeds."""
    items = [
        f"- {arm.title}: {METRICS[metric]} no better than {controls}."
        for arm in ARMS
        for metric in ("a_score", "v_score")
        if (controls := flagged(results, arm.name, metric))
    ]
    if not items:
        return "In A- and V-score over all questions, each of these arms beats all its controls.\n"
    intro = "Arms that do not clearly beat a baseline or control, over all questions:"
    return f"{intro}\n\n" + "\n".join(items) + "\n"


def flagged(results: Results, arm: str, metric: str) -> str:
    """Return the controls that an arm does not clearly beat, with the number of seeds, or ""."""
    runs = results.get(arm, {}).values()
    counts = Counter(title for run in runs for title in run["no_better_than"][metric])
    total = f"{len(runs)} {'seed' if len(runs) == 1 else 'seeds'}"
    return "; ".join(f"{title} ({count} of {total})" for title, count in counts.items())


def differences_table(results: Results) -> str:
    """Return the differences of `PAIRS` in every metric."""
    rows = [
        [
            f"{BY_NAME[arm].title} *less* {BY_NAME[reference].title}",
            *(gain_cell(results, arm, reference, metric) for metric in METRICS),
        ]
        for arm, reference in PAIRS
        if seed_differences(results, arm, reference, "overall", "a_score")
    ]
    return table(["", *METRICS.values()], rows)


def gain_cell(results: Results, arm: str, reference: str, metric: str) -> str:
    """Return the difference of two arms: mean, interval, and each seed's difference."""
    if not (_has_meaning(arm, metric) and _has_meaning(reference, metric)):
        return NONE
    if not (values := seed_differences(results, arm, reference, "overall", metric)):
        return NONE
    gain = estimate(difference(results, arm, reference, metric), signed=True)
    return _with_seeds(results, gain, values, "+")


def claim_table(results: Results) -> str:
    """Return, for every share, SFT alone and SFT + GRPO, each less SFT on all of the data."""
    rows = [
        [BY_NAME[arm].title, *(_judged_cell(results, arm, metric) for metric in CLAIM_METRICS)]
        for arm in _arms_on_less_data(results)
    ]
    return table(["less SFT on all data", *(METRICS[metric] for metric in CLAIM_METRICS)], rows)


def loss(results: Results) -> str:
    """Return what SFT alone loses on the smallest share that was run; "" if none was."""
    for fraction in BY_SHARE[:-1]:
        gains = [
            f"{METRICS[metric]} {estimate(gain, signed=True)}"
            for metric in CLAIM_METRICS
            if (gain := difference(results, f"sft-{fraction}", "sft-full", metric))
        ]
        if gains:
            return (
                "SFT alone changes by this much from all of the data to "
                f"{share_title(fraction)}: {', '.join(gains)}. That is all that RL on less data "
                "has to make up here."
            )
    return ""


def half_width(results: Results) -> float | None:
    """Return the median half-width of the claim's intervals; None if there are none."""
    gains = (
        difference(results, arm, "sft-full", metric)
        for arm in _arms_on_less_data(results)
        for metric in CLAIM_METRICS
    )
    intervals = [gain["ci95"] for gain in gains if gain is not None and gain["ci95"] is not None]
    return statistics.median((high - low) / 2 for low, high in intervals) if intervals else None


def budget_table(budget: dict[str, Any]) -> str:
    """Return how many rows each share has, and how often SFT sees them."""
    samples = budget["sft_samples"]
    rows = [
        [
            share_title(fraction).removesuffix(" data"),
            f"{budget['rows'][fraction]:,}",
            f"{samples / budget['rows'][fraction]:.2f}",
            f"{min(samples, budget['rows'][fraction]):,}",
        ]
        for fraction in BY_SHARE
    ]
    return markdown_table(
        ["share of the data", "rows", "passes of SFT", "different rows SFT sees"], rows
    )


def _arms_on_less_data(results: Results) -> list[str]:
    arms = [f"{family}-{fraction}" for fraction in BY_SHARE[:-1] for family in ("sft", "dense")]
    return [arm for arm in arms if arm in results and "sft-full" in results]


def _judged_cell(results: Results, arm: str, metric: str) -> str:
    cell = gain_cell(results, arm, "sft-full", metric)
    gain = difference(results, arm, "sft-full", metric)
    note = few_seeds(results, arm, "sft-full", metric)
    return f"{cell}: **{verdict(gain)}**{note}" if gain else cell


def few_seeds(results: Results, arm: str, reference: str, metric: str) -> str:
    """Return a note for a judgement that rests on one or two seeds, and "" for more seeds."""
    gains = seed_differences(results, arm, reference, "overall", metric)
    return {1: " (one seed)", 2: " (two seeds)"}.get(len(gains), "")


def curves_table(results: Results) -> str:
    """Return the training rollouts' reward in the first and in the last fifth of the steps."""
    rows = []
    for arm in ("paper-full", "dense-full"):
        for seed, result in sorted(results.get(arm, {}).items()):
            cells = [_ends(result["curves"].get(key, [])) for key in CURVES]
            rows.append([f"{BY_NAME[arm].title}, seed {seed}", *cells])
    return table(["", *CURVES.values()], rows)


def without_format(results: Results) -> str:
    """Return the arms that hardly ever write the strict form, except those without reasoning."""
    shares = {
        arm.title: statistics.fmean(values.values())
        for arm in ARMS
        if arm.reasoning and (values := seed_values(results, arm.name, "overall", "format"))
    }
    rare = ", ".join(f"{title} ({share:.3f})" for title, share in shares.items() if share < 0.1)
    return (
        f"Share of greedy answers in the strict form: {rare}. With hardly an answer in it, A- and "
        "V-score are near 0 and GRPO has little to reinforce.\n"
        if rare
        else ""
    )


def _by_arm(results: Results, titles: dict[str, str], cell: Callable[[str, str], str]) -> str:
    """Return a table with a row for each arm; `cell` is called with an arm and a key of titles."""
    rows = [
        [arm.title, *(cell(arm.name, key) for key in titles)] for arm in ARMS if arm.name in results
    ]
    return table(["", *titles.values()], rows)


def _has_meaning(arm: str, metric: str) -> bool:
    """Return whether a metric applies: `dense` rewards reasoning, which some arms never write."""
    return BY_NAME[arm].reasoning or not metric.startswith("reward")


def _cell(results: Results, arm: str, metric: str) -> str:
    if not _has_meaning(arm, metric):
        return NONE
    values = seed_values(results, arm, "overall", metric)
    return _with_seeds(results, estimate(arm_estimate(results, arm, metric)), values)


def _mean_and_seeds(results: Results, arm: str, *keys: str) -> str:
    if not (values := seed_values(results, arm, *keys)):
        return NONE
    return _with_seeds(results, f"{statistics.fmean(values.values()):.3f}", values)


def _with_seeds(results: Results, mean: str, values: dict[int, float], sign: str = "") -> str:
    """Return the mean, and if the page has several seeds, a value for each, in their order."""
    seeds = all_seeds(results)
    if len(seeds) == 1:
        return mean
    shown = (f"{values[seed]:{sign}.3f}" if seed in values else NONE for seed in seeds)
    return f"{mean}; {' '.join(shown)}"


def _ends(curve: list[float | None]) -> str:
    values = [value for value in curve if value is not None]
    if not values:
        return NONE
    part = max(1, len(values) // 5)
    return f"{sum(values[:part]) / part:.3f} to {sum(values[-part:]) / part:.3f}"


def fractions_plot(results: Results, path: Path) -> bool:
    """Draw A-score and V-score over the share of the data; return whether there were any."""
    families = {"SFT": "sft", "SFT + GRPO, dense": "dense"}
    shares = {share_title(name).removesuffix(" data"): share_of(name) for name in FRACTIONS}
    with rc_context(_STYLE):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        for axes, metric in zip(figure.subplots(1, 2), ("a_score", "v_score"), strict=True):
            for index, (label, family) in enumerate(families.items()):
                _draw_family(axes, results, family, metric, label, index)
            _draw_baseline(axes, results, metric)
            axes.set_xscale("log", base=2)
            axes.set_xticks(list(shares.values()), list(shares))
            axes.set_xlabel("share of the training rows")
            axes.set_ylabel(METRICS[metric])
        return _save(figure, path)


def curves_plot(results: Results, arms: Mapping[str, str], path: Path) -> bool:
    """Draw reward, answers and overlap over GRPO's steps; return whether there were any."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(11, 3.2), layout="constrained")
        for axes, (metric, title) in zip(figure.subplots(1, 3), CURVES.items(), strict=True):
            for (arm, label), colour in zip(arms.items(), COLOURS, strict=False):
                curves = [
                    result["curves"][metric]
                    for result in results.get(arm, {}).values()
                    if metric in result["curves"]
                ]
                if curves:
                    _draw_curves(axes, np.array(curves, dtype=float), colour, label)
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("GRPO step")
        return _save(figure, path)


def _draw_curves(axes: Axes, curves: np.ndarray, colour: str, label: str) -> None:
    """Draw a faint curve for each seed, (seeds, steps), and their mean."""
    steps = np.arange(1, curves.shape[1] + 1)
    for curve in curves:
        axes.plot(steps, curve, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(steps, curves.mean(axis=0), color=colour, linewidth=2, label=label)


def _draw_family(
    axes: Axes, results: Results, family: str, metric: str, label: str, index: int
) -> None:
    colour, shift = COLOURS[index], 1.08 if index else 1 / 1.08  # so that families do not overlap
    shares, means, low, high = [], [], [], []
    for fraction in BY_SHARE:
        arm, x = f"{family}-{fraction}", share_of(fraction) * shift
        value = arm_estimate(results, arm, metric)
        if value is None or value["ci95"] is None:
            continue
        shares.append(x)
        means.append(value["mean"])
        low.append(max(0.0, value["mean"] - value["ci95"][0]))
        high.append(max(0.0, value["ci95"][1] - value["mean"]))
        dots = list(seed_values(results, arm, "overall", metric).values())
        axes.plot([x] * len(dots), dots, "o", color=colour, alpha=0.3)
    if shares:
        bars = [low, high]
        axes.errorbar(shares, means, yerr=bars, fmt="s-", color=colour, capsize=3, label=label)


def _draw_baseline(axes: Axes, results: Results, metric: str) -> None:
    """Draw a dashed line for a baseline that sees no picture; it is the same for all runs."""
    title = {"a_score": "majority answer", "v_score": "region prior, region told"}[metric]
    for run in results.get("sft-full", {}).values():
        if title in (baselines := run.get("baselines", {})):
            axes.axhline(baselines[title][metric], color="#6b7280", linestyle="--", linewidth=1)
            return


def _save(figure: Figure, path: Path) -> bool:
    """Save a figure in which something with a label is drawn; return whether it is.

    Otherwise an earlier one is removed, which would show results that are no longer there.
    """
    if not any(axes.get_legend_handles_labels()[0] for axes in figure.axes):
        path.unlink(missing_ok=True)
        return False
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    figure.axes[0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
    return True
