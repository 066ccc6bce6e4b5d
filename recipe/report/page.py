"""Render the page: headline, results by question type, training curves, cases."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import jinja2
from markupsafe import Markup

from recipe.evaluate.controls import (
    COMPARED,
    OVERLAPS,
    has_regions,
    majority_values,
    region_prior_values,
)
from recipe.evaluate.metrics import METHOD, OVERALL, direction, metrics_table, table_by_type
from recipe.evaluate.predictions import read_questions
from recipe.evaluate.sets import SET_TABLES
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
from recipe.report.cases import PARTS, Viewer, build_viewer
from recipe.report.charts import gain_chart, training_sections
from recipe.report.run_folder import RunFolder, data_origin
from reward.ground_truth import QUESTION_TYPES

IMAGES = ("synthetic", "all", "none")
"""Which images a page holds: those of phantoms, patients' too, or none."""
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


Parts = dict[str, Any]
"""What a template shows, by name."""


def render_page(run: RunFolder, cases: int = 2000, images: str = "synthetic") -> str:
    """Render a run as one HTML page, with styles, scripts, charts and images in it.

    All texts of the run are escaped. `images` is one of `IMAGES`.
    """
    origin = data_origin(run)
    with_images = images == "all" or (images == "synthetic" and origin == "phantom")
    viewer = build_viewer(run, cases, with_images)
    return template("page.html.j2").render(
        name=run.path.resolve().name,
        origin=origin,
        missing=run.missing,
        summary=run.summary,
        **(_headline_parts(run.summary) if run.summary else {}),
        type_table=_type_table(run) if run.greedy else None,
        evaluations=evaluations(run),
        method=METHOD,
        stages=[_stage(title, run) for title in run.stages],
        models=[run.titles[name] for name in run.greedy],
        viewer=viewer,
        **(_viewer_parts(viewer) if viewer else {}),
    )


def template(name: str) -> jinja2.Template:
    """Return one of the templates beside this file; what it shows is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("recipe.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _headline_parts(summary: Mapping[str, Any]) -> Parts:
    titles = {key: title for key, title, _ in _HEADLINE if key in summary["gain"]}
    gains = {key: summary["gain"][key] for key in titles}
    return {
        "sentences": headline_sentences(summary),
        "headline": headline_rows(summary),
        "gain_chart": Markup(gain_chart(gains, list(titles.values()))),
    }


def headline_rows(summary: Mapping[str, Any]) -> list[Parts]:
    """Return the rows of the headline table: a metric, both models, gain, verdict and baselines."""
    sft, grpo = summary["models"]["sft"], summary["models"]["grpo"]
    rows = []
    for key, title, explanation in _HEADLINE:
        gain, baselines = summary["gain"].get(key), _baselines(summary, key)
        rows.append(
            {
                "title": title,
                "explanation": explanation,
                "sft": sft[key],
                "grpo": grpo[key],
                "gain": _gain_text(gain) if gain else _signed(grpo[key] - sft[key]),
                "verdict": direction(gain) if gain else "",
                "baseline": ", ".join(f"{value:.3f} ({name})" for name, value in baselines),
            }
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
        for name, value in _baselines(summary, key):
            relation = "above" if grpo[key] > value else "not above"
            sentences.append(
                f"Its {title_of(key)} of {grpo[key]:.3f} is {relation} the {name} baseline's "
                f"{value:.3f}."
            )
    return sentences


def _baselines(summary: Mapping[str, Any], metric: str) -> list[tuple[str, float]]:
    baselines = summary["baselines"]
    named = {MAJORITY_TITLE: baselines["majority"], PRIOR_TITLE: baselines["region_prior"]}
    return [(name, values[metric]) for name, values in named.items() if metric in values]


def _gain_text(gain: Mapping[str, Any]) -> str:
    low, high = gain["ci95"]
    return f"{_signed(gain['mean'])} ({_signed(low)} to {_signed(high)})"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _type_table(run: RunFolder) -> Parts:
    """Return a column for each type, and for each metric rows of (model or baseline, cells)."""
    baselines = {}
    if run.train and run.test:
        answered = {p.index for predictions in run.greedy.values() for p in predictions}
        train = read_questions(run.train)
        # Baselines must be on the same questions as the models.
        test = [question for question in read_questions(run.test) if question.index in answered]
        if test:
            majority = majority_values(train, test)
            baselines[MAJORITY_TITLE] = table_by_type(majority, ("a_score",))
        if test and has_regions(train):
            prior = region_prior_values(train, test)
            baselines[PRIOR_TITLE] = table_by_type(prior, OVERLAPS)
    models, sampled = (
        {run.titles[name]: metrics_table(predictions) for name, predictions in by_model.items()}
        for by_model in (run.greedy, run.sampled)
    )
    groups = {
        title: [(name, [cell(value, title) for value in column]) for name, column in group.items()]
        for title, group in comparison(models, sampled, baselines).items()
    }
    return {"columns": next(iter(models.values())).index, "groups": groups}


def evaluations(run: RunFolder) -> list[Parts]:
    """Return the comparison of each evaluated model with baselines and controls."""
    return [_evaluation(run.titles[model], metrics) for model, metrics in run.metrics.items()]


def _evaluation(title: str, metrics: Mapping[str, Any]) -> Parts:
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
    for name, entry in metrics.get("sets", {}).items():
        rows, less = entry["rows"].items(), entry["less"].items()
        for part, metrics_of_part in SET_TABLES.items():
            of_set = f"Set {name}, {entry['questions']} questions: {part}"
            less_others = f"Set {name}, {part}: {title} less the others"
            tables.append(_table(of_set, rows, metrics_of_part, folded=False))
            tables.append(_table(less_others, less, metrics_of_part, signed=True))
    tables = [table for table in tables if table["rows"]]
    verdicts = [verdict_sentence(metric, metrics) for metric in COMPARED]
    return {"title": title, "verdicts": verdicts, "tables": tables}


def _table(
    title: str,
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    metrics: Iterable[str],
    *,
    signed: bool = False,
    folded: bool = True,
) -> Parts:
    """Return a table of texts; a folded table is closed when the page opens."""
    titles, body = estimate_rows(rows, metrics, signed=signed)
    return {"title": title, "header": ["", *titles], "rows": body, "folded": folded}


def _stage(title: str, run: RunFolder) -> Parts:
    log = run.stages[title]
    sections, not_logged = training_sections(log)
    return {
        "title": title,
        "steps": len(log.table),
        "sections": sections,
        "not_logged": not_logged,
        "notes": log.notes,
    }


def _viewer_parts(viewer: Viewer) -> Parts:
    present = {case["kind"] for case in viewer.cases}
    frame = "the model's frame"
    case_data = {"models": viewer.models, "parts": PARTS, "frame": frame, "cases": viewer.cases}
    return {
        "kinds": [kind for kind in QUESTION_TYPES if kind in present],
        "layers": layers(viewer.models),
        "case_json": script_json(case_data),
        "image_json": script_json(viewer.images),
    }


def layers(models: Mapping[str, str]) -> list[Parts]:
    """Return boxes that are shown and hidden together: in answers, then those that are cited.

    `models` are titles by key. The `style` of a layer has the classes of its boxes in `cases.css`.
    """
    answers, cited = [], []
    for number, (key, title) in enumerate({"truth": "reference", **models}.items()):
        style = f"model-{number}" if number else "truth"
        answers.append({"key": key, "title": title, "style": style})
        reasoning = f"{title}, reasoning"
        cited.append({"key": f"{key}-cited", "title": reasoning, "style": f"{style} cited"})
    return answers + cited


def script_json(value: Any) -> Markup:
    """Return JSON that cannot close the script element around it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))
