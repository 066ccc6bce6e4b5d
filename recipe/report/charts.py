"""Draw charts of a training log and of gains as inline SVG, without scripts or addresses."""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recipe.metrics_log import MetricsLog
from reward.ground_truth import QUESTION_TYPES
from reward.settings import COMPONENTS

# Okabe & Ito's palette, distinguishable with colour-vision deficiencies.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#f0e442", "#56b4e9")
_DASHES = ((), (6, 2), (1.5, 1.5), (6, 2, 1.5, 2), (3, 1.5), (9, 3))
_INK, _GRID = "#374151", "#e5e7eb"
_STYLE = {
    "svg.fonttype": "none",  # text stays text: searchable, small, in the page's own font
    "svg.hashsalt": "thinkvg",  # same data, same file
    "font.family": "sans-serif",
    "font.sans-serif": ["system-ui", "DejaVu Sans"],
    "font.size": 10,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_FOLDED = ("Reward by question type", "Validation during training", "Diagnostics of the reward")
SHARES = (*COMPONENTS, "score", "mean_iou", "iou_50", "iou_75", "box_count_match")
_REWARD_MEAN = re.compile(r"reward/(.+)/mean")


@dataclass(frozen=True)
class Chart:
    """One figure of the page; the caption says the same in words."""

    title: str
    svg: Markup
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """A titled group of charts; a `folded` section is closed when the page opens."""

    title: str
    charts: tuple[Chart, ...]
    folded: bool = False


@dataclass(frozen=True)
class _Curve:
    title: str
    metrics: dict[str, str]  # label -> metric name
    y_label: str = ""
    wide: bool = False
    spread: str = ""  # name of the metric that is the curve's standard deviation
    unit_range: bool = False
    faint: bool = True


SFT_CURVE = _Curve(
    "Training and validation",
    {"training": "train/loss", "validation": "val/loss"},
    "loss",
    wide=True,
)
COURSE_CURVES = (
    _Curve("Response length", {"mean": "response_length/mean"}, "tokens"),
    _Curve("Reasoning length", {"mean": "reasoning_length/mean"}, "tokens"),
    _Curve("Responses cut off at the limit", {"share": "response_length/clip_ratio"}),
    _Curve("KL of the update", {"old to new policy": "actor/ppo_kl"}, "nats"),
    _Curve("KL to the reference", {"KL loss": "actor/kl_loss"}, "nats"),
    _Curve(
        "Rollout against actor: probability gap",
        {"mean |difference|": "training/rollout_probs_diff_mean"},
    ),
    _Curve("Spread of the reward within a group", {"standard deviation": "reward/group_std/mean"}),
    _Curve("Groups without a signal", {"share": "reward/group_std/zero"}),
    _Curve("Tokens a second and GPU", {"throughput": "perf/throughput"}),
    _Curve("Time per step", {"step": "timing_s/step"}, "seconds"),
)


def training_sections(log: MetricsLog) -> tuple[list[Section], list[str]]:
    """Make the charts of a training log, and list the expected metrics that it lacks.

    SFT logs (`train/loss`) get the loss; reinforcement-learning logs get the reward, its
    components, the course of training, validation and diagnostics.
    """
    table = log.table.dropna(axis="columns", how="all")
    if "train/loss" in table:
        missing = [name for name in SFT_CURVE.metrics.values() if name not in table]
        return [Section("Loss", _charts(table, [SFT_CURVE]))], missing
    total = "reward/score/mean" if "reward/score/mean" in table else "critic/score/mean"
    expected = [total, *(f"reward/{name}/mean" for name in COMPONENTS)]
    expected += [name for curve in COURSE_CURVES for name in curve.metrics.values()]
    groups = _policy_curves(table)
    sections = [Section(title, _charts(table, groups[title]), title in _FOLDED) for title in groups]
    missing = [name for name in expected if name not in table]
    return [section for section in sections if section.charts], missing


def _policy_curves(table: pd.DataFrame) -> dict[str, list[_Curve]]:
    """Return the curves of reinforcement learning by the title of their section."""
    names = sorted(map(str, table.columns))
    diagnostics = (match[1] for match in map(_REWARD_MEAN.fullmatch, names) if match)
    known = (*COMPONENTS, "score", "group_std")
    validation = (name for name in names if name.startswith("val-core/"))
    return {
        "Reward": _reward_curves(table),
        "Reward by question type": [
            _Curve(_words(name), {kind: f"by_type/{kind}/{name}/mean" for kind in QUESTION_TYPES})
            for name in ("score", *COMPONENTS)
        ],
        "Course of training": list(COURSE_CURVES),
        "Validation during training": [
            _Curve(name.removeprefix("val-core/"), {"value": name}) for name in validation
        ],
        "Diagnostics of the reward": [
            _component(name, _words(name)) for name in diagnostics if name not in known
        ],
    }


def _reward_curves(table: pd.DataFrame) -> list[_Curve]:
    """Return the total reward, its parts together if there are several, and each part."""
    total = _component("score", "Total reward", wide=True)
    if "reward/score/mean" not in table:
        total = _Curve("Total reward", {"mean": "critic/score/mean"}, wide=True)
    parts = [name for name in COMPONENTS if f"reward/{name}/mean" in table]
    means = {_words(name): f"reward/{name}/mean" for name in parts}
    together = _Curve("Parts of the reward", means, wide=True, unit_range=True, faint=False)
    each = [_component(name, _words(name)) for name in parts]
    return [total, together, *each] if len(parts) > 1 else [total, *each]


def _component(name: str, title: str, wide: bool = False) -> _Curve:
    mean, std = f"reward/{name}/mean", f"reward/{name}/std"
    return _Curve(title, {"mean": mean}, wide=wide, spread=std, unit_range=name in SHARES)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _charts(table: pd.DataFrame, curves: Iterable[_Curve]) -> tuple[Chart, ...]:
    """Draw the curves of which a metric was logged."""
    charts = []
    for curve in curves:
        values = {label: table[name] for label, name in curve.metrics.items() if name in table}
        if values:
            svg = curve_chart(
                values,
                spreads={"mean": table[curve.spread]} if curve.spread in table else None,
                unit_range=curve.unit_range,
                y_label=curve.y_label,
                wide=curve.wide,
                faint=curve.faint,
            )
            charts.append(Chart(curve.title, Markup(svg), _in_words(values), curve.wide))
    return tuple(charts)


def _in_words(curves: dict[str, pd.Series]) -> str:
    """Describe the smoothed ends: `mean: 0.41 at step 1, 0.52 at step 150`."""
    parts = []
    for label, series in curves.items():
        values = series.dropna()
        ends = smooth(values)
        parts.append(
            f"{label}: {ends.iloc[0]:.3g} at step {values.index[0]}, "
            f"{ends.iloc[-1]:.3g} at step {values.index[-1]}"
        )
    return "; ".join(parts)


def curve_chart(
    curves: Mapping[str, pd.Series],
    *,
    spreads: Mapping[str, pd.Series] | None = None,
    unit_range: bool = False,
    y_label: str = "",
    wide: bool = False,
    faint: bool = True,
) -> str:
    """Draw curves over training steps, by label, which differ in colour and dashes.

    The strong line is the moving average of the logged values, the `faint` one these values. A
    spread (standard deviation, smoothed the same way) becomes a band around the curve of its label.
    With `unit_range` values are in 0..1, and axis and bands are limited to that.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=(12.6, 3.3) if wide else (4.0, 2.3), layout="constrained")
        axes = figure.subplots()
        for number, (label, values) in enumerate(curves.items()):
            spread = (spreads or {}).get(label)
            _draw_curve(axes, label, values, spread, number % len(COLOURS), unit_range, faint)
        if unit_range:
            axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("step")
        axes.set_ylabel(y_label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8 if wide else 5))
        axes.ticklabel_format(axis="y", scilimits=(-3, 5))
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        if len(curves) > 1:
            # Many curves leave no room for a legend inside the axes.
            aside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if len(curves) > 3 else {}
            axes.legend(frameon=False, handlelength=3, **aside)
        return _svg(figure)


def gain_chart(gains: Mapping[str, Mapping[str, Any]], labels: Sequence[str]) -> str:
    """Draw differences and their intervals, one row each, against zero."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(9.2, 0.45 * len(gains) + 0.75), layout="constrained")
        axes = figure.subplots()
        for row, gain in enumerate(gains.values()):
            low, high = gain["ci95"]
            axes.plot([low, high], [row, row], color=COLOURS[0], linewidth=3, alpha=0.55)
            axes.plot([gain["mean"]], [row], "o", color=COLOURS[0], markersize=8)
        axes.axvline(0, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_yticks(range(len(gains)), labels)
        axes.set_ylim(len(gains) - 0.5, -0.5)
        axes.set_xlabel("GRPO minus SFT (dot: mean, bar: 95 % interval)")
        axes.grid(axis="x", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        return _svg(figure)


def smooth(values: pd.Series) -> pd.Series:
    """Return the centred moving average over a twentieth of the steps (at least one)."""
    window = max(1, len(values) // 20)
    return values.rolling(window, min_periods=1, center=True).mean()


def _draw_curve(
    axes: Axes,
    label: str,
    values: pd.Series,
    spread: pd.Series | None,
    number: int,
    unit_range: bool,
    faint: bool,
) -> None:
    colour, dashes = COLOURS[number], _DASHES[number]
    values = values.dropna()
    steps, line = values.index.to_numpy(), smooth(values).to_numpy()
    if spread is not None:
        half = smooth(spread.reindex(values.index).fillna(0.0)).to_numpy()
        low, high = line - half, line + half
        if unit_range:
            low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
        axes.fill_between(steps, low, high, color=colour, alpha=0.14, linewidth=0)
    if faint:
        axes.plot(steps, values.to_numpy(), color=colour, linewidth=0.8, alpha=0.4)
    axes.plot(
        steps,
        line,
        color=colour,
        linewidth=2,
        linestyle=(0, dashes) if dashes else "-",
        label=label,
        marker="o" if len(values) < 3 else None,  # a line through one point is invisible
        markersize=4,
    )


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(stream, format="svg", transparent=True, metadata=no_metadata)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    # HTML needs no namespace declarations, and without them the page contains no address.
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    # The page defines the colours, which differ in its dark mode.
    for number, colour in enumerate(COLOURS, 1):
        text = text.replace(colour, f"var(--curve-{number})")
    text = text.replace(_INK, "var(--chart-ink)").replace(_GRID, "var(--chart-grid)")
    # The page sets the size, and the caption describes the chart to screen readers.
    tag, end, rest = text.partition(">")
    tag = re.sub(r'\s(?:width|height)="[^"]*"', "", tag)
    return tag.replace("<svg ", '<svg aria-hidden="true" ', 1) + end + rest
