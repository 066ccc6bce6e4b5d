"""The results of a model as a Markdown page, from what `recipe.evaluation.results` gives."""

from collections.abc import Iterable, Mapping
from typing import Any

from recipe.evaluation.controls import COMPARED
from recipe.evaluation.metrics import OVERALL
from recipe.evaluation.tables import METRIC_TITLES

BESIDE = ("a_score", "ar_score", "v_score", "iou_50", "iou_75", "reward")
NONE = "—"


def page(results: Mapping[str, Any]) -> str:
    """All tables; values with their 95 % intervals, patients resampled."""
    parts = [
        f"# {results['model']}\n",
        f"{results['overall']['n']} questions about {results['patients']} patients of "
        f"`{results['split']}`, reward preset `{results['preset']}`. In brackets: 95 % intervals, "
        "bootstrapped over patients.\n",
        verdict(results),
        "## By question type\n",
        _by_type(results["intervals"]),
    ]
    if results["samples"]:
        parts += ["## Several samples\n", _by_type(results["samples"])]
    parts += ["## Beside baselines, controls and other models\n", beside_table(results)]
    parts += ["## Model less the others, paired\n", _differences(results)]
    if results["by_region"]:
        parts += ["## By region\n", _by_region(results["by_region"])]
    return "\n".join(parts)


def verdict(results: Mapping[str, Any]) -> str:
    """For each metric of `COMPARED`, whether the model beats all controls, overall and by type."""
    lines = []
    for metric in COMPARED:
        worse = results["no_better_than"][metric]
        title = METRIC_TITLES[metric]
        if worse:
            lines.append(f"- **{title}: no better than the controls** ({'; '.join(worse)}).")
        else:
            lines.append(f"- {title}: above all baselines and controls.")
        for kind, flags in results["no_better_than_by_type"].items():
            if flags[metric] and not worse:
                lines.append(f"  - {kind} questions: no better than {'; '.join(flags[metric])}.")
    return "\n".join(lines) + "\n"


def beside_table(results: Mapping[str, Any]) -> str:
    """The model, its baselines and controls, and other models: a row each."""
    rows = {"**model**": results["intervals"][OVERALL]}
    rows |= results["controls"]
    rows |= results["beside"]
    return _table("", rows, BESIDE)


def estimate(value: Mapping[str, Any] | None, metric: str = "", signed: bool = False) -> str:
    """`0.512 [0.480, 0.544]`; a dash where there is none."""
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


def lines(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; the first column is aligned left, the others right."""
    titles = list(header)
    ruler = "|".join([" --- ", *[" ---: "] * (len(titles) - 1)])
    body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(titles)} |", f"|{ruler}|", *body]) + "\n"


def _table(
    corner: str,
    rows: Mapping[str, Mapping[str, Any]],
    metrics: Iterable[str],
    signed: bool = False,
) -> str:
    shown = [metric for metric in metrics if any(metric in values for values in rows.values())]
    return lines(
        [corner, *(title_of(metric) for metric in shown)],
        (
            [name, *(estimate(values.get(metric), metric, signed) for metric in shown)]
            for name, values in rows.items()
        ),
    )


def _by_type(intervals: Mapping[str, Mapping[str, Any]]) -> str:
    """Metrics down, question types across."""
    metrics = list(intervals[OVERALL])
    return lines(
        ["", *intervals],
        (
            [
                title_of(metric),
                *(estimate(values.get(metric), metric) for values in intervals.values()),
            ]
            for metric in metrics
        ),
    )


def _differences(results: Mapping[str, Any]) -> str:
    rows = {**results["over_controls"], **results["over_beside"]}
    return _table("less", rows, BESIDE, signed=True)


def _by_region(regions: Mapping[str, Mapping[str, Any]]) -> str:
    metrics = ("v_score", "iou_50", "iou_75", "a_score")
    return lines(
        ["region", "boxes", *(title_of(metric) for metric in metrics)],
        (
            [name, str(values["boxes"]), *(estimate(values[metric]) for metric in metrics)]
            for name, values in regions.items()
        ),
    )


def title_of(metric: str) -> str:
    """A metric as a table calls it."""
    if metric.startswith("pass_at_"):
        return f"pass@{metric.removeprefix('pass_at_')}"
    return METRIC_TITLES.get(metric, metric.replace("_", " "))
