"""Tables of results per question type and overall, the baselines beside the models."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

METRIC_TITLES = {
    "reward": "Reward",
    "reward_sampled": "Reward (sampled)",
    "a_score": "A-score",
    "ar_score": "AR-score",
    "v_score": "V-score",
    "iou_50": "IoU > 0.5",
    "iou_75": "IoU > 0.75",
    "format": "Format",
    "think_grounding": "Grounding of the reasoning",
    "alignment": "Alignment",
    "length": "Characters",
    "n": "Questions",
}
COUNTS = (METRIC_TITLES["length"], METRIC_TITLES["n"])
MAJORITY_TITLE = "majority answer"
PRIOR_TITLE = "region prior"


def comparison(
    models: Mapping[str, pd.DataFrame],
    *,
    sampled: Mapping[str, pd.DataFrame] | None = None,
    majority: pd.DataFrame | None = None,
    region_prior: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Models and baselines side by side, metric by metric.

    Args:
        models: title -> `metrics_table` of greedy predictions.
        sampled: title -> `metrics_table` of sampled predictions, for the sampled reward.
        majority, region_prior: the tables of `recipe.evaluation.baselines`.

    Returns:
        Rows: question types and `overall`. Columns: pairs (metric title, model or baseline), in
        the order of `METRIC_TITLES`; last (`Questions`, ""), how many questions a row has.
    """
    columns: dict[tuple[str, str], pd.Series] = {}
    for metric, title in METRIC_TITLES.items():
        if metric == "reward_sampled":
            columns |= {(title, name): t["reward"] for name, t in (sampled or {}).items()}
        elif metric != "n":
            with_metric = {name: table for name, table in models.items() if metric in table}
            columns |= {(title, name): table[metric] for name, table in with_metric.items()}
        for name, baseline in ((MAJORITY_TITLE, majority), (PRIOR_TITLE, region_prior)):
            if metric != "n" and baseline is not None and metric in baseline:
                columns[title, name] = baseline[metric]
    first = next(iter(models.values()))
    columns[METRIC_TITLES["n"], ""] = first["n"]
    table = pd.DataFrame(columns).reindex(first.index)
    table.columns = pd.MultiIndex.from_tuples(columns)
    return table


def markdown(table: pd.DataFrame, corner: str = "question type") -> str:
    """A Markdown table of a `comparison` or of one model's `metrics_table`.

    Shares have three decimals, counts none; an em dash stands where there is no number. A
    two-level column title is written `metric: model`.
    """
    columns: list[Any] = list(table.columns)
    titles = [
        ": ".join(filter(None, column))
        if isinstance(column, tuple)
        else METRIC_TITLES.get(column, column)
        for column in columns
    ]
    lines = [
        f"| {' | '.join([corner, *titles])} |",
        f"|{'|'.join([' --- ', *[' ---: '] * len(titles)])}|",
    ]
    for label, row in table.iterrows():
        cells = [cell(value, title) for value, title in zip(row, titles, strict=True)]
        lines.append(f"| {' | '.join([str(label), *cells])} |")
    return "\n".join(lines) + "\n"


def cell(value: float, title: str) -> str:
    """A number under a column title, as text."""
    if math.isnan(value):
        return "—"
    is_count = title.split(": ")[0] in COUNTS
    return f"{value:.0f}" if is_count else f"{value:.3f}"
