"""Answers in one form: question types, choices, and answers that one image cannot give.

An answer may compare with an earlier examination, or hedge. Words for this are searched in what the
answer states: the text of an open answer, the texts of the chosen options, and for yes or no the
question. A word counts in the sense of radiology reports: "stable" and "unchanged" compare, but
"increased opacity" and "compared with the left side" describe one image. "No effusion or
pneumothorax" does not hedge.
"""

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase

from reward.answers import parse_letters, parse_yes_no
from reward.ground_truth import QuestionType

Answer = str | tuple[str, ...]
"""A text, "Yes" or "No", a letter, or several letters in order."""

COMPARES, HEDGES = "compares", "hedges"
BEYOND = (COMPARES, HEDGES)
"""Codes of answers that one image cannot give, in the order of the checks."""

PUBLISHED_TYPES: dict[str, QuestionType] = {
    "closed_ended_questions": "closed",
    "single_choice_questions": "single",
    "multi_choice_questions": "multi",
    "open_ended_questions": "open",
}

_CHOICES_BEGIN = re.compile(r"<choices>\s*+:?\s*+\[", re.IGNORECASE)
_CHOICES_END = re.compile(r"\s*+\.?\s*+(?:>seciohc/<)?\s*+\]", re.IGNORECASE)  # read backwards
# The mark of a choice, such as "A:", after a comma or at the beginning; after any white space.
_LISTED_MARK = re.compile(r"(?:^|[,;\n]\s*)['\"(]?([A-Z])\s*[:.)]\s*", re.MULTILINE)
_SPACED_MARK = re.compile(r"(?<!\S)['\"(]?([A-Z])\s*[:.)]\s*")
_DOUBT = re.compile(r"\b(?:not|or|nor|neither|except|without|unlike|than)\b", re.IGNORECASE)

_EARLIER = r"(?:previous|prior|earlier|preceding|past|former|old|last|(?:most\s+)?recent|initial)"
_EXAMINATION = (
    r"(?:stud(?:y|ies)|exam(?:ination)?s?|radiographs?|radiography|films?|images?|imaging|x-?rays?"
    r"|scans?|ct|cxrs?|views?|comparisons?|reports?)"
)
_CHANGED = (
    r"(?:changed|improved|worsened|progressed|regressed|resolved|cleared|grown|developed|removed"
    r"|(?:increased|decreased|enlarged|diminished|declined)"
    r"(?=\s*(?:[.,;:)]|$)|\s+(?:in|since|from|slightly|further|markedly|significantly|now)\b))"
)
_COMPARES = re.compile(
    rf"""
    \b(?:
      unchanged | yesterday | interim | no\ longer | redemonstrat\w+ | re-demonstrat\w+
      # "hemodynamically stable" is said of a patient
    | (?<!hemodynamically\ )stable
    | new(?:ly)?\b(?!\s+(?:bone|york))
      # a persistent left SVC is a vein that some people have
    | persist(?:s|ed|ent|ently|ing)?\b(?!\s+left(?:[\s-]sided)?\s+(?:svc|superior))
    | worsen(?:s|ed|ing)? | improv(?:es|ed|ing|ement) | progression
    | (?<!be\ )resolv(?:ed|ing)
    | (?:no|without|little)\s+(?:(?:significant|substantial|relevant|appreciable|notable|obvious
        |definite|major|interval|overall|other)\s+)*change\b
    | not\s+(?:\w+ly\s+)?changed
    | (?:has|have|had)\s+(?:not\s+)?(?:been\s+)?(?:\w+ly\s+)?{_CHANGED}
    | change[sd]?\s+(?:from|since)
    | remain(?:s|ed)?\s+(?:the\s+same|similar)
    | interval(?:ly)?\s+(?:\w+\s+)?(?:change|increase|decrease|development|resolution|removal
        |placement|insertion|improvement|worsening|progression|enlargement|growth|appearance
        |clearing|extubation|intubation)s?
    | (?:in|over|during|since)\s+the\s+interval
    | (?:increasing|decreasing)\s+(?:(?:pleural|pulmonary|size|bilateral|left|right|in|of|the)\s+)*
        (?:effusions?|edema|oedema|atelectasis|consolidations?|pneumothorax|size)
    | again\s+(?:\w+ly\s+)?(?:seen|noted|demonstrated|identified|visuali[sz]ed|shown|present)
    | previously\s+(?:seen|noted|described|demonstrated|identified|visuali[sz]ed|shown|present
        |reported|documented)
      # an examination; "prior surgery" and "old fracture" are seen in the image itself
    | {_EARLIER}\s+(?:\w+\s+){{0,2}}?{_EXAMINATION}
    | (?:than|as)\s+(?:it\s+was\s+)?before
    | (?:to|with|than|from|since|as|on)\s+(?:the\s+|a\s+|any\s+)?(?:prior|previous(?:ly)?|earlier)
        (?=\s*(?:[.,;:)]|$))
    | compar(?:ed|ing|ison|able)\s+(?:to|with)\s+(?:\w+\s+){{0,2}}?
        (?:previous|prior|earlier|preceding|baseline)(?!\s+(?:surg|operat|fractur))
    )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_OR = re.compile(r"(?<![\w/-])(?:or|versus|vs)(?![\w/-])", re.IGNORECASE)
_NO_HEDGE = re.compile(r"\b(?:more\s+or\s+less|whether\s+or\s+not)\b", re.IGNORECASE)
_CLAUSE = re.compile(r"[.;:!?](?:\s|$)|,?\s+\b(?:but|however|although|though)\b", re.IGNORECASE)
_NEGATION = re.compile(
    r"\b(?:no|not|non|none|without|neither|nor|never|absen(?:t|ce)|free\s+(?:of|from)|negative"
    r"|lack(?:s|ing)?|den(?:y|ies)|rules?\s+out|excludes?|\w+n't)\b",
    re.IGNORECASE,
)


def read_question_type(text: str) -> QuestionType | None:
    """Return the type of a published name; None for any other name.

    Case, a missing final s, and hyphens or spaces instead of underscores are ignored.
    """
    name = re.sub(r"[\s-]+", "_", text.strip().lower())
    return PUBLISHED_TYPES.get(name) or PUBLISHED_TYPES.get(f"{name}s")


def _find_choices(question: str) -> tuple[int, str] | None:
    """Return where the choices at the end of a question begin, and what is in their brackets."""
    # One search from each end takes linear time; a single pattern would not.
    begin, end = _CHOICES_BEGIN.search(question), _CHOICES_END.match(question[::-1])
    if begin is None or end is None or begin.end() > len(question) - end.end():
        return None
    return begin.start(), question[begin.end() : len(question) - end.end()]


def parse_choices(question: str) -> dict[str, str] | None:
    """Return the choices at the end of a question, `<choices>: [A: …, B: …]`; None without any."""
    choices_at_end = _find_choices(question)
    if choices_at_end is None:
        return None
    _, text = choices_at_end
    marks = _in_sequence(list(_LISTED_MARK.finditer(text)))
    if len(marks) < 2:  # `A: x B: y`, without a comma
        marks = _in_sequence(list(_SPACED_MARK.finditer(text)))
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    choices = {
        mark[1]: text[mark.end() : end].strip(" \n\t,;'\"")
        for mark, end in zip(marks, ends, strict=False)
    }
    return choices or None


def with_choices(question: str, choices: Sequence[str]) -> str:
    """Write choices at the end of a question, in the order of their letters.

    Raises:
        ValueError: there are too many, or they would not be read back as they are.
    """
    if len(choices) > len(ascii_uppercase):
        raise ValueError(f"{len(choices)} choices; there are letters for {len(ascii_uppercase)}")
    by_letter = dict(zip(ascii_uppercase, choices, strict=False))
    listed = ", ".join(f"{letter}: {text}" for letter, text in by_letter.items())
    written = f"{question} <choices>: [{listed}]"
    read = parse_choices(written)
    if read != by_letter:
        wrong = next(text for key, text in by_letter.items() if (read or {}).get(key) != text)
        raise ValueError(f"the choice {wrong!r} cannot be told from its neighbours: reword it")
    return written


def split_choices(question: str, choices: Mapping[str, str] | None) -> str:
    """Return a question without the choices at its end, if it has any."""
    choices_at_end = _find_choices(question) if choices else None
    return question[: choices_at_end[0]].strip() if choices_at_end else question


def _in_sequence(marks: list[re.Match[str]]) -> list[re.Match[str]]:
    """Return the marks in the order A, B, C …, without letters inside a choice."""
    ordered: list[re.Match[str]] = []
    for mark in marks:
        if ord(mark[1]) == ord("A") + len(ordered):
            ordered.append(mark)
    return ordered


def normalise_answer(
    text: str, question_type: QuestionType, choices: Mapping[str, str] | None
) -> Answer | None:
    """Return the answer in one form, None if it is not certainly an answer to the question.

    Args:
        text: The answer of the dataset. It names a choice by letter, by letter and text, or by
            text.
        question_type: Decides the form: "Yes" or "No", a letter, a sorted tuple of letters, or the
            stripped text.
        choices: Texts by letter. Without them any capital letter is allowed.
    """
    text = text.strip()
    if question_type == "open":
        return text
    if question_type == "closed":
        return parse_yes_no(text)
    letters = parse_letters(text, choices) or _letters_of_items(text, choices)
    if letters is None or (question_type == "single" and len(letters) > 1):
        return None
    return min(letters) if question_type == "single" else tuple(sorted(letters))


def _letters_of_items(text: str, choices: Mapping[str, str] | None) -> frozenset[str] | None:
    """Return the letters of `A: … C: …`, read item by item; texts may be longer than choices."""
    marks = list(_SPACED_MARK.finditer(text))
    if len(marks) < 2 or marks[0].start() > 0 or _DOUBT.search(text):
        return None
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    for mark, end in zip(marks, ends, strict=True):
        # After "and", `parse_letters` only allows another option.
        item = text[mark.start() : end].strip(" ,;\n").replace(", and ", ", ")
        if parse_letters(item, choices) != frozenset(mark[1]):
            return None
    return frozenset(mark[1] for mark in marks)


def answer_text(answer: Answer) -> str:
    """Return the answer as written in a response: several letters as "A, C"."""
    return answer if isinstance(answer, str) else ", ".join(answer)


def compares(text: str) -> bool:
    return _COMPARES.search(text) is not None


def hedges(text: str) -> bool:
    """Return whether a text leaves open which of several findings it states.

    An "or" after a negation in the same clause does not: both are negated.
    """
    if _OR.search(text) is None:
        return False
    for clause in _CLAUSE.split(_NO_HEDGE.sub(" ", text)):
        match = _OR.search(clause)
        if match is not None and _NEGATION.search(clause, 0, match.start()) is None:
            return True
    return False


def beyond_one_image(
    question: str,
    question_type: QuestionType,
    written: str,
    letters: Answer,
    choices: Mapping[str, str] | None,
) -> tuple[str, ...]:
    """Return the codes of `BEYOND` that apply to an answer.

    `written` is the answer of the dataset, `letters` are those of the chosen options.
    """
    if question_type == "open":
        statements = [written]
    elif question_type == "closed":
        statements = [written, question]
    else:
        options = choices or {}
        statements = [options[letter] for letter in letters if letter in options] or [written]
    codes = [COMPARES] if any(map(compares, statements)) else []
    if question_type == "open" and hedges(written):
        codes.append(HEDGES)
    return tuple(codes)
