import time

import pytest

from data_prep.rows.answers import (
    answer_text,
    normalise_answer,
    parse_choices,
    read_question_type,
    split_choices,
)

CHOICES = {"A": "opacity", "B": "no finding", "C": "a device", "D": "pleural effusion"}


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (
            "What is it? <choices>: [A: opacity, B: no finding, C: a device, D: pleural effusion]",
            CHOICES,
        ),
        # A comma within a choice.
        ("Which? <choices>: [A: lung, right, B: heart]", {"A": "lung, right", "B": "heart"}),
        # A colon after a letter that is not the next choice.
        ("Which? <choices>: [A: type, C: old, B: new]", {"A": "type, C: old", "B": "new"}),
        # Brackets within a choice.
        ("Which? <choices>: [A: at [1, 2], B: none]", {"A": "at [1, 2]", "B": "none"}),
        ("Is it big?", None),
        ("Is it big? <choices>: [yes, no]", None),  # no letters
    ],
)
def test_parse_choices(question, expected):
    assert parse_choices(question) == expected


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("Yes.", "closed", "Yes"),
        ("no", "closed", "No"),
        ("Yes, there is an opacity.", "closed", "Yes"),
        ("Nothing", "closed", None),  # begins like a no
        ("YES", "closed", "Yes"),
        ("b", "single", "B"),
        ("Option C", "single", "C"),
        ("The correct answer is: B.", "single", "B"),
        ("Answer: D: pleural effusion", "single", "D"),
        ('["A", "C"]', "multi", ("A", "C")),
        ("Options A and C", "multi", ("A", "C")),
        ("A & D", "multi", ("A", "D")),
        ("A: opacity, and more of it, C: a device", "multi", ("A", "C")),
        ("A or F", "multi", None),
        ("B", "single", "B"),
        ("B.", "single", "B"),
        ("(C)", "single", "C"),
        ("B: no finding", "single", "B"),
        ("['D']", "single", "D"),
        ("a device", "single", "C"),  # by its text
        ("F", "single", None),  # not among the choices
        ("A, C", "single", None),  # two where one is asked for
        ("['A', 'C']", "multi", ("A", "C")),
        ("C, A", "multi", ("A", "C")),
        ("A and C", "multi", ("A", "C")),
        ("A, B, and D", "multi", ("A", "B", "D")),
        ("ACD", "multi", ("A", "C", "D")),
        ("['B']", "multi", ("B",)),
        ("['A', 'F']", "multi", None),
        ("[]", "multi", None),
        ("A: opacity; C: a device", "multi", ("A", "C")),
        ("  Opacity in the left lung. ", "open", "Opacity in the left lung."),
    ],
)
def test_normalise_answer(text, kind, expected):
    assert (
        normalise_answer(text, kind, CHOICES if kind in ("single", "multi") else None) == expected
    )


JOINED = {
    "A": "Atelectasis",
    "B": "Pleural effusion",
    "C": "Pleural effusion and atelectasis",
    "D": "Left lung, right lung",
}
PLACES = {"A": "Right lung", "B": "Left lung", "C": "Heart"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answers are A, C.", ("A", "C")),  # the full stop is no mark of a choice
        ("The correct options are A and C.", ("A", "C")),
        ("Both A and B.", ("A", "B")),
        ("I choose A, B.", ("A", "B")),
        ("A: Atelectasis\nC: Pleural effusion and atelectasis", ("A", "C")),
        ("C: Pleural effusion and atelectasis, A: Atelectasis", ("A", "C")),
        ("A. Atelectasis B. Pleural effusion", ("A", "B")),
        ("(A) (B)", ("A", "B")),
        ("C: Pleural effusion and atelectasis", ("C",)),  # one choice that joins two others
        ("Pleural effusion and atelectasis", ("C",)),  # the same by its text
        ("D: Left lung, right lung", ("D",)),  # a comma in a choice
        ("A, D: Left lung, right lung", ("A", "D")),
        ("Atelectasis, pleural effusion", ("A", "B")),  # two by their texts
        ("A C", ("A", "C")),
        ("A\nC", ("A", "C")),
        ("A|C", ("A", "C")),
        ("A、C", ("A", "C")),
        ('A: Atelectasis", "B: Pleural effusion', ("A", "B")),
        ("a, c", ("A", "C")),
        ("A, pleural effusion", ("A", "B")),  # one by its letter, one by its text
        ("A: Atelectasis at the left, B: Pleural effusion", ("A", "B")),  # more is said
        ("B: Pleural effusion and atelectasis", None),  # the letter of one, the text of another
        ("A: Pleural effusion", None),
        ("A: Atelectasis, not C", None),
        ("A: Atelectasis or pleural effusion", None),
        ("A or C", None),
        ("A to C", None),
        ("A-C", None),
        ("A. Not C. But D", None),
        ("B. Atelectasis", None),  # a letter, then the text of another
        ("None of the above", None),
        ("HEART", None),  # a word, not letters
    ],
)
def test_several_choices_are_read_or_refused_but_not_guessed(text, expected):
    assert normalise_answer(text, "multi", JOINED) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B:Left lung", "B"),
        ("B - Left lung", "B"),
        ("B – Left lung", "B"),
        ("B Left lung", "B"),
        ("**B**", "B"),
        ("B. Left lung [10, 20, 30, 40]", "B"),
        ("I would choose B", "B"),
        ("A: Right lung, C: Heart", None),  # two where one is asked for
        ("A. Right lung C. Heart", None),
        ("B: Right lung", None),  # the text of another
        ("A: not B", None),
        ("The answer is A: Right lung; not B", None),
        ("A patient has B: x", None),
        ("C and not D", None),
        ("A or B: x", None),
    ],
)
def test_one_choice_is_read_or_refused_but_not_guessed(text, expected):
    assert normalise_answer(text, "single", PLACES) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is no", "No"),
        ("Answer: Yes", "Yes"),
        ("['Yes']", "Yes"),
        ("Yes, no effusion is seen.", "Yes"),  # the word of a sentence
        ("No. No effusion.", "No"),
        ("No, no", "No"),
        ("Yes or no", None),
        ("Yes and no", None),
        ("Yes/no", None),
        ("Yes. No.", None),
        ("No significant change; yes for effusion", None),
    ],
)
def test_yes_and_no_at_once_is_no_answer(text, expected):
    assert normalise_answer(text, "closed", None) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A: a clear lung, C: a large heart", ("A", "C")),
        ("A. lung", ("A",)),
        ("A: not B", None),  # another letter in what follows
        ("A lung", None),  # an article
    ],
)
def test_texts_are_passed_over_where_the_question_lists_no_choices(text, expected):
    assert normalise_answer(text, "multi", None) == expected


@pytest.mark.parametrize(
    "listed",
    [
        "[A: x, B: y]",
        "[A: x B: y]",  # no comma
        "[A: x, B: y].",  # a full stop at the end
        "['A: x', 'B: y']",
        "[(A) x, (B) y]",
    ],
)
def test_choices_are_listed_in_several_ways(listed):
    assert parse_choices(f"Which? <choices>: {listed}") == {"A": "x", "B": "y"}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("closed_ended_questions", "closed"),
        ("open_ended_question", "open"),
        ("Single-Choice Questions", "single"),
        (" MULTI_CHOICE_QUESTIONS ", "multi"),
        ("closed", None),
        ("questions", None),
        ("", None),
    ],
)
def test_read_question_type(text, kind):
    assert read_question_type(text) == kind


def test_any_letter_is_taken_where_the_question_lists_no_choices():
    assert normalise_answer("F", "single", None) == "F"


def test_answer_text_lists_letters():
    assert answer_text(("A", "C")) == "A, C"
    assert answer_text("Yes") == "Yes"


def test_choices_that_never_end_are_read_at_once():
    begun = time.monotonic()
    assert parse_choices("<choices>: [" * 20_000 + "x") is None
    assert parse_choices("<choices>: [" + "] " * 100_000 + "x") is None
    assert time.monotonic() - begun < 2
    assert split_choices("Which? <choices>: [A: a, B: b].", {"A": "a"}) == "Which?"
