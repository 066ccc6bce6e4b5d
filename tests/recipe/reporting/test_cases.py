import base64
import io
from collections import Counter

import pytest
from PIL import Image

from recipe.evaluation.predictions import read_predictions
from recipe.reporting.cases import AT_RANDOM, MOST_GAINED, MOST_LOST, build_cases, choose
from recipe.reporting.images import LONGEST_SIDE, ImageMissing, data_uri
from recipe.reporting.run_folder import read_run


def with_score(prediction, score):
    return type(prediction)(**(vars(prediction) | {"scores": {"score": score}}))


@pytest.fixture
def greedy(make_run):
    run = make_run()
    return read_predictions(run / "eval" / "sft" / "greedy.jsonl")


def test_cases_are_spread_over_the_types_and_never_repeated(greedy):
    picked = choose({"SFT": greedy, "GRPO": greedy}, 12)
    kinds = {p.id: p.question_type for p in greedy}
    assert Counter(kinds[key] for key, _ in picked) == dict.fromkeys(kinds.values(), 3)
    assert len({key for key, _ in picked}) == 12


def test_more_cases_than_questions_shows_every_question_once(greedy):
    assert sorted(key for key, _ in choose({"SFT": greedy}, 99)) == sorted(p.id for p in greedy)


def test_the_most_gained_and_most_lost_are_marked_and_the_rest_is_random(greedy):
    before = [with_score(p, 0.5) for p in greedy]
    # Of the closed questions (0, 4, 8, 12), number 4 gains most and number 12 loses most.
    scores = {"q4": 0.9, "q8": 0.6, "q12": 0.1}
    after = [with_score(p, scores.get(p.id, 0.5)) for p in greedy]
    picked = dict(choose({"SFT": before, "GRPO": after}, 16))
    assert picked["q4"] == MOST_GAINED
    assert picked["q12"] == MOST_LOST
    assert {why for key, why in picked.items() if key not in ("q4", "q12")} == {AT_RANDOM}


def test_the_random_choice_does_not_depend_on_the_scores(greedy):
    best = [with_score(p, p.index / 16) for p in greedy]
    worst = [with_score(p, 1 - p.index / 16) for p in greedy]
    assert choose({"SFT": best}, 8) == choose({"SFT": worst}, 8)


def test_a_case_holds_question_reference_boxes_and_scores(make_run):
    case = next(c for c in build_cases(read_run(make_run()), 16) if c.id == "q2")
    assert case.question_type == "multi"
    assert case.truth_answer == "A: opacity; C: device"
    assert case.truth_regions == "left lung [56, 10, 100, 100]"
    assert (case.width, case.height) == (112, 112)
    drawn = {box.layer: (box.x, box.y, box.width, box.height) for box in case.boxes}
    assert drawn == {
        "reasoning": (56, 10, 44, 90),
        "truth": (56, 10, 44, 90),
        "sft": (56, 10, 44, 60),
        "grpo": (56, 10, 44, 80),
    }
    sft, grpo = case.answers
    assert (sft.model, grpo.model) == ("SFT", "GRPO")
    assert sft.parts["mean IoU"] == pytest.approx(60 / 90)
    assert grpo.parts["mean IoU"] == pytest.approx(80 / 90)
    assert not sft.correct


def test_an_image_that_is_gone_is_said_and_the_boxes_stay(make_run):
    run = make_run()
    (run / "data" / "3.png").unlink()
    case = next(c for c in build_cases(read_run(run), 16) if c.id == "q3")
    assert case.image is None
    assert case.no_image == "3.png does not exist"
    assert case.boxes


def test_images_come_from_paths_bytes_or_structs(tmp_path):
    path = tmp_path / "wide.png"
    Image.new("RGB", (2000, 1000), "red").save(path)
    uri = data_uri("wide.png", (tmp_path,))
    assert uri == data_uri(str(path)) == data_uri(f"file://{path}")
    assert uri == data_uri(path.read_bytes()) == data_uri({"bytes": path.read_bytes()})
    assert uri == data_uri({"bytes": None, "path": str(path)})
    picture = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))
    assert picture.size == (LONGEST_SIDE, LONGEST_SIDE // 2)


UNUSABLE = [
    (None, "the row has no image"),
    ({}, "the row has no image"),
    ("nowhere.png", r"nowhere\.png does not exist"),
    (b"not an image", "the embedded image is not a readable image"),
]


@pytest.mark.parametrize(("image", "message"), UNUSABLE)
def test_an_unusable_image_is_named(image, message):
    with pytest.raises(ImageMissing, match=message):
        data_uri(image)
