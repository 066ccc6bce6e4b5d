"""Puts the page together."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import jinja2
from markupsafe import Markup

from recipe.evaluation.baselines import majority_baseline, region_prior_baseline
from recipe.evaluation.metrics import metrics_table
from recipe.evaluation.questions import read_questions
from recipe.evaluation.tables import cell, comparison
from recipe.reporting.cases import build_cases
from recipe.reporting.charts import gain_chart
from recipe.reporting.curves import Section, sections
from recipe.reporting.evaluation import evaluation_section
from recipe.reporting.headline import GAIN_TITLES, headline_rows, sentences
from recipe.reporting.origin import data_origin
from recipe.reporting.run_folder import MODELS, RunFolder

TEMPLATE = Path(__file__).with_name("template.html")
LAYERS = {
    "truth": "reference: answer",
    "reasoning": "reference: reasoning",
    "sft": "SFT",
    "grpo": "GRPO",
}


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


def render_page(run: RunFolder, cases: int = 24) -> str:
    """The whole HTML page of a run, with at most `cases` single questions.

    All texts of the run are escaped; styles, charts and images are part of the page.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    summary = run.summary
    chart = None
    if summary:
        gains = {key: summary["gain"][key] for key in GAIN_TITLES}
        chart = Markup(gain_chart(gains, list(GAIN_TITLES.values())))
    return template.render(
        name=run.path.resolve().name,
        origin=data_origin(run),
        missing=run.missing,
        summary=summary,
        sentences=sentences(summary) if summary else [],
        headline=headline_rows(summary) if summary else [],
        gain_chart=chart,
        type_table=_type_table(run),
        evaluation=evaluation_section(run.path),
        stages=[_stage(title, run) for title in run.stages],
        cases=build_cases(run, cases),
        layers=LAYERS,
        models=[MODELS[name] for name in run.greedy],
    )


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
        {MODELS[name]: metrics_table(predictions) for name, predictions in run.greedy.items()},
        sampled={MODELS[name]: metrics_table(found) for name, found in run.sampled.items()},
        majority=majority,
        region_prior=prior,
    )
    groups: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for metric, name in cast("list[tuple[str, str]]", list(table.columns)):
        cells = tuple(cell(value, metric) for value in table[metric, name])
        groups.setdefault(metric, []).append((name, cells))
    columns = tuple(str(label) for label in table.index)
    return TypeTable(columns, tuple((metric, tuple(rows)) for metric, rows in groups.items()))
