import pytest

from data_prep.answers import answer_text, normalise_answer, parse_choices

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


def test_any_letter_is_taken_where_the_question_lists_no_choices():
    assert normalise_answer("F", "single", None) == "F"


def test_answer_text_lists_letters():
    assert answer_text(("A", "C")) == "A, C"
    assert answer_text("Yes") == "Yes"
