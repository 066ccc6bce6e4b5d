import pytest

from data_prep.program import InputError
from recipe.evaluate.controls import (
    OVERLAPS,
    baseline_summary,
    majority_values,
    mean_boxes,
    region_prior_values,
)
from recipe.evaluate.metrics import table_by_type
from recipe.evaluate.predictions import read_questions


def region(ref, *box):
    return {"ref": ref, "box": list(box)}


@pytest.fixture
def split(write_parquet):
    def write(name, truths):
        return read_questions(write_parquet(name, truths))

    return write


def test_majority_gives_the_commonest_training_answer_of_each_type(split, make_truth):
    train = split(
        "train",
        [
            *[make_truth("closed", answer) for answer in ("No", "No", "Yes")],
            *[make_truth("multi", answer) for answer in (["A", "C"], ["C", "A"], ["B"])],
            *[make_truth("open", text) for text in ("Clear lungs.", "Clear lungs.", "Effusion.")],
        ],
    )
    test = split(
        "test",
        [
            make_truth("closed", "No"),
            make_truth("closed", "Yes"),
            make_truth("multi", ["A", "C"]),
            make_truth("open", "Clear lungs."),
            make_truth("open", "The heart is enlarged."),
            make_truth("single", "A"),  # no single-choice question in training
        ],
    )
    table = table_by_type(majority_values(train, test), ("a_score",))
    assert table["a_score"].to_dict() == pytest.approx(
        {"closed": 0.5, "single": 0.0, "multi": 1.0, "open": 0.5, "overall": 0.5}
    )
    assert table.loc["overall", "n"] == 6


def test_equally_common_answers_are_settled_by_the_alphabet(split, make_truth):
    train = split("train", [make_truth("single", "B"), make_truth("single", "A")])
    test = split("test", [make_truth("single", "A")])
    assert majority_values(train, test)["a_score"].to_list() == [1.0]


def test_the_prior_is_the_mean_box_in_normalised_coordinates(split, make_truth):
    train = split(
        "train",
        [
            make_truth(regions=[region("left lung", 0, 0, 40, 100)]),
            # The same box on an image of another size, and in thousandths.
            make_truth(regions=[region("Left  Lung", 0, 0, 120, 200)], image_size=[200, 200]),
            make_truth(regions=[region("left lung", 0, 0, 500, 1000)], coordinates="norm1000"),
            make_truth(regions=[region("spine", 50, 0, 100, 100)]),
        ],
    )
    priors, everything = mean_boxes(train)
    assert priors["left lung"] == pytest.approx((0, 0, 0.5, 1))
    assert priors["spine"] == pytest.approx((0.5, 0, 1, 1))
    assert everything == pytest.approx((0.125, 0, 0.625, 1))


def test_the_prior_is_scored_on_every_region_of_a_question(split, make_truth):
    train = split(
        "train",
        [
            make_truth(regions=[region("left lung", 0, 0, 50, 100)]),
            make_truth(regions=[region("spine", 50, 0, 100, 100)]),
        ],
    )
    test = split(
        "test",
        [
            # 0.8 for the lung; the spine is met exactly: mean 0.9.
            make_truth(
                regions=[region("spine", 50, 0, 100, 100), region("left lung", 0, 0, 50, 80)]
            ),
            # Unseen: the mean of all, the middle half at [0.25, 0, 0.75, 1]; IoU 0.6.
            make_truth("open", "x y", regions=[region("carina", 25, 0, 75, 60)]),
        ],
    )
    table = table_by_type(region_prior_values(train, test), OVERLAPS)
    assert table["v_score"].to_dict() == pytest.approx(
        {"closed": 0.9, "open": 0.6, "overall": 0.75}
    )
    assert table["iou_50"].to_dict() == {"closed": 1.0, "open": 1.0, "overall": 1.0}
    assert table["iou_75"].to_dict() == {"closed": 1.0, "open": 0.0, "overall": 0.5}


def test_the_summary_has_the_documented_keys(split, make_truth):
    data = split("data", [make_truth()])
    assert baseline_summary(data, data) == {
        "majority": {"a_score": 1.0},
        "region_prior": {"v_score": 1.0, "iou_75": 1.0},
    }


def test_training_without_a_region_is_refused(split, make_truth):
    data = split("data", [make_truth(regions=[])])
    with pytest.raises(InputError, match="no question of the training split has a region"):
        region_prior_values(data, data)
