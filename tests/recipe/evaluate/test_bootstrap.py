"""The interval of a difference: paired by question, patients resampled."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.program import InputError
from recipe.evaluate.metrics import paired
from recipe.evaluate.predictions import score_predictions
from recipe.evaluate.results import gains

SHARES = st.lists(
    st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)), min_size=2, max_size=12
)


def by_id(values, questions_each=1):
    """A value for each question; so many questions in a row are about one patient."""
    ids = [f"q{i}" for i in range(len(values))]
    patients = [f"p{i // questions_each}" for i in range(len(values))]
    return pd.DataFrame({"patient": patients, "value": np.array(values, float)}, index=ids)


def paired_gain(before, after, **options):
    return paired(before, after, **options)["value"]


@pytest.mark.parametrize("questions_each", [1, 4])
def test_the_interval_is_that_of_a_bootstrap_written_out_in_numpy(questions_each):
    rng = np.random.default_rng(5)
    before = rng.uniform(size=200)
    # Questions about one patient gain alike.
    shared = np.repeat(rng.normal(0.05, 0.2, size=200 // questions_each), questions_each)
    after = np.clip(before + shared, 0, 1)
    frames = (by_id(values, questions_each) for values in (before, after))
    found = paired_gain(*frames, seed=1)

    by_patient = (after - before).reshape(-1, questions_each)
    patients = len(by_patient)
    draws = np.random.default_rng(77).integers(0, patients, size=(20_000, patients))
    low, high = np.percentile(by_patient[draws].mean(axis=(1, 2)), [2.5, 97.5])
    assert found["mean"] == pytest.approx(by_patient.mean())
    assert found["ci95"] == pytest.approx([low, high], abs=2e-3)


def test_questions_stay_paired_whatever_the_order_of_the_files():
    # The same gain on every question: an unpaired interval would be wide, this one is a point.
    before = by_id(np.linspace(0, 0.9, 50))
    after = before.iloc[::-1].assign(value=lambda rows: rows["value"] + 0.1)
    found = paired_gain(before, after)
    assert found["mean"] == pytest.approx(0.1)
    assert found["ci95"] == pytest.approx([0.1, 0.1])


def test_equal_models_gain_nothing():
    values = by_id([0, 0, 1, 1])
    assert paired_gain(values, values) == {"mean": 0.0, "ci95": [0.0, 0.0]}


@settings(max_examples=40)
@given(SHARES)
def test_the_interval_is_ordered_and_within_the_differences(pairs):
    before, after = by_id([a for a, _ in pairs]), by_id([b for _, b in pairs])
    found = paired_gain(before, after, resamples=200)
    differences = [b - a for a, b in pairs]
    low, high = found["ci95"]
    assert min(differences) - 1e-9 <= low <= high <= max(differences) + 1e-9
    assert found["mean"] == pytest.approx(np.mean(differences), abs=1e-12)


@settings(max_examples=40)
@given(SHARES)
def test_exchanging_the_models_turns_the_sign(pairs):
    before, after = by_id([a for a, _ in pairs]), by_id([b for _, b in pairs])
    there = paired_gain(before, after, resamples=200)
    back = paired_gain(after, before, resamples=200)
    assert back["mean"] == pytest.approx(-there["mean"], abs=1e-12)
    assert back["ci95"] == pytest.approx([-there["ci95"][1], -there["ci95"][0]], abs=1e-9)


def test_the_seed_decides_the_interval():
    rng = np.random.default_rng(0)
    before, after = by_id(rng.uniform(size=30)), by_id(rng.uniform(size=30))
    assert paired_gain(before, after, seed=3) == paired_gain(before, after, seed=3)
    assert paired_gain(before, after, seed=3) != paired_gain(before, after, seed=4)


def test_other_questions_or_patients_are_refused():
    with pytest.raises(InputError, match="question 'q1' and 0 more"):
        paired_gain(by_id([0.0]), by_id([0.0, 1.0]))
    with pytest.raises(InputError, match="to other patients"):
        paired_gain(by_id([0.0, 1.0]), by_id([0.0, 1.0], questions_each=2))


def test_gains_compare_greedy_with_greedy_and_sampled_with_sampled(make_prediction):
    def model(greedy_height, sampled_height, answer):
        greedy = [make_prediction(i, answer, greedy_height) for i in range(4)]
        sampled = [
            make_prediction(i, "Yes", sampled_height, sample=k) for i in range(4) for k in (0, 1)
        ]
        return score_predictions(greedy), score_predictions(sampled)

    sft, grpo = model(60, 40, "No"), model(80, 90, "Yes")
    found = gains(sft, grpo)
    assert list(found) == ["reward", "reward_sampled", "a_score", "v_score"]
    assert found["a_score"]["mean"] == 1.0
    assert found["v_score"]["mean"] == pytest.approx(0.2)
    for name, place in (("reward", 0), ("reward_sampled", 1)):
        expected = grpo[place][0].scores["score"] - sft[place][0].scores["score"]
        assert found[name]["mean"] == pytest.approx(expected)


@pytest.fixture
def two_models(make_prediction):
    """SFT wrong, GRPO right about half of the patients; so many questions are about each."""

    def make(patients, questions_each):
        models = []
        for wins in ("No", "Yes"):
            predictions = [
                dataclasses.replace(
                    make_prediction(i, wins if (i // questions_each) % 2 else "No"),
                    extra_info={"patient": f"p{i // questions_each}"},
                )
                for i in range(patients * questions_each)
            ]
            scored = score_predictions(predictions)
            models.append((scored, scored))
        return models

    return make


def test_gains_are_as_unsure_as_there_are_few_patients(two_models):
    """Ten questions about each of 12 patients say no more than one question about each."""
    one, ten = (gains(*two_models(12, each)) for each in (1, 10))
    assert one["a_score"]["mean"] == ten["a_score"]["mean"] == 0.5
    assert ten == {
        name: {"mean": pytest.approx(gain["mean"]), "ci95": pytest.approx(gain["ci95"])}
        for name, gain in one.items()
    }
    low, high = ten["a_score"]["ci95"]
    assert high - low > 0.4


def test_gains_about_one_patient_are_refused(two_models):
    with pytest.raises(InputError, match="about one patient"):
        gains(*two_models(1, 4))
