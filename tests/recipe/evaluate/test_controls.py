import dataclasses
from collections import Counter

import pytest

from data_prep.program import InputError
from recipe.evaluate.controls import (
    MAJORITY,
    PRIOR_NAMED,
    PRIOR_TOLD,
    control_report,
    control_values,
    other_patients,
)
from recipe.evaluate.metrics import question_values
from recipe.evaluate.predictions import Question, score_predictions
from recipe.evaluate.results import Evaluated, by_region, results


@pytest.fixture
def model(make_prediction, make_truth):
    """20 questions of 10 patients, the truth half Yes and half No; all right, IoU 0.9."""

    def make(height=90, answers=("Yes", "No")):
        predictions = [
            dataclasses.replace(
                make_prediction(i, answers[i % 2], height),
                ground_truth=make_truth(answer=("Yes", "No")[i % 2]),
                extra_info={"patient": f"p{i // 2}"},
            )
            for i in range(20)
        ]
        return score_predictions(predictions)

    return make


@pytest.fixture
def train(make_truth):
    """The mean box of the left lung here has IoU 0.6 with the test's, that of the spine less."""
    from reward.ground_truth import GroundTruth

    lung = {"ref": "left lung", "box": [0, 0, 50, 60]}
    spine = {"ref": "spine", "box": [50, 0, 100, 100]}
    truths = [make_truth(regions=[lung]), make_truth(regions=[spine])]
    return [Question(i, GroundTruth.parse(truth)) for i, truth in enumerate(truths)]


def test_baselines_by_hand(model, train):
    tables = control_values(model(), {}, train)
    assert tables[MAJORITY]["a_score"].mean() == 0.5  # always Yes
    assert tables[PRIOR_TOLD]["v_score"].mean() == pytest.approx(0.6)
    assert tables[PRIOR_NAMED]["v_score"].mean() == pytest.approx(0.6)
    renamed = [
        dataclasses.replace(p, response=p.response.replace("<ref>left lung", "<ref>spine"))
        for p in model()
    ]
    # The model's own words: the spine's box does not meet the left lung.
    assert control_values(renamed, {}, train)[PRIOR_NAMED]["v_score"].mean() == 0.0
    assert control_values(renamed, {}, train)[PRIOR_TOLD]["v_score"].mean() == pytest.approx(0.6)


def test_a_model_that_sees_beats_its_controls(model, train):
    blank = model(height=40, answers=("Yes", "Yes"))
    seen = model()
    report = control_report(
        question_values(seen), control_values(seen, {"blank": blank}, train), seed=0
    )
    assert report["no_better_than"] == {"a_score": [], "v_score": []}
    assert report["no_better_than_by_type"] == {"closed": {"a_score": [], "v_score": []}}
    assert report["controls"]["blank image"]["a_score"]["mean"] == 0.5
    assert report["over_controls"]["blank image"]["v_score"]["mean"] == pytest.approx(0.5)


@pytest.mark.parametrize("of_control", [slice(1, None), slice(0, None)])
def test_controls_of_other_questions_are_refused(model, of_control):
    values = question_values(model())
    ours = values if of_control.start else values.iloc[1:]
    with pytest.raises(InputError, match="on one side"):
        control_report(ours, {"blank image": values.iloc[of_control]})


def test_a_model_that_guesses_is_flagged(model, train):
    guessing = model(height=60, answers=("Yes", "Yes"))
    controls = control_values(guessing, {"blank": guessing, "shuffled": guessing}, train)
    flagged = control_report(question_values(guessing), controls)["no_better_than"]
    assert set(flagged["a_score"]) == {MAJORITY, "blank image", "shuffled images"}
    assert set(flagged["v_score"]) == {PRIOR_TOLD, PRIOR_NAMED, "blank image", "shuffled images"}


def test_a_type_is_flagged_by_itself(model, train):
    seen = model()
    blank = model(height=40, answers=("Yes", "Yes"))
    values = question_values(seen)
    values.loc[values.index[:6], ["question_type", "a_score"]] = ["open", 0.0]
    report = control_report(values, control_values(seen, {"blank": blank}, train))
    assert report["no_better_than"]["v_score"] == []
    assert report["no_better_than_by_type"]["open"]["a_score"] == [MAJORITY, "blank image"]
    assert report["no_better_than_by_type"]["closed"]["a_score"] == []


def test_shuffled_images_come_from_other_patients_once_each():
    patients = [f"p{i // 3}" for i in range(60)]
    given = other_patients(patients, seed=1)
    assert all(patients[i] != patients[j] for i, j in enumerate(given))
    assert set(Counter(given).values()) == {1}
    assert given != other_patients(patients, seed=2)
    # Most questions about one patient: the others' pictures come again.
    uneven = ["p0"] * 7 + ["p1"] * 2
    assert all(uneven[i] != uneven[j] for i, j in enumerate(other_patients(uneven, seed=0)))
    with pytest.raises(InputError, match="one patient"):
        other_patients(["p0", "p0"], seed=0)


def test_regions_by_hand(make_prediction, make_truth):
    lung = {"ref": "Left  lung", "box": [0, 0, 50, 100]}
    spine = {"ref": "spine", "box": [50, 0, 100, 100]}
    # One box of height 80 on the left half: the lung has 0.8, the spine has no partner.
    both = dataclasses.replace(
        make_prediction(0, height=80), ground_truth=make_truth(regions=[spine, lung])
    )
    one = make_prediction(1, answer="No", height=40)
    nothing_wanted = dataclasses.replace(one, id="q2", ground_truth=make_truth(regions=[]))
    table = by_region(score_predictions([both, one, nothing_wanted]))
    assert list(table) == ["left lung", "spine"]
    assert table["left lung"]["boxes"] == 2
    assert table["left lung"]["v_score"]["mean"] == pytest.approx((0.8 + 0.4) / 2)
    assert table["left lung"]["iou_75"]["mean"] == 0.5
    assert table["left lung"]["a_score"]["mean"] == 0.5
    assert table["spine"]["v_score"]["mean"] == 0.0


def test_results_hold_every_part(model, train):
    sampled = [dataclasses.replace(p, sample=k) for p in model() for k in range(2)]
    found = results(
        Evaluated(model(), sampled, {"blank": model(40)}, {"SFT": model(70)}), train, seed=0
    )
    assert found["intervals"]["overall"]["v_score"]["mean"] == pytest.approx(0.9)
    assert found["samples"]["closed"]["pass_at_2"]["mean"] == 1.0
    assert found["over_beside"]["SFT"]["v_score"]["mean"] == pytest.approx(0.2)
    assert found["overall"]["n"] == 20
    assert found["patients"] == 10
    assert found["intervals"]["closed"]["length"]["mean"] > 50
