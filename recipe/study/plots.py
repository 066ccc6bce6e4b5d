"""The study's plots, as SVG files beside the report."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recipe.reporting.charts import COLOURS
from recipe.study.arms import BY_SHARE, SHARES
from recipe.study.numbers import Results, arm_estimate, seed_values

_STYLE = {"svg.hashsalt": "thinkvg", "svg.fonttype": "none", "font.size": 10}


def fractions_plot(results: Results, path: Path) -> bool:
    """A-score and V-score over the share of the data; returns whether there was any to draw."""
    families = {"SFT": "sft", "SFT + GRPO, dense": "dense"}
    drawn = False
    with rc_context(_STYLE):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        for axes, (metric, title) in zip(
            figure.subplots(1, 2), (("a_score", "A-score"), ("v_score", "V-score")), strict=True
        ):
            for place, (label, family) in enumerate(families.items()):
                drawn |= _family(axes, results, family, metric, label, place)
            _baselines(axes, results, metric)
            axes.set_xscale("log", base=2)
            axes.set_xticks(list(SHARES.values()), ["all", "1/2", "1/4", "1/8", "1/16"])
            axes.set_xlabel("share of the training rows")
            axes.set_ylabel(title)
            axes.grid(alpha=0.3)
        if drawn:
            figure.axes[0].legend(frameon=False)
            _save(figure, path)
    return drawn


def curves_plot(results: Results, arms: Mapping[str, str], path: Path) -> bool:
    """Course of the reward, answers and overlap over GRPO's steps, a faint line for each seed."""
    metrics = {
        "score": "its own reward",
        "answer": "its answer component",
        "mean_iou": "mean IoU",
    }
    drawn = False
    with rc_context(_STYLE):
        figure = Figure(figsize=(11, 3.2), layout="constrained")
        for axes, (metric, title) in zip(figure.subplots(1, 3), metrics.items(), strict=True):
            for (arm, label), colour in zip(arms.items(), COLOURS, strict=False):
                found = [
                    result["curves"][metric]
                    for result in results.get(arm, {}).values()
                    if metric in result["curves"]
                ]
                if not found:
                    continue
                drawn = True
                curves = np.array(found, dtype=float)
                steps = np.arange(1, curves.shape[1] + 1)
                for curve in curves:
                    axes.plot(steps, curve, color=colour, alpha=0.25, linewidth=0.8)
                axes.plot(steps, curves.mean(axis=0), color=colour, linewidth=2, label=label)
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("GRPO step")
            axes.grid(alpha=0.3)
        if drawn:
            figure.axes[0].legend(frameon=False)
            _save(figure, path)
    return drawn


def _family(axes: Axes, results: Results, family: str, metric: str, label: str, place: int) -> bool:
    """Means with intervals and a dot for each seed; families stand side by side."""
    colour, aside = COLOURS[place], 1.08 if place else 1 / 1.08
    shares, means, low, high = [], [], [], []
    for fraction in BY_SHARE:
        share = SHARES[fraction]
        arm = f"{family}-{fraction}"
        found = arm_estimate(results, arm, metric)
        if found is None or found["ci95"] is None:
            continue
        shares.append(share * aside)
        means.append(found["mean"])
        low.append(max(0.0, found["mean"] - found["ci95"][0]))
        high.append(max(0.0, found["ci95"][1] - found["mean"]))
        values = seed_values(results, arm, "overall", metric).values()
        axes.plot([share * aside] * len(values), list(values), "o", color=colour, alpha=0.3)
    if shares:
        bars = [low, high]
        axes.errorbar(shares, means, yerr=bars, fmt="s-", color=colour, capsize=3, label=label)
    return bool(shares)


def _baselines(axes: Axes, results: Results, metric: str) -> None:
    """A dashed line for what knows no picture; the same for all runs on the same data."""
    title = {"a_score": "majority answer", "v_score": "region prior, region told"}[metric]
    for run in results.get("sft-full", {}).values():
        if title in (found := run.get("baselines", {})):
            axes.axhline(found[title][metric], color="#6b7280", linestyle="--", linewidth=1)
            return


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
