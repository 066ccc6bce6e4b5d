import pytest

from data_prep.answers import answer_text, normalise_answer, parse_choices, read_question_type

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
