"""Reading and writing responses."""

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reward.boxes_in_text import words_before
from reward.response import (
    Region,
    Response,
    cited_regions,
    names_before,
    parse_location,
    parse_response,
    render_response,
    replace_boxes,
)

LEFT = (63.0, 20.0, 98.0, 80.0)
RIGHT = (5.0, 20.0, 45.0, 80.0)
CANONICAL = (
    "<think>the left lung [63, 20, 98, 80] shows an opacity</think>\n"
    "<answer>Yes</answer>\n"
    "<location><ref>left lung</ref><box>[63, 20, 98, 80]</box></location>"
)


def test_canonical_text_is_read_in_full() -> None:
    assert parse_response(CANONICAL) == Response(
        think="the left lung [63, 20, 98, 80] shows an opacity",
        answer="Yes",
        regions=(Region("left lung", LEFT),),
        think_regions=(Region("left lung", LEFT),),
        well_formed=True,
    )


def test_rendering_writes_the_canonical_text() -> None:
    think = "the left lung [63, 20, 98, 80] shows an opacity"
    assert render_response(think, "Yes", [Region("left lung", (63.2, 19.6, 98, 80))]) == CANONICAL


def test_rendering_refuses_a_region_without_a_box() -> None:
    with pytest.raises(ValueError, match="left lung"):
        render_response("t", "Yes", [Region("left lung", None)])


WORDS = st.text("abc XYZ,.'é", min_size=1).map(str.strip).filter(bool)
BOXES = st.tuples(*[st.integers(0, 400)] * 2, *[st.integers(401, 900)] * 2).map(
    lambda box: tuple(map(float, box))
)


@given(WORDS, WORDS, st.lists(st.builds(Region, st.just("left lung"), BOXES)))
def test_what_is_rendered_is_well_formed_and_read_back(
    think: str, answer: str, regions: list[Region]
) -> None:
    response = parse_response(render_response(think, answer, regions))
    assert response == Response(think, answer, tuple(regions), (), True)


@pytest.mark.parametrize(
    "text",
    [
        CANONICAL,
        "\n <think>a</think><answer>b</answer>\n\n<location></location> \n",  # white space is free
        # several pairs, white space between
        "<think>a</think><answer>b</answer><location><ref>x</ref> <box>[1, 2, 3, 4]</box>\n"
        "<ref>y</ref><box>[1,2,3,4]</box></location>",
        "<think>a < b > c</think><answer>b</answer><location></location>",  # no tags
    ],
)
def test_strict_form_is_accepted(text: str) -> None:
    assert parse_response(text).well_formed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Yes",
        "<answer>b</answer><location></location>",  # no reasoning
        "<think>a</think><location></location>",  # no answer
        "<think>a</think><answer>b</answer>",  # no location
        "<answer>b</answer><think>a</think><location></location>",  # other order
        "<think>a</think><answer>b</answer><answer>b</answer><location></location>",  # twice
        "<think>a<answer>b</answer></think><answer>b</answer><location></location>",  # nested
        "<think>a</think><answer>b<location></location>",  # unclosed
        "<think>a</think><answer>b</answer><location>",
        "x<think>a</think><answer>b</answer><location></location>",  # text around
        "<think>a</think>x<answer>b</answer><location></location>",  # text between
        "<think>a</think><answer>b</answer><location></location>.",
        "<THINK>a</THINK><answer>b</answer><location></location>",  # other case
        "<response><think>a</think><answer>b</answer><location></location></response>",
        "<think> </think><answer>b</answer><location></location>",  # nothing in it
        "<think>a</think><answer></answer><location></location>",
        "<think>a</think><answer>b</answer><location>left lung</location>",  # no region
        "<think>a</think><answer>b</answer><location><box>[1, 2, 3, 4]</box></location>",
        "<think>a</think><answer>b</answer><location><ref>x</ref></location>",
        "<think>a</think><answer>b</answer><location><ref>x</ref><box>[1, 2, 3]</box></location>",
        # a list of boxes is read, but is not the form
        "<think>a</think><answer>b</answer><location><ref>x</ref>"
        "<box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box></location>",
    ],
)
def test_anything_else_is_not_well_formed(text: str) -> None:
    assert not parse_response(text).well_formed


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think><answer>No</answer></think>", None),  # inside the reasoning
        ("<think><answer>No</answer></think><answer>Yes</answer>", "Yes"),
        ("<think><answer>No</answer> and so on", None),  # reasoning never closed
        ("<answer>No</answer></think><answer>Yes</answer>", "Yes"),  # opened by the template
        ("<think>a<think>b</think><answer>No</answer></think><answer>Yes</answer>", "Yes"),
        ("<think>the <answer> tag</think><answer>Yes</answer>", "Yes"),  # a lone tag inside
        ("<answer>Yes</answer><answer>No</answer>", "Yes"),  # the first counts
        ("<answer>Yes<answer>No</answer>", "Yes"),
        ("<answer> Yes \n", "Yes"),  # unclosed at the end
        ("<answer>Yes<location><box>[1,2,3,4]</box></location>", "Yes"),
        ("<ANSWER>Yes</Answer>", "Yes"),
        ("<response><answer>Yes</response>", "Yes"),
        ("<answer></answer><answer>Yes</answer>", ""),
        ("Yes", None),
        ("</answer>Yes", None),
    ],
)
def test_answer_is_the_first_outside_the_reasoning(text: str, answer: str | None) -> None:
    assert parse_response(text).answer == answer


def test_locations_inside_the_reasoning_give_no_final_boxes() -> None:
    inside = "<location><ref>left lung</ref><box>[63, 20, 98, 80]</box></location>"
    response = parse_response(f"<think>{inside}</think><answer>Yes</answer>")
    assert response.regions == ()
    assert response.think_regions == (Region("left lung", LEFT),)


def test_boxes_of_every_location_count() -> None:
    one = "<location><ref>a</ref><box>[1, 2, 3, 4]</box></location>"
    assert len(parse_response(one + one).regions) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("none", []),
        ("<ref>a</ref>", []),  # a name is no box
        ("<ref>left lung</ref><box>[63, 20, 98, 80]</box>", [("left lung", LEFT)]),
        (
            "<ref>left lung</ref><box>[63, 20, 98, 80]</box>"
            "<ref>right lung</ref><box>[5, 20, 45, 80]</box>",
            [("left lung", LEFT), ("right lung", RIGHT)],
        ),
        (  # names first, then boxes
            "<ref>left lung</ref><ref>right lung</ref>"
            "<box>[63, 20, 98, 80]</box><box>[5, 20, 45, 80]</box>",
            [("left lung", LEFT), ("right lung", RIGHT)],
        ),
        (  # one box with a list
            "<ref>left lung, right lung</ref><box>[[63, 20, 98, 80], [5, 20, 45, 80]]</box>",
            [("left lung", LEFT), ("right lung", RIGHT)],
        ),
        (
            "<ref>left lung; right lung</ref><box>[63, 20, 98, 80]; [5, 20, 45, 80]</box>",
            [("left lung", LEFT), ("right lung", RIGHT)],
        ),
        (  # one name for all
            "<ref>lung</ref><box>[63, 20, 98, 80], [5, 20, 45, 80]</box>",
            [("lung", LEFT), ("lung", RIGHT)],
        ),
        ("<ref>heart, enlarged</ref><box>[63, 20, 98, 80]</box>", [("heart, enlarged", LEFT)]),
        ("<box>63, 20, 98, 80</box>", [("", LEFT)]),  # no brackets
        ("<box>63 20 98 80</box>", [("", LEFT)]),
        ("<box>(63, 20), (98, 80)</box>", [("", LEFT)]),  # corners
        ("<box>[[63, 20], [98, 80]]</box>", [("", LEFT)]),
        ("<BOX> [63.0, 2e1, +98, 80.] </BOX>", [("", LEFT)]),
        ("<ref>a</ref><box>[63, 20, 98, 80]", [("a", LEFT)]),  # unclosed
        ("<box>[63, 20, 98, 80</box>", [("", LEFT)]),
        ("left lung: [63, 20, 98, 80]", [("left lung", LEFT)]),  # plain text
        # given, but no box
        ("<box></box>", [("", None)]),
        ("<box>left</box>", [("", None)]),
        ("<box>[1, 2, 3]</box>", [("", None)]),
        ("<box>[1, 2, 3, 4, 5]</box>", [("", None)]),
        ("<box>[98, 80, 63, 20]</box>", [("", None)]),  # swapped corners
        ("<box>[63, 20, 63, 80]</box>", [("", None)]),  # no area
        ("<box>[nan, 20, 98, 80]</box>", [("", None)]),
        ("<box>[63, 20, 1e400, 80]</box>", [("", None)]),
        ("<box>[63, 20, inf, 80]</box>", [("", None)]),
        ("<box>[1, 2, 3]</box><box>[63, 20, 98, 80]</box>", [("", None), ("", LEFT)]),
    ],
)
def test_location_variants(text: str, expected: list[tuple[str, tuple[float, ...] | None]]) -> None:
    assert [(region.ref, region.box) for region in parse_location(text)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bilateral hilar structures ([63, 20, 98, 80])", ["bilateral hilar structures"]),
        ("The left lung (region [63,20,98,80]) is clear", ["left lung"]),
        ("an opacity of the left lung at [63, 20, 98, 80].", ["left lung"]),
        ("A small opacity <box>[63, 20, 98, 80]</box>", ["small opacity"]),
        ("see <ref>left lung</ref><box>63, 20, 98, 80</box>", ["left lung"]),
        ("left lung (63, 20, 98, 80)", ["left lung"]),
        ("left lung (63, 20), (98, 80)", ["left lung"]),
        ("left lung [63, 20, 98, 80], [63, 20, 98, 80]", ["left lung", "left lung"]),
        ("trachea [63, 20, 98, 80] and spine [63, 20, 98, 80]", ["trachea", "spine"]),
        ("[63, 20, 98, 80]", [""]),
    ],
)
def test_cited_boxes_are_named_by_the_words_before(text: str, expected: list[str]) -> None:
    assert cited_regions(text) == tuple(Region(ref, LEFT) for ref in expected)


GAPS = st.lists(
    st.lists(
        st.one_of(
            st.sampled_from(
                [" and ", ", ", " (", "The left lung ", " at ", "<ref>", "\0", "x" * 101]
            ),
            st.text(max_size=6),
        ),
        max_size=5,
    ).map("".join),
    max_size=5,
)


@given(GAPS)
def test_boxes_are_named_together_as_one_by_one(gaps: list[str]) -> None:
    expected: list[str] = []
    for gap in gaps:
        is_link = re.fullmatch(r"(?i:[\s,;&/()\[\]]|\band\b|</?box>)*", gap) and len(gap) <= 100
        expected.append(expected[-1] if expected and is_link else words_before(gap[-100:]))
    assert names_before(gaps) == expected


@pytest.mark.parametrize(
    "text", ["", "see [3]", "ribs (4, 5)", "[left, right]", "ribs (4, 5, 6)", "[1, 2", "1, 2, 3, 4"]
)
def test_other_brackets_cite_nothing(text: str) -> None:
    assert cited_regions(text) == ()


@pytest.mark.parametrize("text", ["[9, 9, 1, 1]", "[1, 2, 3]", "[nan, 0, 1, 1]", "[1, 2, 3, 4, 5]"])
def test_cited_box_that_is_none_counts_as_cited(text: str) -> None:
    assert cited_regions(text) == (Region("", None),)


def test_boxes_are_replaced_where_they_stand() -> None:
    text = "a ([1,2,3,4]) <box>5, 6, 7, 8</box> (1, 2), (3, 4) [3] [9, 9, 1, 1] b"
    doubled = replace_boxes(text, lambda box: (2 * box[0], 2 * box[1], 2.6 * box[2], 2 * box[3]))
    assert doubled == (
        "a ([2, 4, 8, 8]) <box>[10, 12, 18, 16]</box> [2, 4, 8, 8] [3] [9, 9, 1, 1] b"
    )


@given(st.text())
def test_replacing_by_the_same_keeps_what_is_cited(text: str) -> None:
    cited = cited_regions(f"{text} left lung [1, 2, 3, 4]")
    again = cited_regions(replace_boxes(f"{text} left lung [1, 2, 3, 4]", lambda box: box))
    assert len(again) == len(cited)


PIECES = st.sampled_from(
    [
        *("<think>", "</think>", "<answer>", "</answer>", "<location>", "</location>", "<ref>"),
        *("</ref>", "<box>", "</box>", "<response>", "[1,2,3,4]", "[", "]", "(", ")", ",", ";"),
        *("1e400", "NaN", "-inf", "0.5", "left", "lung", "Yes", "B", "\x00", "\ud800", "\u2028"),
    ]
)


@given(st.lists(st.one_of(PIECES, st.text(max_size=8))).map("".join))
@example("<box>" * 3)
@example("<think>[1,2,3,4")
def test_any_text_is_read(text: str) -> None:
    response = parse_response(text)
    for region in (*response.regions, *response.think_regions):
        assert region.box is None or region.box[0] < region.box[2]
    if response.well_formed:
        assert response.think
        assert response.answer


@pytest.mark.parametrize(
    "piece",
    ["<think>", "<think ", "[", "[1,", "( ", " ", "9", "<box>", "<ref>", "(1,2),", "<box>["],
)
def test_a_long_repetition_is_read_in_linear_time(piece: str) -> None:
    for prefix in ("", "<location>", "<location><box>", "<location><ref>"):
        start = time.process_time()
        parse_response(prefix + piece * (400_000 // len(piece)))
        # A pattern that backtracks would take hours; the bound is far above what is needed.
        assert time.process_time() - start < 5
