"""Statements that contradict each other, that agree, and that have nothing in common."""

import pytest

from reward.contradiction import contradicts

OPPOSED = [
    # another side, level, degree, number or negation, with or without a word in common
    ("the left lung", "the right lung"),
    ("on the left", "the right lung"),
    ("upper", "a lower zone"),
    ("severe", "mild"),
    ("2 nodules", "three nodules"),
    ("an effusion", "no effusion"),
    ("The lungs are not clear", "The lungs are clear"),
    # another finding
    ("left effusion", "left pneumothorax"),
    ("pneumothorax", "pleural effusion"),
    ("no pneumothorax", "no effusion"),
    ("raised left hemidiaphragm", "effusion at the left costophrenic angle"),
    ("a mass", "consolidation"),
    # a finding, and none
    ("normal", "pleural effusion"),
    ("cardiomegaly", "no abnormality"),
    ("no acute process", "an opacity in the left lung"),
    ("The left lung is clear", "an opacity in the left lung"),
    ("abnormal", "normal"),
]
AGREEING = [
    ("an effusion in the left lung", "the left lung"),  # says more
    ("not pneumothorax but pleural effusion", "pleural effusion"),
    ("normal heart, left effusion", "left effusion"),
    # the same in other words
    ("cardiomegaly", "an enlarged heart"),
    ("The heart is bigger than normal", "Enlarged cardiac silhouette"),
    ("raised left hemidiaphragm", "elevated hemidiaphragm on the left"),
    ("a blunted costophrenic angle", "pleural effusion"),
    ("fluid", "pleural effusion"),
    ("pneumonia", "consolidation in the left lung"),
    ("a pacemaker", "a device in the left upper lung zone"),
    ("abnormal", "pleural effusion"),
    # nothing abnormal
    ("clear lungs", "no abnormality"),
    ("unremarkable", "The lungs are clear."),
    ("no abnormal findings", "Normal heart and lungs"),
    ("nothing abnormal", "normal"),
    ("no acute process", "normal"),
    ("no effusion", "normal"),
    ("no clear effusion", "normal"),
    ("no opacity in the left lung", "The left lung is clear."),
    ("no abnormal opacity in the left lung", "The left lung is normal."),
]
NOTHING_IN_COMMON = [
    ("the heart", "the spine"),
    ("mild", "a pleural effusion"),
    ("the right lung", "an opacity"),
    ("pulmonary edema", "heart failure"),  # not known to mean the same
    ("there", "an opacity"),
]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        *((*pair, True) for pair in OPPOSED),
        *((*pair, False) for pair in AGREEING),
        *((*pair, None) for pair in NOTHING_IN_COMMON),
    ],
)
def test_contradiction(first: str, second: str, expected: bool | None) -> None:
    assert contradicts(first, second) is expected
    assert contradicts(second, first) is expected
