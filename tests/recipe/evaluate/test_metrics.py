import dataclasses

import pytest

from data_prep.program import InputError
from recipe.evaluate.metrics import mean_by_question, metrics_table, summary_metrics
from recipe.evaluate.predictions import score_predictions


def test_every_metric_of_a_hand_computed_set(make_prediction):
    predictions = score_predictions(
        [
            make_prediction(0, height=80),  # right, IoU 0.8
            make_prediction(1, answer="No", height=60),  # wrong, IoU 0.6
            make_prediction(2, height=50),  # right, IoU 0.5: not above a half
        ]
    )
    overall = metrics_table(predictions).loc["overall"]
    assert overall["a_score"] == pytest.approx(2 / 3)
    assert overall["v_score"] == pytest.approx((0.8 + 0.6 + 0.5) / 3)
    assert overall["iou_50"] == pytest.approx(2 / 3)
    assert overall["iou_75"] == pytest.approx(1 / 3)
    assert overall["format"] == 1.0
    assert overall["n"] == 3
    assert overall["reward"] == pytest.approx(sum(p.scores["score"] for p in predictions) / 3)


def test_rows_are_the_types_that_occur_and_overall_weighs_questions_alike(make_prediction):
    table = metrics_table(
        score_predictions(
            [
                make_prediction(0, height=80, question_type="multi", true_answer=["A"]),
                make_prediction(1, height=40),
                make_prediction(2, height=60),
            ]
        )
    )
    assert list(table.index) == ["closed", "multi", "overall"]
    assert table["v_score"].to_list() == pytest.approx([0.5, 0.8, 0.6])
    assert table["n"].to_list() == [2, 1, 3]


ANSWERS = [
    ("closed", "Yes", "yes.", 1),  # case and full stop do not matter
    ("closed", "Yes", "Yes or no", 0),  # hedging
    ("single", "B", "B", 1),
    ("single", "B", "A", 0),
    ("multi", ["A", "C"], "C, A", 1),  # a set
    ("multi", ["A", "C"], "A", 0),  # a part of it, although `dense` may reward that
    ("open", "There is an opacity in the left lung.", "an opacity in the left lung", 1),
    ("open", "There is an opacity in the left lung.", "No opacity in the left lung.", 0),
]


@pytest.mark.parametrize(("kind", "truth", "answer", "right"), ANSWERS)
def test_an_answer_counts_in_the_a_score(make_prediction, make_truth, kind, truth, answer, right):
    prediction = dataclasses.replace(
        make_prediction(0, answer=answer), ground_truth=make_truth(kind, truth)
    )
    assert metrics_table(score_predictions([prediction])).loc[kind, "a_score"] == right


def test_a_response_out_of_form_loses_the_format_only(make_prediction):
    good = make_prediction(0, height=80)
    bad = dataclasses.replace(good, response=good.response + " indeed")
    overall = metrics_table(score_predictions([bad])).loc["overall"]
    assert overall["format"] == 0.0
    assert overall["a_score"] == 1.0
    assert overall["v_score"] == pytest.approx(0.8)


def test_the_summary_takes_greedy_metrics_and_the_mean_over_samples(make_prediction):
    greedy = score_predictions([make_prediction(0, height=80), make_prediction(1, height=60)])
    sampled = score_predictions(
        [make_prediction(i, height=20 + 20 * k, sample=k) for i in (0, 1) for k in range(4)]
    )
    found = summary_metrics(greedy, sampled)
    assert list(found) == [
        "reward",
        "reward_sampled",
        "a_score",
        "v_score",
        "iou_50",
        "iou_75",
        "format",
        "n",
    ]
    assert found["v_score"] == pytest.approx(0.7)
    assert found["n"] == 2
    assert found["reward_sampled"] == pytest.approx(sum(p.scores["score"] for p in sampled) / 8)


def test_values_of_a_question_are_means_over_its_samples(make_prediction):
    sampled = score_predictions(
        [make_prediction(0, height=40), make_prediction(0, height=80, sample=1)]
    )
    assert mean_by_question(sampled, "v_score") == pytest.approx({"q0": 0.6})


def test_predictions_that_cannot_be_summarised_are_named(make_prediction):
    one, two = score_predictions([make_prediction(0), make_prediction(1)])
    again = dataclasses.replace(one, sample=1)
    with pytest.raises(InputError, match=r"question 'q1' has 1 samples and question 'q0' has 2"):
        summary_metrics([one, two], [one, again, two])
    with pytest.raises(InputError, match="2 predictions for 1 questions"):
        summary_metrics([one, again], [one])
    with pytest.raises(InputError, match="question 'q1' and 0 more were answered on one side"):
        summary_metrics([one, two], [one])
    with pytest.raises(InputError, match="'q0' sample 0 has no score 'score'"):
        metrics_table([make_prediction(0)])
    with pytest.raises(InputError, match="no predictions"):
        metrics_table([])
