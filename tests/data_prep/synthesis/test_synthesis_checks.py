"""What a written reasoning must be: each check, with what passes beside what does not."""

import pytest

from data_prep.rows.example import parse_row
from data_prep.synthesis.tasks import CODES, Limits, Reply, Task, faults, read_reply

FINDINGS = (
    "The left lung [60, 20, 98, 80] shows an opacity. The heart [30, 40, 70, 90] is enlarged. "
    "The right lung [5, 20, 45, 80] is clear."
)
GOOD = (
    "I look at the left lung [60, 20, 98, 80] first, where an opacity is seen, while the right "
    "lung [5, 20, 45, 80] is clear and the heart does not change this."
)
LIMITS = Limits(10, 60)


def task(kind="closed", answer="Yes", question="Is there an opacity?", boxes=True):
    location = "<ref>left lung</ref><box>[60, 20, 98, 80]</box>" if boxes else ""
    names = {"closed": "closed_ended", "open": "open_ended"}
    row = {
        "image_path": "/p10/p10000001/s50000001/a.jpg",
        "question": question,
        "question_type": f"{names.get(kind, f'{kind}_choice')}_questions",
        "thinkVG": "",
        "response": f"<answer>{answer}</answer><location>{location}</location>",
    }
    return Task(parse_row(row, 0), FINDINGS)


def codes(reasoning, answer="Yes", of=None):
    return [fault.code for fault in faults(Reply(reasoning, answer), of or task(), LIMITS)]


def test_a_good_reasoning_passes():
    assert codes(f"{GOOD} Therefore, the answer is Yes.") == []


BAD = [
    ("The left lung [60, 20, 98, 80] is it.", "too_short"),
    (GOOD + " So it is." * 20, "too_long"),
    (f"<think>{GOOD}</think>", "tags"),
    (f"- {GOOD}", "tags"),
    (f"{GOOD} **So** it is.", "tags"),
    (f"{GOOD} The report says so.", "mentions_report"),
    (f"{GOOD} This was reported.", "mentions_report"),
    (f"{GOOD} According to the findings, it is.", "mentions_report"),
    (f"{GOOD} The provided findings agree.", "mentions_report"),
    (f"{GOOD} The answer given is right.", "mentions_report"),
    (f"{GOOD} The radiologist's note agrees.", "mentions_report"),
    (f"{GOOD} The annotations agree.", "mentions_report"),
    (GOOD.replace("[5, 20, 45, 80]", "[5, 20, 45, 82]"), "unknown_box"),
    (GOOD.replace("[5, 20, 45, 80]", "[45, 20, 5, 80]"), "bad_box"),
    (GOOD.replace("[5, 20, 45, 80]", "[5, 20, 45]"), "bad_box"),
    (GOOD.replace("[5, 20, 45, 80]", "[30, 40, 70, 90]"), "wrong_region"),
    (GOOD.replace("left lung [60, 20, 98, 80]", "left lung"), "answer_not_cited"),
    (f"{GOOD} Therefore, the answer is No.", "answer_does_not_follow"),
]


@pytest.mark.parametrize(("reasoning", "code"), BAD)
def test_a_fault_is_found_alone(reasoning, code):
    assert codes(reasoning) == [code]
    assert code in CODES


def test_a_reasoning_without_boxes_is_told_so():
    assert codes("I see an opacity on the left and no other thing at all in here.") == [
        "no_box",
        "answer_not_cited",
    ]


@pytest.mark.parametrize(
    "sentence",
    [
        "The findings in this image are subtle.",  # what is seen is a finding
        "A supporting device is seen.",
        "The heart (30, 40, 70, 90) is large.",
        "The heart [30.4, 40, 70, 90] is large.",  # rounding
        "The cardiac silhouette [30, 40, 70, 90] is large.",  # another name, not another region
    ],
)
def test_what_a_reader_of_the_image_may_say_passes(sentence):
    assert codes(f"{GOOD} {sentence}") == []


ANSWERS = [
    (task(), "Yes.", []),
    (task(), "No", ["answer_does_not_follow"]),
    (task(), "Perhaps", ["answer_does_not_follow"]),
    (task("single", "B", "Which? <choices>: [A: x, B: y]"), "B", []),
    (task("single", "B", "Which? <choices>: [A: x, B: y]"), "y", []),
    (task("single", "B", "Which? <choices>: [A: x, B: y]"), "A", ["answer_does_not_follow"]),
    (task("multi", "A, C", "Which? <choices>: [A: x, B: y, C: z]"), "C and A", []),
    (task("multi", "A, C", "Which? <choices>: [A: x, B: y, C: z]"), "A", CODES),
    (task("open", "An opacity in the left lung."), "Opacity in the left lung", []),
    (task("open", "An opacity in the left lung."), "No opacity in the left lung", CODES),
    (task("open", "An opacity in the left lung."), "Opacity in the right lung", CODES),
]


@pytest.mark.parametrize(("of", "answer", "wanted"), ANSWERS)
def test_the_answer_must_be_the_rows(of, answer, wanted):
    assert codes(GOOD, answer, of) == (["answer_does_not_follow"] if wanted is CODES else wanted)


CONCLUSIONS = [
    ("an opacity in the left lung", []),
    ("consolidation of the left lung", []),  # in other words
    ("as described", []),  # no conclusion
    ("pneumothorax", ["answer_does_not_follow"]),
    ("normal", ["answer_does_not_follow"]),
    ("an enlarged heart", ["answer_does_not_follow"]),
]


@pytest.mark.parametrize(("conclusion", "wanted"), CONCLUSIONS)
def test_the_reasoning_must_conclude_the_open_answer(conclusion, wanted):
    of = task("open", "An opacity in the left lung.")
    assert codes(f"{GOOD} The answer is: {conclusion}.", of.row.answer, of) == wanted


def test_a_row_without_regions_needs_no_box_of_its_answer():
    assert codes(GOOD, of=task(boxes=False)) == []


def test_the_document_tells_all_but_where_the_image_is():
    told = task("single", "B", "Which one? <choices>: [A: x, B: y]").document()
    assert '"question": "Which one?"' in told
    assert '"options": {"A": "x", "B": "y"}' in told
    assert '{"region": "left lung", "box": [60, 20, 98, 80]}' in told
    assert "p10000001" not in told


REPLIES = [
    ('{"reasoning": "a  b\\nc", "answer": " Yes "}', Reply("a b c", "Yes")),
    ('Here:\n```json\n{"reasoning": "a", "answer": "b"}\n```', Reply("a", "b")),
    ('<think>{hm}</think>{"reasoning": "a", "answer": "b"}', Reply("a", "b")),
    ('{"reasoning": "a"}', None),
    ('{"reasoning": "a", "answer": 3}', None),
    ("no", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "reply"), REPLIES)
def test_replies_are_read(text, reply):
    assert read_reply(text) == reply
