"""Charts as inline SVG: no script, no external address, sharp when printed."""

import io
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recipe.evaluation.bootstrap import Gain

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


def curve_chart(
    curves: Mapping[str, pd.Series],
    *,
    spreads: Mapping[str, pd.Series] | None = None,
    unit_range: bool = False,
    y_label: str = "",
    wide: bool = False,
    faint: bool = True,
) -> str:
    """Curves over training steps, told apart by colour and dashes.

    Every logged value is drawn faintly (`faint`); the strong line is its moving average. A spread
    (standard deviation, smoothed the same way) becomes a band around that line.

    Args:
        curves: label -> values, indexed by step.
        spreads: label -> standard deviations, for any of the curves.
        unit_range: the values are in 0..1; the axis and the bands then are too.
        y_label: of the y axis, with the unit.
        wide: for a chart that takes a whole row.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=(12.6, 3.3) if wide else (4.0, 2.3), layout="constrained")
        axes = figure.subplots()
        for place, (label, values) in enumerate(curves.items()):
            spread = (spreads or {}).get(label)
            _draw_curve(axes, label, values, spread, place % len(COLOURS), unit_range, faint)
        if unit_range:
            axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("step")
        axes.set_ylabel(y_label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8 if wide else 5))
        axes.ticklabel_format(axis="y", scilimits=(-3, 5))
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        if len(curves) > 1:
            # Many curves leave no room inside.
            aside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if len(curves) > 3 else {}
            axes.legend(frameon=False, handlelength=3, **aside)
        return _svg(figure)


def gain_chart(gains: Mapping[str, Gain], labels: Sequence[str]) -> str:
    """Differences with their intervals, one line each, against zero."""
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
    """Centred moving average over a twentieth of the steps (at least one)."""
    window = max(1, len(values) // 20)
    return values.rolling(window, min_periods=1, center=True).mean()


def _draw_curve(
    axes: Axes,
    label: str,
    values: pd.Series,
    spread: pd.Series | None,
    place: int,
    unit_range: bool,
    faint: bool,
) -> None:
    colour = COLOURS[place]
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
    marker = "o" if len(values) < 3 else None  # a line through one point is invisible
    dashes = _DASHES[place]
    axes.plot(
        steps,
        line,
        color=colour,
        linewidth=2,
        linestyle=(0, dashes) if dashes else "-",
        label=label,
        marker=marker,
        markersize=4,
    )


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    # HTML knows SVG without the namespace declarations, and the page then holds no address at all.
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    # The page's colours, which differ in the dark.
    for place, colour in enumerate(COLOURS, 1):
        text = text.replace(colour, f"var(--curve-{place})")
    text = text.replace(_INK, "var(--chart-ink)").replace(_GRID, "var(--chart-grid)")
    # The page sets the size; the caption beside the chart says what it shows.
    return re.sub(
        r'<svg ([^>]*?)width="[^"]*"', r'<svg aria-hidden="true" \1', text, count=1
    ).replace(_height(text), "", 1)


def _height(text: str) -> str:
    match = re.search(r'\sheight="[^"]*pt"', text[: text.index(">")])
    return match.group(0) if match else ""
