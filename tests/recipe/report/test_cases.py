import base64
import dataclasses
import io
from collections import Counter

import pytest
from PIL import Image

from recipe.evaluate.predictions import read_predictions
from recipe.report.cases import (
    ImageMissing,
    build_viewer,
    choose,
    data_uri,
    form_for,
    sentences,
)
from recipe.report.run_folder import read_run


def with_score(prediction, score):
    return dataclasses.replace(prediction, scores={"score": score})


@pytest.fixture
def greedy(make_run):
    run = make_run()
    return read_predictions(run / "eval" / "sft" / "greedy.jsonl")


def test_cases_are_spread_over_the_types_and_never_repeated(greedy):
    picked = choose({"SFT": greedy, "GRPO": greedy}, 12)
    kinds = {p.id: p.question_type for p in greedy}
    assert Counter(kinds[key] for key in picked) == dict.fromkeys(kinds.values(), 3)
    assert len({*picked}) == 12


def test_what_a_rare_type_leaves_goes_to_the_others(greedy):
    few = [p for p in greedy if p.question_type != "multi" or p.id == "q2"]
    picked = choose({"SFT": few}, 10)
    kinds = Counter(p.question_type for p in few if p.id in picked)
    assert kinds == {"multi": 1, "closed": 3, "single": 3, "open": 3}


def test_more_cases_than_questions_shows_every_question_in_order(greedy):
    assert choose({"SFT": greedy}, 99) == [p.id for p in greedy]


def test_the_choice_does_not_depend_on_the_scores(greedy):
    best = [with_score(p, p.index / 16) for p in greedy]
    worst = [with_score(p, 1 - p.index / 16) for p in greedy]
    assert choose({"SFT": best}, 8) == choose({"SFT": worst}, 8)


def test_a_case_holds_question_reference_boxes_and_scores(make_run):
    cases = build_viewer(read_run(make_run()), 16).cases
    case = next(c for c in cases if c["id"] == "q2")
    assert case["kind"] == "multi"
    assert case["answer"] == "A: opacity; C: device"
    assert case["right"] == ["A", "C"]
    truth = {"ref": "left lung", "at": [56, 10, 44, 90], "text": "[56, 10, 100, 100]"}
    assert case["regions"] == case["cited"] == [truth]
    assert case["size"] == [112, 112]
    sft, grpo = case["answers"]["sft"], case["answers"]["grpo"]
    for answer, height in ((sft, 60), (grpo, 80)):
        assert [region["at"] for region in answer["regions"]] == [[56, 10, 44, height]]
        assert [region["at"] for region in answer["cited"]] == [[56, 10, 44, height]]
        assert answer["regions"][0]["iou"] == pytest.approx(height / 90, abs=1e-3)
        assert answer["parts"]["mean_iou"] == pytest.approx(height / 90, abs=1e-3)
    assert not sft["correct"]


def test_choices_are_listed_apart_from_the_question(make_run):
    run = make_run()
    file = run / "eval" / "sft" / "greedy.jsonl"
    file.write_text(file.read_text().replace("& z?", "& z? <choices>: [A: opacity, B: x]"))
    cases = build_viewer(read_run(run), 16).cases
    found = {case["id"]: (case["question"], case["choices"]) for case in cases}
    assert found["q1"][0] == "Question number 1, x < y & z?"
    assert found["q1"][1] == {"A": "opacity", "B": "effusion", "C": "device"}
    assert found["q0"][1] is None


REASONING = (
    "The left lung [1, 2, 3, 4] is clear. The heart ([5, 6, 7, 8]) is large, unlike\n"
    "the spine [9, 9, 9, 9]; see [1, 2, 3, 4] again. So yes."
)


def test_sentences_refer_to_the_boxes_that_they_cite():
    parts_by_sentence, regions = sentences(REASONING)
    assert ["".join(text for text, _ in parts) for parts in parts_by_sentence] == [
        "The left lung [1, 2, 3, 4] is clear.",
        "The heart ([5, 6, 7, 8]) is large, unlike",
        "the spine [9, 9, 9, 9]; see [1, 2, 3, 4] again.",
        "So yes.",
    ]
    cited = [[place for _, place in parts if place >= 0] for parts in parts_by_sentence]
    assert cited == [[0], [1], [0], []]  # the box without an area is not drawn
    assert [region.box for region in regions] == [(1, 2, 3, 4), (5, 6, 7, 8)]
    assert [region.ref for region in regions] == ["left lung", "heart"]


def test_a_box_over_two_lines_is_not_cut():
    ((*parts,),), _ = sentences("The left lung [1, 2,\n3, 4] is clear.")
    assert parts == [("The left lung ", -1), ("[1, 2,\n3, 4]", 0), (" is clear.", -1)]


def test_an_image_that_is_gone_is_said_and_the_boxes_stay(make_run):
    run = make_run()
    (run / "data" / "3.png").unlink()
    cases = build_viewer(read_run(run), 16).cases
    case = next(c for c in cases if c["id"] == "q3")
    assert case["image"] == -1
    assert case["no_image"] == "3.png does not exist"
    assert case["regions"][0]["at"]


def test_images_come_from_paths_bytes_or_structs(tmp_path):
    path = tmp_path / "wide.png"
    Image.new("RGB", (2000, 1000), "red").save(path)
    uri = data_uri("wide.png", (tmp_path,))
    assert uri == data_uri(str(path)) == data_uri(f"file://{path}")
    assert uri == data_uri(path.read_bytes()) == data_uri({"bytes": path.read_bytes()})
    assert uri == data_uri({"bytes": None, "path": str(path)})
    picture = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/webp;base64,"))))
    assert picture.size == (320, 160)


def test_many_images_are_made_smaller_than_few():
    forms = [form_for(count) for count in (1, 150, 600, 2000)]
    assert forms[0] == forms[1]
    assert forms[1:] == sorted(forms[1:], reverse=True)
    assert len({*forms}) == 3


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
