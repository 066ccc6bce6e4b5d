"""Answers: every way a model writes them, and no luck."""

import itertools
import json
import math
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.answers import answer_is_correct, answer_score, parse_letters, parse_yes_no
from reward.ground_truth import GroundTruth

CHOICES = {"A": "Normal", "B": "Pleural effusion", "C": "Enlarged heart and effusion", "D": "None"}


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("Yes", "Yes"),
        ("yes.", "Yes"),
        ("YES!", "Yes"),
        ("**Yes**", "Yes"),
        ("'No'", "No"),
        ("Yes, there is an effusion.", "Yes"),
        ("No, there is no effusion.", "No"),
        ("Yes, there is no effusion", "Yes"),  # a "no" within a sentence
        ("Yes, an opacity or a nodule", "Yes"),  # an "or" between other things
        ("No evidence of effusion", "No"),
        ("The answer is yes.", "Yes"),
        ("Final answer: No", "No"),
        ("It is yes", "Yes"),
        ("I think no", "No"),
        ("\\boxed{Yes}", "Yes"),
        ("<b>No</b>", "No"),
        ("There is an opacity. The answer is yes.", "Yes"),
        ("The answer to the question is yes.", "Yes"),
        ("Based on the image, yes.", "Yes"),
        ('{"answer": "Yes"}', "Yes"),
        ("Yes, possibly due to edema", "Yes"),
        ("Yes, or at least a small one", "Yes"),
        ("No, either lung is clear", "No"),
        ("Yes — there is no effusion", "Yes"),
        ("Yes, no-one would miss it", "Yes"),
        ("Yes, with no – or little – change", "Yes"),
        # no side at all
        ("", None),
        ("Normal", None),  # begins with "No"
        ("None", None),
        ("Not seen", None),
        ("Nope", None),
        ("No idea", None),
        ("No way to tell", None),
        ("No doubt", None),
        ("yesterday", None),
        ("no-one", None),
        ("There is no effusion", None),
        ("Maybe yes", None),
        ("Unknown", None),
        # both sides
        ("Yes or no", None),
        ("Yes and no", None),
        ("Yes/No", None),
        ("Yes. No.", None),
        ("No. Yes.", None),
        ("Yes, no", None),
        ("No, but yes", None),
        ("Yes (no)", None),
        ("Yes, maybe", None),
        ("Yes, or maybe not", None),
        ("No, not sure", None),
        ("Yes (maybe)", None),
        ("Yes, probably not", None),
        ("Yes&No", None),
        ("Yes—no", None),
        ("Yes – no", None),
        ("Yes-no", None),
        ("Yes — no — yes", None),
        ("Yes=no", None),
        ("Yes~no", None),
        ("Yes {no}", None),
        ("Yes [no]", None),
        ("Yes <no>", None),
        ("Yes “no”", None),
        ("Yes → no", None),
        ("No. The answer is yes.", None),
        ("The answer is no. The answer is yes.", None),
    ],
)
def test_yes_no(text: str, side: str | None) -> None:
    assert parse_yes_no(text) == side


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("B", "B"),
        ("b.", "B"),
        ("(B)", "B"),
        ("B)", "B"),
        ("**B**", "B"),
        ("`B`", "B"),
        ("Option B", "B"),
        ("Answer: B", "B"),
        ("The correct answer is B.", "B"),
        ("I would choose B", "B"),
        ("B: Pleural effusion", "B"),
        ("B. pleural effusion.", "B"),
        ("B - Pleural effusion", "B"),
        ("B (Pleural effusion)", "B"),
        ("B Pleural effusion", "B"),
        ("Pleural effusion", "B"),
        ("pleural  effusion.", "B"),
        ("B because the angle is blunted", "B"),
        ("B, as the angle is blunted", "B"),
        ("B. A large effusion is seen", "B"),  # "A" is an article here
        ("A", "A"),
        ("a", "A"),
        ("A Normal", "A"),
        ("Normal", "A"),
        ("None", "D"),
        # sets
        ("['A', 'C']", "AC"),
        ('["A","C"]', "AC"),
        ("[A, C]", "AC"),
        ("A, C", "AC"),
        ("A,C.", "AC"),
        ("A; C", "AC"),
        ("A and C", "AC"),
        ("a and c", "AC"),
        ("A & C", "AC"),
        ("A\nC", "AC"),
        ("AC", "AC"),
        ("A, B, and C", "ABC"),
        ("Both A and C", "AC"),
        ("A and C are correct", "AC"),
        ("Options A and C", "AC"),
        ("A: Normal, C: Enlarged heart and effusion", "AC"),
        ("A. Normal\nB. Pleural effusion", "AB"),
        ("['A: Normal', 'B: Pleural effusion']", "AB"),
        ("Normal, Pleural effusion", "AB"),
        ("Enlarged heart and effusion", "C"),  # "and" within a choice
        ("Normal and Enlarged heart and effusion", "AC"),
        ("A, A", "A"),
        ("A C", "AC"),
        ("A/C", "AC"),
        ("A; C;", "AC"),
        ("- A\n- C", "AC"),  # bullets
        ("1) A\n2) C", "AC"),
        # a mark behind the text, mark-up, and words around
        ("Pleural effusion (choice B)", "B"),
        ("Pleural effusion (B)", "B"),
        ("\\boxed{B}", "B"),
        ("$\\boxed{\\text{B}}$", "B"),
        ("<b>B</b>", "B"),
        ("It is B.", "B"),
        ("I think B", "B"),
        ("The angle is blunted. The answer is B.", "B"),
        ("The pleural effusion", "B"),
        ("A pleural effusion", "B"),  # an article
        ("Pleural effusion is present", "B"),
        ("B is the best answer", "B"),
        ("B is most likely", "B"),
        ("```\nB\n```", "B"),
        ('{"answer": "B"}', "B"),
        ("A，C", "AC"),
        ("A plus C", "AC"),
        # an explanation behind the option
        ("B. Pleural effusion, as the effusion in C would need an enlarged heart", ""),
        ("B. Pleural effusion; the angle is blunted", "B"),
        ("Pleural effusion, since the angle is blunted", "B"),
        ("B\n\nThe angle is blunted.", "B"),
        ("B; A large effusion is seen", "B"),  # an article again
        # nothing that reads as options
        ("", ""),
        ("E", ""),  # no such choice
        ("A large opacity", ""),  # an article
        ("Abnormal", ""),  # a choice as part of a word
        ("Normal heart", ""),  # a choice as part of a phrase
        ("effusion", ""),
        ("Not B", ""),
        ("B is wrong", ""),
        ("The image shows B", ""),
        # wavering
        ("A or C", ""),
        ("B or maybe A", ""),
        ("B: Normal", ""),  # letter and text of different choices
        ("B: effusion on the right, or C", ""),
        ("B: Pleural effusion or Normal", ""),
        ("B, not A", ""),
        ("B (choice A)", ""),
        ("Pleural effusion (choice A)", ""),
        ("B: Pleural effusion (choice A)", ""),
        ("B. Pleural effusion; possibly A", ""),
        ("Pleural effusion, maybe normal", ""),
        ("Normal, but there is an effusion", ""),
        ("B, and the rest as in C", ""),
        ("B; an enlarged heart or maybe C", ""),
        ("B; enlarged heart and effusion as in the text", ""),  # the text of C
        ("A: Normal. The answer is B", ""),
        ("The answer is A. The answer is B.", ""),
        ("A: Normal, could be C", ""),
        ("A: Normal, this is wrong", ""),
        ("A, this means b", ""),
        ("A Pleural effusion", ""),
        ("A.C.", ""),
        ("Probably B", ""),
    ],
)
def test_letters(text: str, letters: str) -> None:
    assert (parse_letters(text, CHOICES) or frozenset()) == frozenset(letters)


def test_regions_as_choices_may_be_parts_of_each_other() -> None:
    choices = {"A": "Left lung", "B": "Left lower lung zone", "C": "Right lung"}
    for text in (
        "The left lower lung zone",
        "B. Left lower lung zone\n\nThe opacity lies low in the left lung.",
        "B: Left lower lung zone, as the right lung is clear",
        "The correct option is B because the left lung is opaque at its base",
    ):
        assert parse_letters(text, choices) == frozenset("B"), text
    assert parse_letters("The left lung and the right lung", choices) == frozenset("AC")


def test_letters_without_known_choices() -> None:
    assert parse_letters("B.", None) == frozenset("B")
    assert parse_letters("A, C", None) == frozenset("AC")
    assert parse_letters("Normal", None) is None


def test_choices_with_the_same_text_are_not_told_apart_by_it() -> None:
    choices = {"A": "Normal", "B": "Normal", "C": "Edema"}
    assert parse_letters("Normal", choices) is None
    assert parse_letters("B: Normal", choices) == frozenset("B")


@given(st.sets(st.sampled_from("ABCD"), min_size=1))
def test_sets_written_as_lists_are_read_back(letters: set[str]) -> None:
    ordered = sorted(letters)
    written = [
        str(ordered),
        json.dumps(ordered),
        ", ".join(ordered),
        " and ".join(ordered),
        "; ".join(f"{letter}: {CHOICES[letter]}" for letter in ordered),
        "\n".join(f"{letter}. {CHOICES[letter]}" for letter in ordered),
    ]
    assert [parse_letters(text, CHOICES) for text in written] == [frozenset(letters)] * len(written)


@given(st.text(max_size=300), st.one_of(st.none(), st.just(CHOICES)))
def test_any_text_is_read(text: str, choices: dict[str, str] | None) -> None:
    letters = parse_letters(text, choices)
    assert letters is None or letters <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert parse_yes_no(text) in ("Yes", "No", None)


@pytest.mark.parametrize(
    ("answer", "score", "is_correct"),
    [
        ("A, C", 1, True),
        ("A", 0.25, False),  # three of the four options are decided rightly
        ("A, B, C", 0.25, False),  # as many
        ("A, B", 0, False),  # two of four: chance
        ("B", 0, False),
        ("A, B, C, D", 0, False),  # all of them
        ("", 0, False),
        (None, 0, False),
    ],
)
def test_multi_choice(
    answer: str | None, score: float, is_correct: bool, make_truth: Callable[..., GroundTruth]
) -> None:
    truth = make_truth(question_type="multi", answer=["A", "C"], choices=CHOICES)
    assert answer_score(answer, truth, multi_partial=0.5) == score
    assert answer_is_correct(answer, truth) is is_correct


@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4), st.floats(0, 1))
def test_no_answer_gets_more_than_the_most_likely_set(beliefs: list[float], partial: float) -> None:
    """Option A is right for sure, each other one with its own probability."""
    others = "BCDE"[: len(beliefs)]
    sets = [
        f"A{''.join(itertools.compress(others, is_right))}"
        for is_right in itertools.product((True, False), repeat=len(others))
    ]
    expected = dict.fromkeys(sets, 0.0)
    for right in sets:
        odds = [p if letter in right else 1 - p for letter, p in zip(others, beliefs, strict=True)]
        truth = GroundTruth.parse(
            {
                "question_type": "multi",
                "answer": list(right),
                "choices": dict.fromkeys(f"A{others}", "text"),
                "regions": [],
                "think_regions": [],
                "image_size": [1, 1],
                "coordinates": "absolute",
            }
        )
        for answer in sets:
            expected[answer] += math.prod(odds) * answer_score(", ".join(answer), truth, partial)
    likely = [letter for letter, p in zip(others, beliefs, strict=True) if p >= 0.5]
    assert expected[f"A{''.join(likely)}"] >= max(expected.values()) - 1e-9


def test_single_choice_takes_one_letter_only(make_truth: Callable[..., GroundTruth]) -> None:
    truth = make_truth(question_type="single", answer="B", choices=CHOICES)
    assert answer_score("B: Pleural effusion", truth, multi_partial=0.5) == 1
    for wrong in ("A", "A, B", "A or B", "AB", "A: no; B: yes"):
        assert answer_score(wrong, truth, multi_partial=0.5) == 0


def test_open_answer_is_correct_from_the_threshold(make_truth: Callable[..., GroundTruth]) -> None:
    truth = make_truth(question_type="open", answer="Left pleural effusion with loculation")
    assert answer_is_correct("A left pleural effusion, loculation.", truth)
    assert not answer_is_correct("Left effusion", truth)  # 0.67
    assert answer_is_correct("Left effusion", truth, open_threshold=0.6)


@pytest.mark.parametrize(
    ("answer", "references"),
    [
        (
            "There is an opacity in the lung.",
            ["There is an opacity in the left lung.", "There is an opacity in the right lung."],
        ),
        (
            "Moderate pleural effusion with adjacent atelectasis",
            ["Moderate left pleural effusion with adjacent atelectasis"],
        ),
        ("cardiomegaly", ["Mild cardiomegaly", "Severe cardiomegaly"]),
        ("The left lung.", ["The left lung is clear.", "The left lung is hazy."]),
        ("heart size", ["The heart size is normal.", "The heart size is increased."]),
    ],
)
def test_an_open_answer_without_side_degree_or_statement_is_not_right(
    answer: str, references: list[str], make_truth: Callable[..., GroundTruth]
) -> None:
    for reference in references:
        truth = make_truth(question_type="open", answer=reference)
        assert answer_is_correct(reference, truth)
        assert not answer_is_correct(answer, truth)


def test_an_answer_of_thousands_of_characters_is_none(
    make_truth: Callable[..., GroundTruth],
) -> None:
    assert answer_score("Yes", make_truth()) == 1
    assert answer_score("Yes. " + "There is an opacity. " * 100, make_truth()) == 0


@pytest.mark.parametrize(
    "piece",
    ["A,", "A. ", "a.,", "(", "or ", "the answer is ", "Normal ", "A (", " ", "yes ", "B\n"],
)
def test_the_longest_answers_are_decided_quickly(
    piece: str, make_truth: Callable[..., GroundTruth]
) -> None:
    answer = (piece * 2000)[:1999]
    start = time.process_time()
    for kind, right in (("closed", "Yes"), ("single", "B"), ("multi", ["A"]), ("open", "No mass")):
        answer_score(answer, make_truth(question_type=kind, answer=right, choices=CHOICES))
    assert time.process_time() - start < 2
