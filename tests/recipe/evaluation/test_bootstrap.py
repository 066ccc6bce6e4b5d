import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe.errors import InputError
from recipe.evaluation.bootstrap import gains, paired_gain
from recipe.evaluation.predictions import score_predictions

SHARES = st.lists(
    st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)), min_size=2, max_size=12
)


def by_id(values):
    return {f"q{i}": float(value) for i, value in enumerate(values)}


def test_the_interval_is_that_of_a_bootstrap_written_out_in_numpy():
    rng = np.random.default_rng(5)
    before = rng.uniform(size=200)
    after = np.clip(before + rng.normal(0.05, 0.2, size=200), 0, 1)
    found = paired_gain(by_id(before), by_id(after), seed=1)

    difference = after - before
    draws = np.random.default_rng(77).integers(0, 200, size=(20_000, 200))
    low, high = np.percentile(difference[draws].mean(axis=1), [2.5, 97.5])
    assert found["mean"] == pytest.approx(difference.mean())
    assert found["ci95"] == pytest.approx([low, high], abs=1.5e-3)


def test_questions_stay_paired_whatever_the_order_of_the_files():
    # The same gain on every question: an unpaired interval would be wide, this one is a point.
    before = by_id(np.linspace(0, 0.9, 50))
    after = {key: before[key] + 0.1 for key in reversed(before)}
    found = paired_gain(before, after)
    assert found["mean"] == pytest.approx(0.1)
    assert found["ci95"] == pytest.approx([0.1, 0.1])


def test_equal_models_gain_nothing():
    values = by_id([0, 0, 1, 1])
    assert paired_gain(values, values) == {"mean": 0.0, "ci95": [0.0, 0.0]}


@settings(max_examples=40, deadline=None)
@given(SHARES)
def test_the_interval_is_ordered_and_within_the_differences(pairs):
    before, after = by_id([a for a, _ in pairs]), by_id([b for _, b in pairs])
    found = paired_gain(before, after, resamples=200)
    differences = [b - a for a, b in pairs]
    low, high = found["ci95"]
    assert min(differences) - 1e-9 <= low <= high <= max(differences) + 1e-9
    assert found["mean"] == pytest.approx(np.mean(differences), abs=1e-12)


@settings(max_examples=40, deadline=None)
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


def test_other_questions_or_too_few_are_refused():
    with pytest.raises(InputError, match="question 'q1' and 0 more"):
        paired_gain(by_id([0.0]), by_id([0.0, 1.0]))
    with pytest.raises(InputError, match="at least 2 questions, got 1"):
        paired_gain(by_id([0.0]), by_id([1.0]))


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
