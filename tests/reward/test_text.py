"""The text score of open answers."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.text import stem, text_score

SMALL = "There is a small left pleural effusion."


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (SMALL, SMALL),
        ("small left pleural effusion", SMALL),  # stop words
        ("A pleural effusion, small, on the left side", SMALL),  # order
        ("SMALL LEFT-SIDED PLEURAL EFFUSIONS", SMALL),  # case, plural, -sided
        ("without effusion", "No effusion."),
        ("Effusion is absent", "No effusion."),
        ("The effusion isn't seen", "No effusion."),
        ("no effusion, pneumothorax or edema", "no pneumothorax, edema or effusion"),
        ("left and right lungs", "bilateral lung"),
        ("The heart is enlarged", "enlarged heart"),
        ("cardiomegaly", "The heart is enlarged"),
        ("Left lung and right lung", "bilateral lungs"),
        ("Effusion: none.", "No effusion."),
        ("fails to show an effusion", "No effusion."),
        ("An effusion is unlikely", "No effusion."),
        ("No acute findings", "No abnormality"),
        ("Nothing abnormal", "normal"),
        ("No abnormal opacity", "no opacity"),
        ("The heart is bigger than normal", "The heart is enlarged"),
        ("two nodules", "2 nodules"),
        ("bibasilar opacity", "Bilateral basal opacity"),
        ("The", "the"),  # stop words only
    ],
)
def test_same_words_in_the_same_sense_score_1(answer: str, reference: str) -> None:
    assert text_score(answer, reference) == 1


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        # negation
        ("effusion", "no effusion"),
        ("no left pleural effusion", SMALL),
        ("The heart is not enlarged", "The heart is enlarged"),
        ("The lungs are free of consolidation", "consolidation in the lungs"),
        ("edema but no effusion", "effusion but no edema"),
        ("effusion: no", "effusion"),
        ("The effusion has resolved", "effusion"),
        ("negative for effusion", "effusion"),
        ("no cardiomegaly", "enlarged heart"),
        # side and level
        ("small right pleural effusion", SMALL),
        ("small bilateral pleural effusions", SMALL),
        ("right lung", "left lung"),
        ("left upper lung zone", "left lower lung zone"),
        ("left effusion and right opacity", "right effusion and left opacity"),
        ("left or right small pleural effusion", SMALL),
        # finding
        ("small left pleural thickening", SMALL),
        ("heart is abnormal", "heart is normal"),
        ("The left costophrenic angle is blunted", "The left costophrenic angle is sharp"),
        ("opacity", "opacity and effusion"),
        ("small left pleural effusion and pneumothorax", SMALL),
    ],
)
def test_another_sense_scores_below_half(answer: str, reference: str) -> None:
    assert text_score(answer, reference) < 0.5


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (
            "The heart is not enlarged and there is a left effusion",
            "The heart is not enlarged and there is no left effusion",
        ),
        (
            "The heart is not enlarged and the lungs are clear",
            "The heart is not enlarged and the lungs are not clear",
        ),
        ("No effusion and the heart is enlarged", "No effusion and the heart is not enlarged"),
        ("no effusion and a pneumothorax", "no effusion and no pneumothorax"),
        (
            "No pleural effusion with left lower opacity",
            "No pleural effusion and no left lower opacity",
        ),
        ("An effusion cannot be excluded", "No effusion"),
        ("A left effusion cannot be ruled out", "No left effusion"),
        ("effusion is not absent", "no effusion"),
        ("There is no doubt of a left pleural effusion", "No left pleural effusion"),
        ("small left pleural effusion? No.", "small left pleural effusion"),
        ("small left pleural effusion has disappeared", "small left pleural effusion"),
        ("small left pleural effusion is gone", "small left pleural effusion"),
        ("small left pleural effusion isnt seen", "small left pleural effusion"),
        ("zero evidence of small left pleural effusion", "small left pleural effusion"),
        ("possible small left pleural effusion", "small left pleural effusion"),
        ("We couldn't find a small left pleural effusion", "small left pleural effusion"),
        ("The image lacks an effusion", "effusion"),
        ("non-enlarged heart", "enlarged heart"),
        (
            "In the left lung, there is an opacity. In the right lung, an effusion.",
            "In the right lung, there is an opacity. In the left lung, an effusion.",
        ),
        (
            "On the left, effusion; on the right, opacity",
            "On the right, effusion; on the left, opacity",
        ),
        ("left effusion greater than right", "right effusion greater than left"),
        (
            "The left hemidiaphragm is higher than the right hemidiaphragm",
            "The right hemidiaphragm is higher than the left hemidiaphragm",
        ),
        (
            "The pneumothorax is larger on the left than on the right",
            "The pneumothorax is larger on the right than on the left",
        ),
        (
            "mild enlargement of the heart with pulmonary vascular congestion",
            "severe enlargement of the heart with pulmonary vascular congestion",
        ),
        ("5 mm nodule in the right upper lung zone", "50 mm nodule in the right upper lung zone"),
        ("acute fracture of the left clavicle", "chronic fracture of the left clavicle"),
        ("The trachea is deviated", "The trachea is midline"),
    ],
)
def test_one_changed_word_of_many_scores_below_half(answer: str, reference: str) -> None:
    assert text_score(answer, reference) < 0.5
    assert text_score(reference, answer) < 0.5


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (
            "There is no effusion. The heart is normal.",
            "There is no effusion and the heart is normal.",
        ),
        (
            "The heart is normal and there is no effusion.",
            "There is no effusion and the heart is normal.",
        ),
        (
            "There is no effusion, and the heart is enlarged.",
            "There is no effusion and the heart is enlarged.",
        ),
        ("no effusion, edema, and pneumothorax", "no effusion, edema, or pneumothorax"),
        ("The lungs are clear with no effusion", "The lungs are clear"),
        ("The lungs are clear and unremarkable", "The lungs are clear"),
        ("Left pleural effusion with no pneumothorax", "Left pleural effusion"),
        ("Increased opacity in the left lung", "Opacity in the left lung"),
        ("stable left effusion", "left effusion"),
        ("Both lungs are clear", "The left lung and the right lung are clear"),
        ("the left and the right lung are clear", "Both lungs are clear"),
        ("left as well as right effusion", "bilateral effusions"),
        ("The heart is not enlarged", "The heart size is normal"),
        ("Heart size is normal", "No cardiomegaly"),
        ("The trachea is not deviated", "No tracheal deviation"),
        ("No pneumothoraces", "No pneumothorax"),
        ("No significant abnormality", "normal"),
        ("Not normal", "abnormal"),
        ("left basilar atelectasis", "atelectasis at the left lung base"),
    ],
)
def test_the_same_sense_in_other_words_scores_high(answer: str, reference: str) -> None:
    assert text_score(answer, reference) > 0.7


LEFT_OUT = [
    ("There is an opacity in the lung.", "There is an opacity in the {} lung.", "left right"),
    (
        "Moderate pleural effusion with adjacent atelectasis",
        "Moderate {} pleural effusion with adjacent atelectasis",
        "left right bilateral",
    ),
    ("cardiomegaly", "{} cardiomegaly", "mild severe"),
    ("The left lung.", "The left lung is {}.", "clear hazy"),
    ("heart size", "The heart size is {}.", "normal increased"),
    ("The left lung. The heart is normal.", "The left lung is {}. The heart is normal.", "hazy"),
    ("The lungs are clear and the heart", "The lungs are clear and the heart is {}", "normal"),
    ("left lung zone opacity", "left {} lung zone opacity", "upper mid lower"),
    ("a nodule in the right upper lung zone", "{} nodules in the right upper lung zone", "2 two"),
    ("The sixth rib of the left side", "The sixth rib of the left side shows a {}", "fracture"),
    ("The left pleural space", "There is no pleural {} on the left", "effusion pneumothorax"),
    ("The left effusion in the lung", "The left effusion in the lung is {}", "larger smaller"),
]


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (answer, reference.format(word))
        for answer, reference, words in LEFT_OUT
        for word in words.split()
    ],
)
def test_what_leaves_out_something_of_importance_scores_half_at_most(
    answer: str, reference: str
) -> None:
    assert 0 < text_score(answer, reference) <= 0.5
    assert text_score(reference, reference) == 1


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        # without filler words
        ("Heart size normal", "The heart size is normal on this image."),
        ("Left effusion", "There is a left pleural effusion."),
        ("left lung clear, heart normal", "The left lung is clear. The heart is normal in size."),
        ("The lungs are clear", "The lungs are clear and unremarkable"),
        # the same in other words
        ("The lungs are clear", "Both lungs are clear"),
        (
            "mild left pleural effusion with adjacent lower lobe atelectasis",
            "small left pleural effusion with adjacent lower lobe atelectasis",
        ),
        ("The lungs and the heart are normal", "The lungs are clear and the heart is normal"),
        ("middle lobe opacity", "right middle lobe opacity"),
        ("lingular opacity", "Opacity in the left lingula"),
        ("retrocardiac opacity", "left retrocardiac opacity"),
        ("opacities in the bases", "bibasilar opacities"),
        ("sixth rib fracture", "Fracture of the 6th rib"),
        ("enlarged hila", "bilateral enlarged hila"),
        # more is denied
        ("no fracture of the left clavicle", "no acute fracture of the left clavicle"),
    ],
)
def test_a_shorter_answer_that_says_as_much_is_right(answer: str, reference: str) -> None:
    assert text_score(answer, reference) >= 0.75


def test_words_for_one_side_do_not_stand_for_the_other() -> None:
    assert text_score("The lungs are clear", "The left lung is clear") == pytest.approx(0.4)
    assert text_score("lingular opacity", "right lingular opacity") == pytest.approx(0.4)


PAIRS = [
    ("left", "right"),
    ("upper", "lower"),
    ("mild", "severe"),
    ("small", "large"),
    ("acute", "chronic"),
    ("2", "3"),
    ("improved", "worsened"),
    ("clear", "hazy"),
    ("bilateral", "right"),
]
WORDS = ["pleural", "opacity", "effusion", "lung", "zone", "rib", "heart", "size", "normal"]


@given(
    st.lists(st.sampled_from(PAIRS), min_size=1, max_size=3, unique_by=lambda pair: pair[1]),
    st.lists(st.floats(0.5, 1), min_size=3, max_size=3),
    st.lists(st.sampled_from(WORDS), min_size=1),
)
def test_leaving_out_what_is_not_sure_never_gets_more_than_the_likeliest_words(
    pairs: list[tuple[str, str]], beliefs: list[float], words: list[str]
) -> None:
    """Each pair's first word is right with its own probability, else the second."""
    odds = [
        dict(zip(pair, (p, 1 - p), strict=True))
        for pair, p in zip(pairs, beliefs[: len(pairs)], strict=True)
    ]

    def expected(answer: tuple[str, ...]) -> float:
        return sum(
            math.prod(chances[word] for chances, word in zip(odds, right, strict=True))
            * text_score(" ".join([*answer, *words]), " ".join([*right, *words]))
            for right in itertools.product(*pairs)
        )

    likeliest = expected(tuple(first for first, _ in pairs))
    for answer in itertools.product(*[(*pair, "") for pair in pairs]):
        assert expected(answer) <= likeliest + 1e-9


def test_a_changed_sense_leaves_at_most_what_the_formula_says() -> None:
    assert text_score("effusion", "no effusion") == pytest.approx(0.4)
    assert text_score("left effusion", "right effusion") == pytest.approx(0.4 * 0.25)


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("effusion", "pleural effusion with loculation", 1 / 2),  # F1 = 2 * 1 / (1 + 3)
        ("pleural effusion", SMALL, 2 / 3 / 4),  # F1 2 * 2 / (2 + 4), without side and degree
        ("mild edema", "severe edema", 0.1),  # F1 0.5, squared, and another degree
        ("left lung opacity", "left lung clear", 0.4 * 4 / 9),  # another state, not one left out
        ("chest edema noted", "brain edema", 2 / 3),  # a word missing
        ("edema " * 4, "edema", 0.4),  # repetition
        ("effusion. No effusion.", "effusion", 0),  # both ways
        ("left or right lung", "left lung", 0),
        ("", "effusion", 0),
        ("spine", "heart", 0),
    ],
)
def test_values(answer: str, reference: str, score: float) -> None:
    assert text_score(answer, reference) == pytest.approx(score)


@given(st.text(max_size=200), st.text(max_size=200))
def test_range_and_identity(answer: str, reference: str) -> None:
    assert 0 <= text_score(answer, reference) <= 1
    words = f"left {reference} opacity"
    assert text_score(words, words) == 1


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("effusions", "effusion"),
        ("opacities", "opacity"),
        ("opacification", "opacity"),
        ("masses", "mass"),
        ("atelectasis", "atelectasis"),
        ("pneumothorax", "pneumothorax"),
        ("thickenings", "thickening"),
        ("is", "is"),
    ],
)
def test_stem(word: str, expected: str) -> None:
    assert stem(word) == expected
