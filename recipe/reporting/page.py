"""Puts the page together."""

import json
from dataclasses import dataclass
from typing import Any, cast

import jinja2
from markupsafe import Markup

from recipe.evaluation.baselines import majority_baseline, region_prior_baseline
from recipe.evaluation.metrics import QUESTION_TYPES, metrics_table
from recipe.evaluation.questions import read_questions
from recipe.evaluation.tables import cell, comparison
from recipe.reporting.cases import Viewer, build_viewer
from recipe.reporting.charts import gain_chart
from recipe.reporting.curves import Section, sections
from recipe.reporting.evaluation import evaluation_section
from recipe.reporting.headline import GAIN_TITLES, headline_rows, sentences
from recipe.reporting.origin import data_origin
from recipe.reporting.run_folder import RunFolder

IMAGES = ("synthetic", "all", "none")
"""Which images a page holds: those of phantoms, patients' too, or none."""


@dataclass(frozen=True)
class Layer:
    """Boxes that are shown and hidden together; `style` are their classes in `cases.css`."""

    key: str
    title: str
    style: str


@dataclass(frozen=True)
class StageView:
    """One training stage on the page."""

    title: str
    steps: int
    sections: tuple[Section, ...]
    not_logged: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class TypeTable:
    """The table per question type: a column per type, a group of rows per metric.

    A group is (metric, rows), a row (model or baseline, cells).
    """

    columns: tuple[str, ...]
    groups: tuple[tuple[str, tuple[tuple[str, tuple[str, ...]], ...]], ...]


def render_page(run: RunFolder, cases: int = 2000, images: str = "synthetic") -> str:
    """The whole HTML page of a run, with at most `cases` single questions.

    All texts of the run are escaped; styles, scripts, charts and images are part of the page.
    `images` is one of `IMAGES`.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("recipe.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    summary = run.summary
    chart = None
    if summary:
        gains = {key: summary["gain"][key] for key in GAIN_TITLES}
        chart = Markup(gain_chart(gains, list(GAIN_TITLES.values())))
    origin = data_origin(run)
    with_images = images == "all" or (images == "synthetic" and origin == "phantom")
    viewer = build_viewer(run, cases, with_images)
    return environment.get_template("page.html.j2").render(
        name=run.path.resolve().name,
        origin=origin,
        missing=run.missing,
        summary=summary,
        sentences=sentences(summary) if summary else [],
        headline=headline_rows(summary) if summary else [],
        gain_chart=chart,
        type_table=_type_table(run),
        evaluation=evaluation_section(run.path),
        stages=[_stage(title, run) for title in run.stages],
        models=[run.titles[name] for name in run.greedy],
        viewer=viewer,
        **(_viewer_parts(viewer) if viewer else {}),
    )


def _viewer_parts(viewer: Viewer) -> dict[str, Any]:
    present = {case["kind"] for case in viewer.cases}
    return {
        "kinds": [kind for kind in QUESTION_TYPES if kind in present],
        "layers": _layers(viewer),
        "case_json": _script_json(viewer.to_json()),
        "image_json": _script_json(viewer.images),
    }


def _layers(viewer: Viewer) -> list[Layer]:
    """The reference's boxes, each model's, then those cited in their reasonings."""
    titles = {"truth": "reference"} | viewer.models
    styles = ["truth", *(f"model-{place}" for place in range(1, len(titles)))]
    named = list(zip(titles.items(), styles, strict=True))
    return [
        *(Layer(key, title, style) for (key, title), style in named),
        *(
            Layer(f"{key}-cited", f"{title}, reasoning", f"{style} cited")
            for (key, title), style in named
        ),
    ]


def _script_json(value: Any) -> Markup:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _stage(title: str, run: RunFolder) -> StageView:
    log = run.stages[title]
    found, not_logged = sections(log)
    return StageView(title, len(log.table), tuple(found), tuple(not_logged), log.notes)


def _type_table(run: RunFolder) -> TypeTable | None:
    if not run.greedy:
        return None
    majority = prior = None
    if run.train and run.test:
        answered = {p.index for predictions in run.greedy.values() for p in predictions}
        train = read_questions(run.train)
        # Beside the models: the baselines on the questions that the models answered.
        test = [question for question in read_questions(run.test) if question.index in answered]
        if test:
            majority, prior = majority_baseline(train, test), region_prior_baseline(train, test)
    table = comparison(
        {run.titles[name]: metrics_table(predictions) for name, predictions in run.greedy.items()},
        sampled={run.titles[name]: metrics_table(found) for name, found in run.sampled.items()},
        majority=majority,
        region_prior=prior,
    )
    groups: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for metric, name in cast("list[tuple[str, str]]", list(table.columns)):
        cells = tuple(cell(value, metric) for value in table[metric, name])
        groups.setdefault(metric, []).append((name, cells))
    columns = tuple(str(label) for label in table.index)
    return TypeTable(columns, tuple((metric, tuple(rows)) for metric, rows in groups.items()))
