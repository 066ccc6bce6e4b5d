"""Render the page: headline, results by question type, training curves, cases."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import jinja2
from markupsafe import Markup

from recipe.evaluate.controls import COMPARED, majority_baseline, region_prior_baseline
from recipe.evaluate.metrics import METHOD, OVERALL, direction, metrics_table
from recipe.evaluate.predictions import read_questions
from recipe.evaluate.tables import (
    BESIDE,
    MAJORITY_TITLE,
    PRIOR_TITLE,
    cell,
    comparison,
    estimate_rows,
    title_of,
    verdict_sentence,
)
from recipe.report.cases import Viewer, build_viewer
from recipe.report.charts import Section, gain_chart, training_sections
from recipe.report.run_folder import RunFolder, data_origin
from reward.ground_truth import QUESTION_TYPES

IMAGES = ("synthetic", "all", "none")
"""Which images a page holds: those of phantoms, patients' too, or none."""
GAIN_TITLES = {
    "reward": "Reward, greedy",
    "reward_sampled": "Reward, sampled",
    "a_score": "A-score",
    "v_score": "V-score",
}
_HEADLINE = (
    ("reward", "Reward, greedy", "mean dense reward of the most likely response"),
    ("reward_sampled", "Reward, sampled", "mean dense reward of responses drawn at temperature 1"),
    ("a_score", "A-score", "share of right answers"),
    ("v_score", "V-score", "mean overlap (IoU) of the answer's regions"),
    ("iou_50", "IoU > 0.5", "share of regions that overlap by more than half"),
    ("iou_75", "IoU > 0.75", "share of regions that overlap by more than three quarters"),
    ("format", "Format", "share of responses in the exact form"),
)
_CHANGES = {
    "higher": "raised",
    "lower": "lowered",
    "no clear difference": "did not clearly change",
}


@dataclass(frozen=True)
class HeadlineRow:
    """One metric: both models, the gain with its interval and a verdict, the baseline."""

    title: str
    explanation: str
    sft: float
    grpo: float
    gain: str
    verdict: str
    baseline: str


@dataclass(frozen=True)
class TypeTable:
    """The table per question type: a column per type, a group of rows per metric.

    A group is (metric, rows), a row (model or baseline, cells).
    """

    columns: tuple[str, ...]
    groups: tuple[tuple[str, tuple[tuple[str, tuple[str, ...]], ...]], ...]


@dataclass(frozen=True)
class Table:
    """A table of texts; a folded table is closed when the page opens."""

    title: str
    header: list[str]
    rows: list[list[str]]
    folded: bool = True


@dataclass(frozen=True)
class Evaluation:
    """A model compared with baselines and controls."""

    title: str
    verdicts: list[str]
    tables: list[Table]


@dataclass(frozen=True)
class StageView:
    """One training stage on the page."""

    title: str
    steps: int
    sections: tuple[Section, ...]
    not_logged: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """Boxes that are shown and hidden together; `style` holds their classes in `cases.css`."""

    key: str
    title: str
    style: str


def render_page(run: RunFolder, cases: int = 2000, images: str = "synthetic") -> str:
    """Render a run as one HTML page, with styles, scripts, charts and images in it.

    All texts of the run are escaped. The page has at most that many `cases`, and `images` of
    `IMAGES`.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("recipe.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    origin = data_origin(run)
    with_images = images == "all" or (images == "synthetic" and origin == "phantom")
    viewer = build_viewer(run, cases, with_images)
    return environment.get_template("page.html.j2").render(
        name=run.path.resolve().name,
        origin=origin,
        missing=run.missing,
        summary=run.summary,
        **(_headline_parts(run.summary) if run.summary else {}),
        type_table=_type_table(run),
        evaluations=evaluations(run),
        method=METHOD,
        stages=[_stage(title, run) for title in run.stages],
        models=[run.titles[name] for name in run.greedy],
        viewer=viewer,
        **(_viewer_parts(viewer) if viewer else {}),
    )


def _headline_parts(summary: Mapping[str, Any]) -> dict[str, Any]:
    gains = {key: summary["gain"][key] for key in GAIN_TITLES}
    return {
        "sentences": headline_sentences(summary),
        "headline": headline_rows(summary),
        "gain_chart": Markup(gain_chart(gains, list(GAIN_TITLES.values()))),
    }


def headline_rows(summary: Mapping[str, Any]) -> list[HeadlineRow]:
    """Return the rows of the headline table, in a fixed order."""
    sft, grpo = summary["models"]["sft"], summary["models"]["grpo"]
    baselines = _baselines(summary)
    rows = []
    for key, title, explanation in _HEADLINE:
        gain = summary["gain"].get(key)
        rows.append(
            HeadlineRow(
                title=title,
                explanation=explanation,
                sft=sft[key],
                grpo=grpo[key],
                gain=_gain_text(gain) if gain else _signed(grpo[key] - sft[key]),
                verdict=direction(gain) if gain else "",
                baseline=", ".join(f"{value:.3f} ({name})" for name, value in baselines[key]),
            )
        )
    return rows


def headline_sentences(summary: Mapping[str, Any]) -> list[str]:
    """Return sentences that state the direction of the gains and the comparison with baselines."""
    grpo, gain = summary["models"]["grpo"], summary["gain"]
    sampled, greedy = (_CHANGES[direction(gain[key])] for key in ("reward_sampled", "reward"))
    sentences = [
        f"Over {grpo['n']} held-out questions, GRPO {sampled} the mean reward of sampled responses "
        f"and {greedy} that of greedy ones.",
    ]
    for key in ("a_score", "v_score"):
        for name, value in _baselines(summary)[key]:
            relation = "above" if grpo[key] > value else "not above"
            sentences.append(
                f"Its {title_of(key)} of {grpo[key]:.3f} is {relation} the {name} baseline's "
                f"{value:.3f}."
            )
    return sentences


def _baselines(summary: Mapping[str, Any]) -> dict[str, list[tuple[str, float]]]:
    """Return the titles and values of the baselines of each metric."""
    majority, prior = summary["baselines"]["majority"], summary["baselines"]["region_prior"]
    by_metric: dict[str, list[tuple[str, float]]] = {key: [] for key, *_ in _HEADLINE}
    for name, values in ((MAJORITY_TITLE, majority), (PRIOR_TITLE, prior)):
        for key, value in values.items():
            by_metric[key].append((name, value))
    return by_metric


def _gain_text(gain: Mapping[str, Any]) -> str:
    low, high = gain["ci95"]
    return f"{_signed(gain['mean'])} ({_signed(low)} to {_signed(high)})"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _type_table(run: RunFolder) -> TypeTable | None:
    if not run.greedy:
        return None
    majority = prior = None
    if run.train and run.test:
        answered = {p.index for predictions in run.greedy.values() for p in predictions}
        train = read_questions(run.train)
        # Baselines must be on the same questions as the models.
        test = [question for question in read_questions(run.test) if question.index in answered]
        if test:
            majority, prior = majority_baseline(train, test), region_prior_baseline(train, test)
    table = comparison(
        {run.titles[name]: metrics_table(greedy) for name, greedy in run.greedy.items()},
        sampled={run.titles[name]: metrics_table(sampled) for name, sampled in run.sampled.items()},
        majority=majority,
        region_prior=prior,
    )
    groups: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for metric, name in cast("list[tuple[str, str]]", list(table.columns)):
        cells = tuple(cell(value, metric) for value in table[metric, name])
        groups.setdefault(metric, []).append((name, cells))
    columns = tuple(str(label) for label in table.index)
    return TypeTable(columns, tuple((metric, tuple(rows)) for metric, rows in groups.items()))


def evaluations(run: RunFolder) -> list[Evaluation]:
    """Return the comparison of each evaluated model with baselines and controls."""
    return [_evaluation(run.titles[model], metrics) for model, metrics in run.metrics.items()]


def _evaluation(title: str, metrics: Mapping[str, Any]) -> Evaluation:
    # Pairs, since another model may have the same title.
    all_models = [
        (title, metrics["intervals"][OVERALL]),
        *metrics["controls"].items(),
        *metrics["beside"].items(),
    ]
    differences = [*metrics["over_controls"].items(), *metrics["over_beside"].items()]
    by_type, samples = metrics["intervals"], metrics["samples"]
    tables = [
        _table("All together", all_models, BESIDE, folded=False),
        _table(f"{title} less the others", differences, BESIDE, signed=True),
        _table("By question type", by_type.items(), by_type[OVERALL]),
    ]
    if samples:
        tables.append(_table("Several samples", samples.items(), samples[OVERALL]))
    if metrics["by_region"]:
        regions = metrics["by_region"].items()
        tables.append(_table("By region", regions, ("v_score", "iou_75", "a_score")))
    return Evaluation(title, [verdict_sentence(metric, metrics) for metric in COMPARED], tables)


def _table(
    title: str,
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    metrics: Iterable[str],
    *,
    signed: bool = False,
    folded: bool = True,
) -> Table:
    titles, body = estimate_rows(rows, metrics, signed=signed)
    return Table(title, ["", *titles], body, folded)


def _stage(title: str, run: RunFolder) -> StageView:
    log = run.stages[title]
    sections, not_logged = training_sections(log)
    return StageView(title, len(log.table), tuple(sections), tuple(not_logged), log.notes)


def _viewer_parts(viewer: Viewer) -> dict[str, Any]:
    present = {case["kind"] for case in viewer.cases}
    return {
        "kinds": [kind for kind in QUESTION_TYPES if kind in present],
        "layers": _layers(viewer),
        "case_json": _script_json(viewer.to_json()),
        "image_json": _script_json(viewer.images),
    }


def _layers(viewer: Viewer) -> list[Layer]:
    """Return layers for the answer boxes of reference and models, then for their cited boxes."""
    titles = {"truth": "reference"} | viewer.models
    styles = ["truth", *(f"model-{number}" for number in range(1, len(titles)))]
    named = list(zip(titles.items(), styles, strict=True))
    return [
        *(Layer(key, title, style) for (key, title), style in named),
        *(
            Layer(f"{key}-cited", f"{title}, reasoning", f"{style} cited")
            for (key, title), style in named
        ),
    ]


def _script_json(value: Any) -> Markup:
    """Return JSON that cannot close the script element around it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))
