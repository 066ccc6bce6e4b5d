"""Format the results of a model as tables, sentences and a Markdown page."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from recipe.evaluate.controls import COMPARED
from recipe.evaluate.metrics import METHOD, OVERALL
from recipe.evaluate.results import REGION_METRICS
from recipe.evaluate.sets import SET_METRICS, SET_TABLES

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
BESIDE = ("a_score", "ar_score", "v_score", "iou_50", "iou_75", "reward")
"""Metrics in tables that compare a model with controls and other models."""
NONE = "—"


def title_of(metric: str) -> str:
    if metric in SET_METRICS:
        return SET_METRICS[metric]
    if metric.startswith("pass_at_"):
        return f"pass@{metric.removeprefix('pass_at_')}"
    return METRIC_TITLES.get(metric, metric.replace("_", " "))


def cell(value: float, title: str) -> str:
    """Format a number under a column title: shares with three decimals, counts with none."""
    if math.isnan(value):
        return NONE
    return f"{value:.0f}" if title in COUNTS else f"{value:.3f}"


def estimate(value: Mapping[str, Any] | None, metric: str = "", signed: bool = False) -> str:
    """Format an estimate as `0.512 [0.480, 0.544]`, None as a dash."""
    if value is None:
        return NONE
    if metric == "length":
        return f"{value['mean']:.0f}"
    sign = "+" if signed else ""
    text = f"{value['mean']:{sign}.3f}"
    if value["ci95"] is None:
        return text
    low, high = value["ci95"]
    return f"{text} [{low:{sign}.3f}, {high:{sign}.3f}]"


def markdown_table(
    header: Iterable[str], rows: Iterable[Iterable[str]], *, align_right: bool = True
) -> str:
    """Format a Markdown table; all columns but the first are aligned right or left."""
    titles = list(header)
    ruler = "|".join([" --- ", *[" ---: " if align_right else " --- "] * (len(titles) - 1)])
    body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(titles)} |", f"|{ruler}|", *body]) + "\n"


def comparison(
    models: Mapping[str, pd.DataFrame],
    sampled: Mapping[str, pd.DataFrame],
    baselines: Mapping[str, pd.DataFrame],
) -> dict[str, dict[str, pd.Series]]:
    """Put `metrics_table`s of models and of baselines, by title, side by side, metric by metric.

    `sampled` has tables of sampled predictions, for the sampled reward.

    Returns:
        Title of a metric, in the order of `METRIC_TITLES` -> model or baseline -> values by
        question type and `overall`. Last is `Questions`, whose only column "" says how
        many there are.
    """
    first = next(iter(models.values()))
    columns = {}
    for metric, title in METRIC_TITLES.items():
        tables, key = {**models, **baselines}, metric
        if metric == "reward_sampled":
            tables, key = dict(sampled), "reward"
        elif metric == "n":
            tables = {"": first}
        present = {name: table[key] for name, table in tables.items() if key in table}
        if present:
            columns[title] = {name: column.reindex(first.index) for name, column in present.items()}
    return columns


def markdown(table: pd.DataFrame) -> str:
    """Format one model's `metrics_table` as a Markdown table."""
    titles = [title_of(str(metric)) for metric in table.columns]
    rows = ([str(label), *map(cell, row, titles)] for label, row in table.iterrows())
    return markdown_table(["question type", *titles], rows)


def page(results: Mapping[str, Any]) -> str:
    """Format the contents of `metrics.json` as a Markdown page, with 95 % intervals."""
    parts = [
        f"# {results['model']}\n",
        f"{results['overall']['n']} questions about {results['patients']} patients of "
        f"`{results['split']}`, reward preset `{results['preset']}`. In brackets: "
        f"{METHOD}.\n",
        *_server(results.get("server")),
        *_cut_off(results.get("cut_off", {})),
        *_seen(results.get("patients_seen")),
        verdict(results),
        "## By question type\n",
        _by_type(results["intervals"]),
    ]
    if results["samples"]:
        parts += ["## Several samples\n", _by_type(results["samples"])]
    parts += ["## Beside baselines, controls and other models\n", beside_table(results)]
    differences = {**results["over_controls"], **results["over_beside"]}
    parts += ["## Model less the others, paired\n", _by_name("less", differences, signed=True)]
    parts += [part for name, entry in results["sets"].items() for part in _set(name, entry)]
    if results["by_region"]:
        parts += ["## By region\n", _by_region(results["by_region"])]
    return "\n".join(parts)


def _server(server: Mapping[str, Any] | None) -> list[str]:
    if server is None:
        return []
    sampling = ", ".join(f"{key} {value}" for key, value in server["sampling"].items())
    sentence = f"Answered by the server's model `{server['model']}` with {sampling}."
    return ["\n- ".join([sentence, *server["unlike_the_engine"]]) + "\n"]


def _cut_off(counts: Mapping[str, int]) -> list[str]:
    """Name the files with responses that were not complete, which lowers their scores."""
    cut = [f"{count} of `{name}`" for name, count in counts.items() if count]
    line = f"Responses cut off at `data.max_response_length`: {', '.join(cut)}.\n"
    return [line] if cut else []


def _seen(patients: int | None) -> list[str]:
    return [f"The model was trained on {patients} of these patients.\n"] if patients else []


def verdict(results: Mapping[str, Any]) -> str:
    """Say for each metric of `COMPARED` whether the model beats all controls, also by type."""
    lines = []
    for metric in COMPARED:
        worse, weak_types = _weaknesses(metric, results)
        title = METRIC_TITLES[metric]
        if metric not in results["intervals"][OVERALL]:
            lines.append(f"- {title}: no question has a truth for it.")
        elif worse:
            lines.append(f"- **{title}: no better than the controls** ({worse}).")
        else:
            lines.append(f"- {title}: above all baselines and controls.")
            lines += [
                f"  - {kind} questions: no better than {controls}."
                for kind, controls in weak_types.items()
            ]
    return "\n".join(lines) + "\n"


def verdict_sentence(metric: str, results: Mapping[str, Any]) -> str:
    """Say the `verdict` on one metric in a sentence."""
    worse, weak_types = _weaknesses(metric, results)
    title = METRIC_TITLES[metric]
    if metric not in results["intervals"][OVERALL]:
        return f"{title}: no question has a truth for it."
    if worse:
        return f"{title}: no better than {worse}."
    weak = [f"{kind} questions no better than {names}" for kind, names in weak_types.items()]
    return ", but ".join([f"{title}: above all baselines and controls", *weak]) + "."


def _weaknesses(metric: str, results: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Return the controls that a model does not beat: overall, and by question type."""
    by_type = results["no_better_than_by_type"].items()
    weak_types = {kind: "; ".join(flags[metric]) for kind, flags in by_type if flags[metric]}
    return "; ".join(results["no_better_than"][metric]), weak_types


def beside_table(results: Mapping[str, Any]) -> str:
    """Format a table with a row for the model, each baseline, control and other model."""
    rows = {"**model**": results["intervals"][OVERALL]}
    return _by_name("", rows | results["controls"] | results["beside"])


def estimate_rows(
    rows: Iterable[tuple[str, Mapping[str, Any]]], metrics: Iterable[str], *, signed: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Return titles of metrics, and estimates by row, after its name; nothing without values."""
    chosen = list(metrics)
    named = [(name, values) for name, values in rows if any(each in values for each in chosen)]
    present = [metric for metric in chosen if any(metric in values for _, values in named)]
    body = [
        [name, *(estimate(values.get(metric), metric, signed) for metric in present)]
        for name, values in named
    ]
    return [title_of(metric) for metric in present], body


def _by_name(corner: str, rows: Mapping[str, Mapping[str, Any]], *, signed: bool = False) -> str:
    titles, body = estimate_rows(rows.items(), BESIDE, signed=signed)
    return markdown_table([corner, *titles], body)


def _set(name: str, entry: Mapping[str, Any]) -> list[str]:
    """Format the metrics of an external set, for the model and what stands beside it."""
    lines = [
        f"## Set {name}\n",
        f"{entry['questions']} questions about {entry['patients']} patients (images, where the set "
        "names no patient); definitions in docs/evaluation.md.\n",
    ]
    for metrics in SET_TABLES.values():
        titles, body = estimate_rows(entry["rows"].items(), metrics)
        less, differences = estimate_rows(entry["less"].items(), metrics, signed=True)
        if body:
            lines.append(markdown_table(["", *titles], body))
            lines.append(markdown_table(["model less", *less], differences))
    return lines


def _by_type(intervals: Mapping[str, Mapping[str, Any]]) -> str:
    """Format metrics as rows and question types as columns."""
    cells = (
        [
            title_of(metric),
            *(estimate(values.get(metric), metric) for values in intervals.values()),
        ]
        for metric in intervals[OVERALL]
    )
    return markdown_table(["", *intervals], cells)


def _by_region(regions: Mapping[str, Mapping[str, Any]]) -> str:
    cells = (
        [name, str(values["boxes"]), *(estimate(values.get(metric)) for metric in REGION_METRICS)]
        for name, values in regions.items()
    )
    return markdown_table(["region", "boxes", *map(title_of, REGION_METRICS)], cells)
