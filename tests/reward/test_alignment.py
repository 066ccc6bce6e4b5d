"""Agreement of the reasoning with the final answer and boxes."""

import time
from collections.abc import Callable

import numpy as np
import pytest

from phantom.draw.chest import further_boxes, region_boxes, sample_anatomy
from reward.alignment import alignment_score
from reward.ground_truth import GroundTruth, place
from reward.reasoning import citations
from reward.response import parse_response


def _score(text: str, truth: GroundTruth) -> float:
    response = parse_response(text)
    final = place(response.regions, truth)
    return alignment_score(response, final, citations(response, truth), truth)


CHEST = sample_anatomy(np.random.default_rng(0))
CHOICES = {"A": "Normal", "B": "Effusion", "C": "Edema"}


def _response(think: str, answer: str = "Yes", *boxes: str) -> str:
    location = "".join(f"<ref>lung</ref><box>{box}</box>" for box in boxes)
    return f"<think>{think}</think><answer>{answer}</answer><location>{location}</location>"


@pytest.mark.parametrize(
    ("cited", "boxes", "expected"),
    [
        ("left lung [10, 10, 40, 40]", ["[10, 10, 40, 40]"], 1),  # the box is cited
        ("lungs [10, 10, 40, 40], [60, 10, 90, 40]", ["[60, 10, 90, 40]"], 1),  # one of several
        ("left lung [10, 10, 40, 40]", ["[10, 10, 40, 25]"], 0.5),  # IoU
        ("left lung [10, 10, 40, 40]", ["[60, 10, 90, 40]"], 0),  # another box
        ("left lung", ["[10, 10, 40, 40]"], 0),  # none is cited
        ("left lung [10, 10, 40, 40]", ["[10, 10, 40, 40]"] * 2, 0.5),  # cited once, given twice
        ("lung [10, 10, 40, 40], [10, 10, 40, 40]", ["[10, 10, 40, 40]"] * 2, 0.5),
        ("left lung [40, 10, 10, 40]", ["[40, 10, 10, 40]"], 0),  # no box on either side
        ("image", [], 1),
    ],
)
def test_final_boxes_are_among_the_cited(
    cited: str, boxes: list[str], expected: float, make_truth: Callable[..., GroundTruth]
) -> None:
    think = f"The {cited} is clear. So the answer is yes."
    assert _score(_response(think, "Yes", *boxes), make_truth()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("citation", "expected"),
    [
        ("The left lung [10, 10, 40, 40] is clear.", 1),
        ("An opacity is seen in the left lung ([10, 10, 40, 40]).", 1),
        ("The lung [10, 10, 40, 40].", 2 / 3),  # nothing is said about it
        ("The spine [10, 10, 40, 40] is clear.", 2 / 3),  # another region
        ("[10, 10, 40, 40] is clear.", 2 / 3),  # no region
        ("a [10, 10, 40, 40]", 1 / 3),
        ("a [10, 10, 40, 40]. An opacity.", 1 / 3),  # in another sentence
        ("a [10, 10, 40, 40]. The lung [10, 10, 40, 40] is clear.", 1),  # the better one counts
    ],
)
def test_a_citation_names_its_region_and_states_what_is_seen(
    citation: str, expected: float, make_truth: Callable[..., GroundTruth]
) -> None:
    text = _response(f"{citation} The answer is yes.", "Yes", "[10, 10, 40, 40]")
    assert _score(text, make_truth()) == pytest.approx(expected)


@pytest.mark.parametrize("region", [*region_boxes(CHEST), *further_boxes(CHEST)])
def test_the_name_of_a_region_states_nothing(
    region: str, make_truth: Callable[..., GroundTruth]
) -> None:
    response = parse_response(f"<think>The {region} [10, 10, 40, 40].</think>")
    assert [citation.states for citation in citations(response, make_truth())] == [False]


@pytest.mark.parametrize(
    ("changes", "answers"),
    [
        ({}, ["Perhaps", "Normal", "Yes or no", "?"]),
        ({"question_type": "single", "answer": "A", "choices": CHOICES}, ["E", "A or B", "Yes"]),
        ({"question_type": "open", "answer": "clear"}, ["...", "-"]),
    ],
)
def test_what_is_no_answer_agrees_with_nothing(
    changes: dict[str, object], answers: list[str], make_truth: Callable[..., GroundTruth]
) -> None:
    for answer in answers:
        text = _response("The lung [10, 10, 40, 40] is clear.", answer, "[10, 10, 40, 40]")
        assert _score(text, make_truth(**changes)) == 0


@pytest.mark.parametrize(
    ("think", "answer", "expected"),
    [
        ("The answer is yes.", "Yes", 1),
        ("The answer is no.", "Yes", 0),
        ("Therefore, no.", "Yes", 0),
        ("So the answer is No because it is clear", "Yes, there is", 0),
        ("At first the answer is no. But there is a shadow: the answer is yes.", "Yes", 1),
        ("The answer: **No**", "Yes", 0),
        ("In summary, no.", "Yes", 0),
        ("So, it is no.", "Yes", 0),
        ("The final answer should therefore be No.", "Yes", 0),
        ("The answer is clearly no.", "Yes", 0),
        ("The answer to this question is no.", "Yes", 0),
        ("Final answer - No", "Yes", 0),
        ("Answer = No", "Yes", 0),
        ("The correct response is No.", "Yes", 0),
        # supposed, not concluded
        ("If the lung was clear the answer is no. But an opacity is seen.", "Yes", 0.5),
        ("A tempting answer is no, which is wrong.", "Yes", 0.5),
        ("I doubt that the answer is no.", "Yes", 0.5),
        # no conclusion, or none on one side
        ("There is no effusion.", "Yes", 0.5),
        ("Therefore, no effusion is seen.", "Yes", 0.5),
        ("The answer is yes or no.", "Yes", 0.5),
        ("The answer depends on the margin.", "Yes", 0.5),
    ],
)
def test_yes_no_conclusion(
    think: str, answer: str, expected: float, make_truth: Callable[..., GroundTruth]
) -> None:
    assert _score(_response(think, answer), make_truth()) == expected


@pytest.mark.parametrize(
    ("think", "answer", "expected"),
    [
        ("The correct option is B.", "B", 1),
        ("The correct option is B: Effusion.", "C", 0),
        ("Thus, Effusion.", "C: Edema", 0),
        ("Thus a large effusion is seen.", "C", 0.5),  # a step, not an option
        ("The answers are A and B.", "A", 0),
        ("The best choice is A. The best choice is B.", "A, B", 1),  # one by one
    ],
)
def test_choice_conclusion(
    think: str, answer: str, expected: float, make_truth: Callable[..., GroundTruth]
) -> None:
    truth = make_truth(question_type="multi", answer=["A"], choices=CHOICES)
    assert _score(_response(think, answer), truth) == expected


@pytest.mark.parametrize(
    ("think", "answer", "expected"),
    [
        ("The left lung shows an opacity (choice B).", "B", 1),
        ("The left lung shows an opacity (choice A).", "B", 0),  # marks another one
        ("An opacity (option a).", "B", 0),
        ("First an opacity (choice A). On a second look, an effusion (choice B).", "B", 1),
        ("An edema (choice C) is not seen. An effusion (choice B).", "B", 1),
        ("An effusion (choice B). No edema (choice C).", "B", 1),  # denied, so not concluded
        ("An effusion (choice B) and an edema (choice C).", "B, C", 1),
        ("An effusion (choice B) and an edema (choice C).", "A, B", 0),
        ("An opacity (choice A). The answer is B.", "B", 1),  # what is stated counts first
        ("An opacity (Choice A).", "B", 0),
        ("An opacity [choice A].", "B", 0),
        ("An opacity (option A: Normal).", "B", 0),
        ("This supports option A.", "B", 0),
        ("Option A is the correct choice.", "B", 0),
        ("I choose A.", "B", 0),
        ("The answer is clearly A", "B", 0),
        ("An effusion (choice B) fits, unlike an opacity (choice A).", "B", 1),
        ("An effusion is seen.", "B", 1),  # names what it chooses
        ("An effusion (choice B) fits better than edema (choice C).", "B", 1),
        ("An opacity (choice A) would be denser.", "B", 0.5),
        ("This supports an opacity.", "B", 0.5),  # an article
        ("See the left lung (A).", "B", 0.5),  # not marked as a choice
    ],
)
def test_option_marked_in_brackets(
    think: str, answer: str, expected: float, make_truth: Callable[..., GroundTruth]
) -> None:
    truth = make_truth(question_type="multi", answer=["A"], choices=CHOICES)
    assert _score(_response(think, answer), truth) == expected


@pytest.mark.parametrize("words", [0, 50, 79, 80, 81, 82, 83, 90, 400])
def test_a_conclusion_counts_wherever_it_stands(
    words: int, make_truth: Callable[..., GroundTruth]
) -> None:
    think = "Words first. Therefore, the answer is no." + " word" * words
    assert _score(_response(think, "Yes"), make_truth()) == 0


@pytest.mark.parametrize(
    ("wanted", "given", "expected"),
    [
        ([], [], 1),  # none wanted, none given
        ([[10, 10, 40, 40]], [], 0),  # saying nothing is no agreement
        ([], ["[10, 10, 40, 40]"], 1),
    ],
)
def test_without_final_boxes(
    wanted: list[list[float]],
    given: list[str],
    expected: float,
    make_truth: Callable[..., GroundTruth],
) -> None:
    think = "The left lung [10, 10, 40, 40] is clear. The answer is yes."
    text = _response(think, "Yes", *given)
    assert _score(text, make_truth(wanted)) == expected


@pytest.mark.parametrize(
    ("think", "answer", "expected"),
    [
        ("The answer is the left lung.", "left lung", 1),
        ("The answer is the left lung.", "right lung", 0),
        ("The conclusion is: no effusion.", "An effusion", 0),
        ("The answer is an opacity in the left lung.", "left lung", 1),  # says more
        # another finding, or none
        ("The angle is blunted. The answer is: pneumothorax.", "pleural effusion", 0),
        ("A pleural effusion is seen. The answer is: normal.", "pleural effusion", 0),
        ("The answer is cardiomegaly.", "no abnormality", 0),
        ("The answer is: the left lung is clear.", "An opacity in the left lung", 0),
        # the same in other words
        ("The answer is an enlarged heart.", "cardiomegaly", 1),
        ("The answer is: the lungs are clear.", "No abnormality", 1),
        ("The answer is pneumonia.", "Consolidation", 1),
        ("The answer is: no opacity in the left lung.", "The left lung is clear.", 1),
        # no conclusion about what the answer says
        ("The answer is the heart.", "spine", 0.5),
        ("The answer is as above.", "pleural effusion", 0.5),
        ("The answer is based on the enlarged heart.", "pulmonary edema", 0.5),
        ("A pleural effusion is seen. The answer is as above.", "pleural effusion", 1),
        ("The answer is an effusion. The answer is as above.", "pneumothorax", 0),
        ("Therefore the left lung is clear.", "right lung", 1),  # a step, and half of the words
        ("Therefore the heart is normal.", "right lung", 0.5),
        ("Therefore the cardiac silhouette is normal.", "A normal heart", 1),  # one word for both
    ],
)
def test_open_conclusion(
    think: str, answer: str, expected: float, make_truth: Callable[..., GroundTruth]
) -> None:
    truth = make_truth(question_type="open", answer="left lung")
    assert _score(_response(think, answer), truth) == expected


def test_many_conclusions_of_an_open_question_are_compared_quickly(
    make_truth: Callable[..., GroundTruth],
) -> None:
    statement = " ".join(f"word{number}," for number in range(40))
    think = " ".join(f"The answer is number{number} {statement}." for number in range(80))
    start = time.process_time()
    _score(_response(think, "effusion"), make_truth(question_type="open", answer="effusion"))
    assert time.process_time() - start < 0.1


@pytest.mark.parametrize(
    "text",
    ["", "<answer>Yes</answer>", "<think>yes</think>", "<think></think><answer>Yes</answer>"],
)
def test_nothing_to_agree_scores_0(text: str, make_truth: Callable[..., GroundTruth]) -> None:
    assert _score(text, make_truth()) == 0
