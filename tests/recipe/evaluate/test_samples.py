import dataclasses
from itertools import combinations

import pytest

from data_prep.program import InputError
from recipe.evaluate.metrics import pass_at_k, sample_values, vote


@pytest.mark.parametrize(("samples", "right", "k"), [(4, 1, 1), (4, 1, 2), (5, 2, 3), (6, 0, 4)])
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(samples, right, k):
    draws = list(combinations([True] * right + [False] * (samples - right), k))
    assert pass_at_k(samples, right, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def answers(make_prediction, *texts, kind="closed", truth="Yes"):
    return [
        make_prediction(0, answer=text, sample=k, question_type=kind, true_answer=truth)
        for k, text in enumerate(texts)
    ]


def test_a_question_by_hand(make_prediction):
    # 3 of 4 right: pass@1 3/4, pass@2 1 - (1 choose 2)/(4 choose 2) = 1; the vote is right.
    row = sample_values(answers(make_prediction, "Yes", "No", "yes.", "Yes")).iloc[0]
    assert (row["pass_at_1"], row["pass_at_2"], row["pass_at_4"]) == (0.75, 1.0, 1.0)
    assert row["majority_vote"] == 1.0


VOTES = [
    ("closed", "Yes", ["No", "Yes", "yes"], 1),  # read alike
    ("closed", "Yes", ["No", "Yes"], 0),  # equally common: the earliest
    ("multi", ["A", "C"], ["B", "C, A", "A and C"], 1),  # as sets
    ("open", "A device.", ["Nothing", "A device", "a device."], 1),  # as words
    ("closed", "Yes", ["Perhaps", "Maybe", "No"], 2),  # no vote for what cannot be read
    ("closed", "Yes", ["Perhaps", "Maybe"], 0),  # nothing to vote for
]


@pytest.mark.parametrize(("kind", "truth", "given", "chosen"), VOTES)
def test_the_vote(make_prediction, kind, truth, given, chosen):
    assert vote(answers(make_prediction, *given, kind=kind, truth=truth)) == chosen


def test_unequal_numbers_of_samples_are_refused(make_prediction):
    one, two = answers(make_prediction, "Yes", "No")
    other = dataclasses.replace(one, id="q1")
    with pytest.raises(InputError, match="between 1 and 2"):
        sample_values([one, two, other])
