import re
from pathlib import Path

import pandas as pd
import pytest

from recipe.metrics_log import MetricsLog
from recipe.report.charts import curve_chart, gain_chart, smooth, training_sections


def log(**columns):
    names = {name.replace("__", "/"): values for name, values in columns.items()}
    table = pd.DataFrame(names, dtype=float)
    table.index += 1
    return MetricsLog(Path("metrics.jsonl"), table)


def titles(found):
    return {section.title: [chart.title for chart in section.charts] for section in found}


def test_supervised_training_shows_both_losses_in_one_chart():
    found, missing = training_sections(log(train__loss=[3, 2, 1], val__loss=[None, None, 1.5]))
    assert titles(found) == {"Loss": ["Training and validation"]}
    assert missing == []
    assert found[0].charts[0].caption == (
        "training: 3 at step 1, 1 at step 3; validation: 1.5 at step 3, 1.5 at step 3"
    )


def test_reinforcement_learning_shows_reward_components_course_and_diagnostics():
    found, missing = training_sections(
        log(
            reward__score__mean=[0.4, 0.5],
            reward__score__std=[0.1, 0.1],
            critic__score__mean=[0.4, 0.5],
            reward__answer__mean=[0.2, 0.3],
            reward__n_boxes__mean=[1.0, 2.0],
            reward__group_std__mean=[0.1, 0.1],
            response_length__mean=[60, 61],
            by_type__open__score__mean=[0.3, 0.4],
            by_type__closed__score__mean=[0.5, 0.6],
            timing_s__step=[5, 5],
        )
    )
    assert titles(found) == {
        "Reward": ["Total reward", "answer"],
        "Reward by question type": ["score"],
        "Course of training": [
            "Response length",
            "Spread of the reward within a group",
            "Time per step",
        ],
        "Diagnostics of the reward": ["n boxes"],
    }
    assert missing == [
        "reward/format/mean",
        "reward/grounding/mean",
        "reward/think_grounding/mean",
        "reward/alignment/mean",
        "reasoning_length/mean",
        "response_length/clip_ratio",
        "actor/ppo_kl",
        "actor/kl_loss",
        "training/rollout_probs_diff_mean",
        "reward/group_std/zero",
        "perf/throughput",
    ]


def test_without_our_trainer_the_total_is_verls_own():
    found, missing = training_sections(log(critic__score__mean=[0.4, 0.5]))
    assert titles(found) == {"Reward": ["Total reward"]}
    assert "reward/score/mean" not in missing


def test_a_log_without_known_metrics_has_no_charts():
    assert training_sections(log(something=[1, 2]))[0] == []


def test_the_strong_line_is_a_moving_average_over_a_twentieth():
    values = pd.Series(range(60), dtype=float)
    assert smooth(values).iloc[30] == 30.0  # window of 3: the mean of 29, 30, 31
    assert smooth(values).iloc[0] == 0.5
    jagged = pd.Series([0.0, 3.0] * 30)
    assert smooth(jagged).iloc[30] == pytest.approx(2.0)
    assert smooth(pd.Series([1.0, 5.0])).to_list() == [1.0, 5.0]


def test_charts_hold_no_address_and_are_the_same_for_the_same_data():
    curves = {"mean": pd.Series([0.1, 0.4, 0.3], index=[1, 2, 3])}
    spreads = {"mean": pd.Series([0.05, 0.1, 0.5], index=[1, 2, 3])}
    first = curve_chart(curves, spreads=spreads, unit_range=True)
    assert first == curve_chart(curves, spreads=spreads, unit_range=True)
    assert first.startswith("<svg ")
    assert "http" not in first
    assert "viewBox" in first
    assert not re.search(r'<svg [^>]*\b(width|height)="', first)


def test_a_band_is_drawn_only_where_there_is_a_spread():
    curves = {"mean": pd.Series([0.1, 0.4], index=[1, 2])}
    assert "FillBetween" not in curve_chart(curves)
    assert "FillBetween" in curve_chart(curves, spreads={"mean": pd.Series([0.1, 0.1], [1, 2])})


def test_a_gain_chart_names_every_gain():
    gain = {"mean": 0.1, "ci95": [0.05, 0.15]}
    svg = gain_chart({"a": gain, "b": gain}, ["A-score", "V-score"])
    assert "A-score" in svg
    assert "V-score" in svg
