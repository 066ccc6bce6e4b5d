import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.coordinates import MODEL_FAMILIES, Frame
from data_prep.pictures import Picture
from data_prep.rows.box_forms import plain_brackets, split_at_boxes
from data_prep.rows.example import Mapper, RowFault, parse_row
from reward.boxes_in_text import MOST_BRACKETS
from reward.response import cited_regions, parse_response, replace_boxes

BOX = "[84, 42, 168, 210]"
PICTURE = Picture("/pictures/a.jpg", (672, 336), (672, 336))


def make_row(**changes):
    row = {
        "image_path": "/p10/p10000001/s50000001/a.jpg",
        "question": "Is there an opacity?",
        "question_type": "closed_ended_questions",
        "thinkVG": f"The left lung ({BOX}) shows an opacity. The heart {BOX} is normal.",
        "response": f"<response><answer>Yes.</answer><location><ref>left lung</ref>"
        f"<box>{BOX}</box></location></response>",
    }
    return row | changes


def located(box):
    return f"<answer>Yes</answer><location><ref>left lung</ref><box>{box}</box></location>"


def make_mapper(family="qwen2_5_vl", frame=None):
    return Mapper(frame or Frame((336, 336)), MODEL_FAMILIES[family], 3136, 1003520)


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("no_question", {"question": None}),
        ("no_question", {"question": " "}),
        ("no_response", {"response": None}),
        ("no_response", {"response": ""}),
        ("no_answer", {"response": f"<location><box>{BOX}</box></location>"}),
        ("no_answer", {"response": "<answer> </answer>"}),
        ("no_answer", {"response": "<think><answer>Yes</answer></think>"}),
        ("unknown_question_type", {"question_type": "closed"}),
        ("unknown_question_type", {"question_type": None}),
        ("answer_not_in_choices", {"response": "<answer>Perhaps</answer>"}),
        ("bad_box", {"response": located("[1, 2, 3]")}),
        ("bad_box", {"response": located("[1, 2, 3, 4, 5]")}),
        ("bad_box", {"response": located("[1, 2, nan, 4]")}),
        ("bad_box", {"response": located("somewhere")}),
        ("bad_box", {"thinkVG": "The lung [1, 2, 3] is clear."}),
        ("degenerate_box", {"response": located("[168, 42, 84, 210]")}),
        ("degenerate_box", {"response": located("[84, 42, 84, 210]")}),
        ("degenerate_box", {"thinkVG": "The lung [84, 210, 168, 42] is clear."}),
        ("missing_image", {"image_path": None}),
        ("no_patient", {"image_path": "/pictures/a.jpg"}),
    ],
)
def test_faults_of_a_row_are_named(code, changes):
    with pytest.raises(RowFault, match=f"^{code}$"):
        parse_row(make_row(**changes), 0)


@pytest.mark.parametrize(
    ("code", "box"),
    [
        ("box_outside", "[84, 42, 343, 210]"),  # 2.1 % outside
        ("box_outside", "[-7, 42, 168, 210]"),
        ("degenerate_box", "[84, 42, 84.2, 210]"),  # vanishes when rounded
        ("degenerate_box", "[336, 42, 340, 210]"),  # nothing is left after clipping
    ],
)
@pytest.mark.parametrize("place", ["response", "thinkVG"])
def test_boxes_that_cannot_be_mapped_are_rejected(code, box, place):
    text = located(box) if place == "response" else f"The left lung {box} is clear."
    parsed = parse_row(make_row(**{place: text}), 0)
    with pytest.raises(RowFault, match=f"^{code}$"):
        make_mapper().example(parsed, PICTURE)


def test_text_and_ground_truth_are_rewritten_together():
    example = make_mapper().example(parse_row(make_row(), 0), PICTURE)
    # 336 x 336 stretched from 672 x 336: x doubles, y stays.
    assert example.ground_truth.image_size == (672, 336)
    assert [region.box for region in example.ground_truth.regions] == [(168, 42, 336, 210)]
    read = parse_response(example.response)
    assert read.well_formed
    assert read.regions == example.ground_truth.regions
    assert read.think_regions == example.ground_truth.think_regions
    assert [region.ref for region in read.think_regions] == ["left lung", "heart"]
    assert BOX not in example.response
    assert "([168, 42, 336, 210])" in example.response
    assert read.answer == example.ground_truth.answer == "Yes"


def test_qwen3_boxes_are_thousandths():
    example = make_mapper("qwen3_vl").example(parse_row(make_row(), 0), PICTURE)
    assert example.ground_truth.coordinates == "norm1000"
    assert example.ground_truth.regions[0].box == (250, 125, 500, 625)


def test_boxes_a_little_outside_are_clipped_and_counted_once():
    parsed = parse_row(
        make_row(response=located("[84, 42, 340, 210]"), thinkVG="The lung [84, 42, 340, 210]."), 0
    )
    example = make_mapper().example(parsed, PICTURE)
    assert example.ground_truth.regions[0].box == (168, 42, 672, 210)
    assert example.ground_truth.think_regions[0].box == (168, 42, 672, 210)
    assert example.clipped_boxes == 1
    # What is remembered of a box is no fault of the next row, and is told again of a later one.
    assert make_mapper().example(parse_row(make_row(), 1), PICTURE).clipped_boxes == 0
    assert make_mapper().example(parsed, PICTURE).clipped_boxes == 1


@pytest.mark.parametrize(
    "location",
    [
        "<ref>left lung</ref><box>[84, 42, 168, 210]</box>"
        "<ref>heart</ref><box>[10, 20, 30, 40]</box>",
        "<ref>left lung, heart</ref><box>[[84, 42, 168, 210], [10, 20, 30, 40]]</box>",
        "<ref>left lung; heart</ref><box>[84, 42, 168, 210], [10, 20, 30, 40]</box>",
    ],
)
def test_several_boxes_are_read_in_every_variant(location):
    response = f"<answer>Yes</answer><location>{location}</location>"
    example = make_mapper().example(parse_row(make_row(response=response), 0), PICTURE)
    assert [(region.ref, region.box) for region in example.ground_truth.regions] == [
        ("left lung", (168, 42, 336, 210)),
        ("heart", (20, 20, 60, 40)),
    ]


def test_tags_that_would_break_training_are_taken_out():
    row = make_row(
        question="<image> Is there an opacity? <video>",
        thinkVG=f"<think>The <image> lung {BOX} is <answer>clear</answer>.</think>",
    )
    parsed = parse_row(row, 0)
    assert parsed.question == "Is there an opacity?"
    assert parsed.media_tags == 3
    assert parse_response(make_mapper().example(parsed, PICTURE).response).well_formed


def test_a_row_without_reasoning_has_no_text_to_imitate():
    example = make_mapper().example(parse_row(make_row(thinkVG=None), 0), PICTURE)
    assert example.response is None
    assert example.ground_truth.think_regions == ()


LONG = "The lung is clear. " * 2000


@pytest.mark.parametrize(
    ("code", "response"),
    [
        ("bad_box", "<location>left lung 84, 42, 168, 210</location>"),
        ("bad_box", "<location><ref>left lung</ref>84, 42, 168, 210</location>"),
        ("bad_box", "<location><ref>left lung</ref></location>"),
        ("bad_box", "<ref>left lung</ref><box>[84, 42, 168, 210]</box>"),  # no location around it
        ("bad_box", "[84, 42, 168, 210]"),
        # One of two is lost.
        ("bad_box", f"<location><box>{BOX}</box><ref>heart</ref>1, 2, 30, 40</location>"),
        ("too_long", f"{LONG}<location><box>{BOX}</box></location>"),
        (None, "<location></location>"),
        (None, "<location>[]</location>"),
        (None, f"<think>The lung {BOX}.</think>"),
        (None, f"<location><ref>rib 5, 6, 7</ref><box>{BOX}</box></location>"),
        (None, "<location><box>(84, 42), (168, 210)</box></location>"),
    ],
)
def test_no_box_of_a_response_is_lost_without_a_word(code, response):
    row = make_row(response=f"<answer>Yes</answer>{response}")
    if code is None:
        parse_row(row, 0)
        return
    with pytest.raises(RowFault, match=f"^{code}$"):
        parse_row(row, 0)


def test_boxes_in_an_answer_are_not_taken_for_regions():
    row = make_row(
        response=f"<answer>It is at {BOX}.</answer>", question_type="open_ended_questions"
    )
    assert parse_row(row, 0).regions == ()


UNREAD = [
    "[63, 20] to [98, 80]",
    "(63, 20) to (98, 80)",
    "[63,20]-[98,80]",
    "[63px, 20px, 98px, 80px]",
    "[bbox: 63, 20, 98, 80]",
    "(left lung: 63, 20, 98, 80)",
    '{"x1": 63, "y1": 20, "x2": 98, "y2": 80}',
    "<bbox>63, 20, 98, 80</bbox>",
    "[63, 20, 98, 80",  # never closed
    "63, 20, 98, 80",
    "x from 63 to 98 and y 20 to 80",
    "top-left (63, 20), bottom-right (98, 80)",
    "[63.5|20.0|98.1|80.2]",
    "[x1=63, x2=98, y1=120, y2=180]",  # read as they stand, these numbers would be another box
    "[top 20, left 63, bottom 80, right 98]",
]


@pytest.mark.parametrize("place", ["thinkVG", "question", "response"])
@pytest.mark.parametrize("box", UNREAD)
def test_a_box_that_is_not_read_rejects_the_row(box, place):
    """It would stay in the dataset's frame, beside others that are mapped."""
    text = f"Is the left lung {box} clear? The heart {BOX} is."
    row = make_row(**{place: f"<answer>{text}</answer>" if place == "response" else text})
    with pytest.raises(RowFault, match=r"^unread_box$"):
        parse_row(row | {"question_type": "open_ended_questions"}, 0)


@pytest.mark.parametrize(
    "text",
    [
        "Ribs 3, 4, 5, and 6 are broken; so are ribs 8, 9, 10 and 11.",
        f"The lung {BOX} and the heart ([1, 2, 30, 40]).",
        f"The lung {BOX}, {BOX} and (1, 2, 30, 40).",
        "The corners (63, 20), (98, 80).",
        "Nodules of 3 mm, 14 mm, 25 mm and 26 mm.",
        "As seen before [1]. And then [2]. 20 of 30. 40 of 50.",
    ],
)
def test_other_numbers_are_no_boxes(text):
    parse_row(make_row(thinkVG=text), 0)


@pytest.mark.parametrize(
    "box", ["{84, 42, 168, 210}", "【84, 42, 168, 210】", "[84，42，168，210]"]
)
def test_unusual_brackets_are_read_in_questions_and_open_answers(box):
    row = make_row(
        question=f"What is at {box}?",
        question_type="open_ended_questions",
        response=f"<answer>An opacity at {box}</answer>",
    )
    example = make_mapper().example(parse_row(row, 0), PICTURE)
    assert example.question == "What is at [168, 42, 336, 210]?"
    assert example.ground_truth.answer == "An opacity at [168, 42, 336, 210]"


def test_tokens_of_a_chat_template_are_taken_out():
    row = make_row(question="<|im_start|>Is it <|image_pad|>clear?<|im_end|> 3 <| 4")
    parsed = parse_row(row, 0)
    assert parsed.question == "Is it clear? 3 <| 4"
    assert parsed.media_tags == 3


@pytest.mark.parametrize("name", ["-", "7", "()", ""])
def test_a_region_whose_name_is_none_is_written_with_one(name):
    row = make_row(response=located(BOX).replace("left lung", name))
    example = make_mapper().example(parse_row(row, 0), PICTURE)
    assert parse_response(example.response).well_formed


def test_a_row_may_have_no_box():
    example = make_mapper().example(parse_row(make_row(response="<answer>No</answer>"), 0), PICTURE)
    assert example.ground_truth.regions == ()


def test_a_region_without_a_name_is_written_with_one():
    response = f"<answer>No</answer><location><box>{BOX}</box></location>"
    example = make_mapper().example(parse_row(make_row(response=response), 0), PICTURE)
    assert example.ground_truth.regions[0].ref == ""
    assert parse_response(example.response).well_formed


def test_a_picture_too_narrow_to_resize_is_named():
    with pytest.raises(RowFault, match=r"^image_too_narrow$"):
        make_mapper().example(parse_row(make_row(), 0), Picture("/a.jpg", (4000, 10), (4000, 10)))


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("at {84, 42, 168, 210}.", "at [84, 42, 168, 210]."),
        ("at 【84，42, 168、210】", "at [84, 42, 168, 210]"),  # full-width commas
        ("at [84；42；168；210]", "at [84; 42; 168; 210]"),
        ("at 【84, 42, 168, 210】", "at [84, 42, 168, 210]"),
        ("at （84; 42; 168; 210）", "at [84, 42, 168, 210]"),
        ("at <84 42 168 210>", "at [84, 42, 168, 210]"),
        ("at |84, 42, 168, 210|", "at [84, 42, 168, 210]"),
        ("at [x1=84, y1=42, x2=168, y2=210]", "at [84, 42, 168, 210]"),
        ("at (xmin: 84.5, ymin: 42, xmax: 168, ymax: 210)", "at [84.5, 42, 168, 210]"),
        ("at {left 84, top 42, right 168, bottom 210}", "at [84, 42, 168, 210]"),
        ("at [x1=84, x2=168, y1=142, y2=210]", None),  # in another order
        ("at {top 42, left 84, bottom 210, right 168}", None),
        ("sets {1, 2, 3}, a < b, |x| and {a, b, c, d}", None),
        ("as [84, 42, 168, 210] and (84, 42, 168, 210)", None),
    ],
)
def test_boxes_in_unusual_brackets_are_written_plainly(written, plain):
    assert plain_brackets(written) == (plain or written)


@pytest.mark.parametrize(
    "form", ["[{}]", "([{}])", "(region [{}])", "({})", "{{{}}}", "<box>[{}]</box>"]
)
def test_boxes_are_cited_in_every_bracket_style(form):
    text = f"The left lung {form.format('84, 42, 168, 210')} is clear."
    example = make_mapper().example(parse_row(make_row(thinkVG=text), 0), PICTURE)
    (region,) = example.ground_truth.think_regions
    assert (region.ref, region.box) == ("left lung", (168, 42, 336, 210))
    assert "[168, 42, 336, 210]" in example.response


def test_boxes_in_choices_are_mapped_too():
    row = make_row(
        question="Where is it? <choices>: [A: at [84, 42, 168, 210], B: nowhere]",
        question_type="single_choice_questions",
        response=located(BOX).replace("Yes", "A"),
    )
    example = make_mapper().example(parse_row(row, 0), PICTURE)
    assert example.ground_truth.choices == {"A": "at [168, 42, 336, 210]", "B": "nowhere"}
    assert "A: at [168, 42, 336, 210]" in example.question


def test_names_of_regions_lose_tags():
    row = make_row(response=located(BOX).replace("left lung", "<image>left <b>lung</b>"))
    example = make_mapper().example(parse_row(row, 0), PICTURE)
    assert example.ground_truth.regions[0].ref == "left lung"
    assert parse_response(example.response).well_formed


REASONING = st.lists(
    st.one_of(
        st.sampled_from(["left lung ", "(see 3)", " (choice A)", "[3]", "(", ")", "]", "[", ". "]),
        st.sampled_from(
            ["<box>", "</box>", "(1, 2, 30, 40)", "(5, 6), (70, 80)", "<", "[a]", "()"]
        ),
        st.tuples(*[st.integers(0, 300)] * 4).map(lambda box: f"[{', '.join(map(str, box))}]"),
        st.tuples(*[st.integers(0, 300)] * 4).map(lambda box: f"([{','.join(map(str, box))}])"),
        st.text(max_size=5),
    ),
    max_size=8,
).map("".join)


@settings(max_examples=300)
@given(REASONING)
def test_mapped_boxes_are_those_that_a_reader_of_the_new_text_finds(text):
    split = split_at_boxes(text)
    if None in split.boxes:  # such a row is rejected
        return
    # Coordinates of another length, so that places in the text shift.
    mapped = [tuple(9.0 * side for side in box) for box in split.boxes]
    rewritten = split.joined(mapped)
    assert rewritten == replace_boxes(text, lambda box: tuple(9 * side for side in box))
    assert split.regions(mapped) == cited_regions(rewritten)


def test_more_brackets_than_the_reader_reads_are_mapped_all_the_same():
    text = "left lung [1, 2, 30, 40] " * (MOST_BRACKETS + 5)
    split = split_at_boxes(text)
    assert split.joined(split.boxes) == text
    assert split.regions(split.boxes) == cited_regions(text)
    assert len(split.boxes) == MOST_BRACKETS


def test_a_box_of_no_numbers_rejects_the_row():
    with pytest.raises(RowFault, match=r"^bad_box$"):
        parse_row(make_row(thinkVG="The left lung (nan, nan, nan, nan) is clear."), 0)
