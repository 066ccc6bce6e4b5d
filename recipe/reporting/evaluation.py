"""The report's section on controls, intervals, samples and regions, from `metrics.json`."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from recipe.errors import InputError
from recipe.evaluation.controls import COMPARED
from recipe.evaluation.markdown import BESIDE, estimate, title_of
from recipe.evaluation.metrics import OVERALL
from recipe.evaluation.tables import METRIC_TITLES
from recipe.reporting.run_folder import MODELS

TEMPLATE = Path(__file__).with_name("evaluation.html.j2")


@dataclass(frozen=True)
class Table:
    """A table of texts; a folded one is closed at first."""

    title: str
    header: list[str]
    rows: list[list[str]]
    folded: bool = True


@dataclass(frozen=True)
class Evaluation:
    """One model's part of the section."""

    title: str
    verdicts: list[str]
    tables: list[Table]


def evaluation_section(run: Path) -> Markup:
    """The section's HTML, empty where no model of the run has controls.

    Raises:
        InputError: a metrics.json that is no JSON.
    """
    found = [
        _evaluation(title, metrics)
        for name, title in MODELS.items()
        if "over_controls" in (metrics := _read(run / "eval" / name / "metrics.json"))
    ]
    if not found:
        return Markup("")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return Markup(template.render(models=found))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON ({error.msg})") from error
    return loaded


def _evaluation(title: str, metrics: Mapping[str, Any]) -> Evaluation:
    verdicts = [_verdict(metric, metrics) for metric in COMPARED]
    beside = {title: metrics["intervals"][OVERALL], **metrics["controls"], **metrics["beside"]}
    less = {**metrics["over_controls"], **metrics["over_beside"]}
    tables = [
        _down("All together", beside, BESIDE, folded=False),
        _down(f"{title} less the others", less, BESIDE, signed=True),
        _down("By question type", metrics["intervals"], list(metrics["intervals"][OVERALL])),
    ]
    if metrics["samples"]:
        found = metrics["samples"]
        tables.append(_down("Several samples", found, list(found[OVERALL])))
    if metrics["by_region"]:
        tables.append(_down("By region", metrics["by_region"], ("v_score", "iou_75", "a_score")))
    return Evaluation(title, verdicts, tables)


def _verdict(metric: str, metrics: Mapping[str, Any]) -> str:
    worse = "; ".join(metrics["no_better_than"][metric])
    if worse:
        return f"{METRIC_TITLES[metric]}: no better than {worse}."
    weak = [
        f"{kind} questions no better than {'; '.join(flags[metric])}"
        for kind, flags in metrics["no_better_than_by_type"].items()
        if flags[metric]
    ]
    return (
        ", but ".join([f"{METRIC_TITLES[metric]}: above all baselines and controls", *weak]) + "."
    )


def _down(
    title: str,
    rows: Mapping[str, Mapping[str, Any]],
    metrics: Iterable[str],
    *,
    signed: bool = False,
    folded: bool = True,
) -> Table:
    """Names down, metrics across; a metric that no row has is left out."""
    shown = [metric for metric in metrics if any(metric in values for values in rows.values())]
    body = [
        [name, *(estimate(values.get(metric), metric, signed) for metric in shown)]
        for name, values in rows.items()
    ]
    return Table(title, ["", *map(title_of, shown)], body, folded)
