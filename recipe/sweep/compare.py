"""What came out of the runs of a sweep: a table and a plot."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from recipe.evaluation.files import write_text_atomically
from recipe.reporting.metrics_log import read_metrics
from recipe.sweep.runs import Run

# Comparable between rewards: what boxes and answers are, before weights; then the cost.
COLUMNS = {
    "score": "reward/score/mean",
    "answer": "reward/answer/mean",
    "mean IoU": "reward/mean_iou/mean",
    "IoU > 0.75": "reward/iou_75/mean",
    "format": "reward/format/mean",
    "boxes": "reward/n_boxes/mean",
    "no signal": "reward/group_std/zero",
    "tokens": "response_length/mean",
    "s/step": "timing_s/step",
}
CURVES = ("answer", "mean IoU", "IoU > 0.75", "score")
LAST = 0.2
NOTE = (
    "Means over the last fifth of the steps, of rollouts sampled in training. `score` and `answer` "
    "are those of a run's own reward and do not compare between rewards; the boxes' IoU does."
)


def compare(runs: Sequence[Run], out: Path, notice: str | None) -> pd.DataFrame:
    """Write ``table.csv``, ``table.md`` and ``plot.svg`` of the runs that have metrics.

    Args:
        notice: what the data says of itself, such as that it is synthetic.
    """
    logs = {run.name: read_metrics(run.metrics).table for run in runs if run.metrics.is_file()}
    rows = {run.name: _row(logs[run.name], run) for run in runs if run.name in logs}
    table = pd.DataFrame.from_dict(rows, orient="index")
    if table.empty:
        return table
    write_text_atomically(out / "table.csv", table.to_csv(index_label="run"))
    caption = "\n\n".join(filter(None, [NOTE, notice]))
    write_text_atomically(out / "table.md", f"{_markdown(table)}\n\n{caption}\n")
    _plot(logs, out / "plot.svg")
    return table


def _row(log: pd.DataFrame, run: Run) -> dict[str, object]:
    trained = log[log.index > 0]
    last = trained.tail(max(1, int(LAST * len(trained))))
    row: dict[str, object] = {
        "state": "finished" if run.is_finished else "unfinished",
        "steps": int(trained.index.max()) if len(trained) else 0,
    }
    for title, metric in COLUMNS.items():
        known = metric in last and last[metric].notna().any()
        row[title] = float(last[metric].mean()) if known else None
    validated = [name for name in log if str(name).startswith("val-core/")]
    if validated:
        values = log[validated[0]].dropna()
        row["validation"] = float(values.iloc[-1]) if len(values) else None
    return row


def _markdown(table: pd.DataFrame) -> str:
    head = ["run", *map(str, table.columns)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, row in table.iterrows():
        lines.append("| " + " | ".join([str(name), *map(_cell, row)]) + " |")
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _plot(logs: dict[str, pd.DataFrame], path: Path) -> None:
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    for axes, title in zip(figure.subplots(2, 2).flat, CURVES, strict=True):
        for name, log in logs.items():
            if COLUMNS[title] in log:
                values = log[COLUMNS[title]].dropna()
                smooth = values.rolling(max(1, len(values) // 10), min_periods=1).mean()
                axes.plot(smooth.index, smooth.to_numpy(), label=name, marker=".", markersize=3)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}")
    figure.savefig(unfinished, format="svg")
    unfinished.replace(path)
