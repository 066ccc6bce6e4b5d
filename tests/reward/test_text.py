"""The text score of open answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.text import contradicts, stem, text_score

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
    ("answer", "reference", "score"),
    [
        ("pleural effusion", SMALL, 2 / 3),  # 2 of 4 words: F1 = 2 * 2 / (2 + 4)
        ("mild edema", "severe edema", 0.25),  # F1 0.5, squared: a word was replaced
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


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("the left lung", "the right lung", True),
        ("an effusion", "no effusion", True),
        ("left effusion", "left pneumothorax", True),
        ("an effusion in the left lung", "the left lung", False),  # says more
        ("the heart", "the spine", False),  # of other things
    ],
)
def test_contradiction(first: str, second: str, expected: bool) -> None:
    assert contradicts(first, second) is expected
