"""Which curves a training log gives, in which order, with what caption."""

import re
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from recipe.reporting.charts import curve_chart, smooth
from recipe.reporting.metrics_log import MetricsLog
from reward.ground_truth import QUESTION_TYPES
from reward.settings import COMPONENTS

SHARES = (*COMPONENTS, "score", "mean_iou", "iou_50", "iou_75", "box_count_match")
_REWARD_MEAN = re.compile(r"reward/(.+)/mean")


@dataclass(frozen=True)
class Chart:
    """One figure of the page: a title, an SVG, a sentence that says the same in words."""

    title: str
    svg: Markup
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """A titled group of charts; a `folded` one is closed at first."""

    title: str
    charts: tuple[Chart, ...]
    folded: bool = False


@dataclass(frozen=True)
class _Curve:
    title: str
    metrics: dict[str, str]  # label -> metric name
    y_label: str = ""
    wide: bool = False


SFT_CURVES = (
    _Curve(
        "Training and validation",
        {"training": "train/loss", "validation": "val/loss"},
        "loss",
        wide=True,
    ),
)
COURSE_CURVES = (
    _Curve("Response length", {"mean": "response_length/mean"}, "tokens"),
    _Curve("Reasoning length", {"mean": "reasoning_length/mean"}, "tokens"),
    _Curve("Responses cut off at the limit", {"share": "response_length/clip_ratio"}),
    _Curve("KL of the update", {"old to new policy": "actor/ppo_kl"}, "nats"),
    _Curve("KL to the reference", {"KL loss": "actor/kl_loss"}, "nats"),
    _Curve(
        "Rollout against actor: probability gap",
        {"mean |difference|": "training/rollout_probs_diff_mean"},
    ),
    _Curve("Spread of the reward within a group", {"standard deviation": "reward/group_std/mean"}),
    _Curve("Groups without a signal", {"share": "reward/group_std/zero"}),
    _Curve("Tokens a second and GPU", {"throughput": "perf/throughput"}),
    _Curve("Time per step", {"step": "timing_s/step"}, "seconds"),
)


def sections(log: MetricsLog) -> tuple[list[Section], list[str]]:
    """The charts of one training log, and the names of expected metrics that it lacks.

    SFT logs (`train/loss`) get the loss; reinforcement-learning logs get the reward, its
    components, the course of training, validation and diagnostics.
    """
    table = log.table
    logged = {str(name) for name in table.columns if table[name].notna().any()}
    if "train/loss" in logged:
        charts = [_plain_chart(table, logged, curve) for curve in SFT_CURVES]
        missing = [name for curve in SFT_CURVES for name in curve.metrics.values()]
        found = [Section("Loss", tuple(c for c in charts if c))]
        return found, [name for name in missing if name not in logged]
    return _policy_sections(table, logged)


def _policy_sections(table: pd.DataFrame, logged: set[str]) -> tuple[list[Section], list[str]]:
    missing = []
    rewards = []
    if "reward/score/mean" in logged:
        rewards.append(_component_chart(table, logged, "score", "Total reward", wide=True))
    elif "critic/score/mean" in logged:
        curve = _Curve("Total reward", {"mean": "critic/score/mean"}, wide=True)
        rewards.append(_plain_chart(table, logged, curve))
    else:
        missing.append("critic/score/mean")
    for name in COMPONENTS:
        if f"reward/{name}/mean" in logged:
            rewards.append(_component_chart(table, logged, name, name.replace("_", " ")))
        else:
            missing.append(f"reward/{name}/mean")
    rewards[1:1] = [_parts_chart(table, logged)]
    course = []
    for curve in COURSE_CURVES:
        course.append(_plain_chart(table, logged, curve))
        missing += [name for name in curve.metrics.values() if name not in logged]
    validation = [
        _plain_chart(table, logged, _Curve(name.removeprefix("val-core/"), {"value": name}))
        for name in sorted(logged)
        if name.startswith("val-core/")
    ]
    others = sorted(
        match.group(1)
        for match in map(_REWARD_MEAN.fullmatch, logged)
        if match and match.group(1) not in (*COMPONENTS, "score", "group_std")
    )
    diagnostics = [_component_chart(table, logged, name, name.replace("_", " ")) for name in others]
    types = [_type_chart(table, logged, name) for name in ("score", *COMPONENTS)]
    groups = [
        Section("Reward", _present(rewards)),
        Section("Reward by question type", _present(types), folded=True),
        Section("Course of training", _present(course)),
        Section("Validation during training", _present(validation), folded=True),
        Section("Diagnostics of the reward", _present(diagnostics), folded=True),
    ]
    return [section for section in groups if section.charts], missing


def _type_chart(table: pd.DataFrame, logged: set[str], name: str) -> Chart | None:
    metrics = {str(kind): f"by_type/{kind}/{name}/mean" for kind in QUESTION_TYPES}
    return _plain_chart(table, logged, _Curve(name.replace("_", " "), metrics))


def _present(charts: list[Chart | None]) -> tuple[Chart, ...]:
    return tuple(chart for chart in charts if chart)


def _component_chart(
    table: pd.DataFrame, logged: set[str], name: str, title: str, wide: bool = False
) -> Chart | None:
    mean, std = f"reward/{name}/mean", f"reward/{name}/std"
    spreads = {"mean": table[std]} if std in logged else None
    svg = curve_chart({"mean": table[mean]}, spreads=spreads, unit_range=name in SHARES, wide=wide)
    return Chart(title, Markup(svg), _in_words({"mean": table[mean]}), wide)


def _parts_chart(table: pd.DataFrame, logged: set[str]) -> Chart | None:
    """The components in one picture, where there are several to compare."""
    means = {
        name.replace("_", " "): table[f"reward/{name}/mean"]
        for name in COMPONENTS
        if f"reward/{name}/mean" in logged
    }
    if len(means) < 2:
        return None
    svg = curve_chart(means, unit_range=True, wide=True, faint=False)
    return Chart("Parts of the reward", Markup(svg), _in_words(means), wide=True)


def _plain_chart(table: pd.DataFrame, logged: set[str], curve: _Curve) -> Chart | None:
    values = {label: table[name] for label, name in curve.metrics.items() if name in logged}
    if not values:
        return None
    svg = curve_chart(values, y_label=curve.y_label, wide=curve.wide)
    return Chart(curve.title, Markup(svg), _in_words(values), curve.wide)


def _in_words(curves: dict[str, pd.Series]) -> str:
    """`mean: 0.41 at step 1, 0.52 at step 150`: smoothed ends, for readers who see no chart."""
    parts = []
    for label, series in curves.items():
        values = series.dropna()
        ends = smooth(values)
        parts.append(
            f"{label}: {ends.iloc[0]:.3g} at step {values.index[0]}, "
            f"{ends.iloc[-1]:.3g} at step {values.index[-1]}"
        )
    return "; ".join(parts)
