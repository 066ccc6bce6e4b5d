"""Question types, choices and answers: from the dataset's ways of writing to one form."""

from __future__ import annotations

import re
from functools import lru_cache

from data_prep.chosen import chosen_letters

Answer = str | tuple[str, ...]

QUESTION_TYPES = {
    "closed_ended_questions": "closed",
    "single_choice_questions": "single",
    "multi_choice_questions": "multi",
    "open_ended_questions": "open",
}

_CHOICES = re.compile(
    r"<choices>\s*:?\s*\[(.*)\]\s*(?:</choices>)?\s*\.?\s*$", re.DOTALL | re.IGNORECASE
)
_LETTER = re.compile(r"(?:^|[,;\n]\s*)['\"(]?([A-Z])\s*[:.)]\s*", re.MULTILINE)
# `A: x B: y`, where no comma stands between choices.
_SPACED_LETTER = re.compile(r"(?:^|\s)['\"(]?([A-Z])\s*[:.)]\s*")
_YES_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)
# `Yes or no`, `Yes. No.`: but not `Yes, no effusion is seen`.
_BOTH = re.compile(
    r"\W*(?:yes|no)\b\s*(?:(?:[/|&]|\b(?:and|or)\b)\s*(?:yes|no)\b|[\W_]*\b(?:yes|no)\W*$)",
    re.IGNORECASE,
)
_NO_BUT_YES = re.compile(r"\W*no\b.*\byes\b", re.IGNORECASE | re.DOTALL)
_AGAIN = re.compile(r"\W*(yes|no)(?:\W+\1)*\W*", re.IGNORECASE)
_PREFIX = re.compile(
    r"\W*(?:(?:(?:the|my)\s+)?(?:(?:final|correct|best|right)\s+)?"
    r"(?:answers?|options?|choices?)\b\W*(?:(?:is|are)\b\W*)?"
    r"|i\s+(?:would\s+)?(?:choose|select|pick|answer)\b\W*|both\b\W*)+",
    re.IGNORECASE,
)


def parse_choices(question: str) -> dict[str, str] | None:
    """The choices at the end of a question, `<choices>: [A: …, B: …]`; None without any."""
    match = _CHOICES.search(question)
    if match is None:
        return None
    text = match[1]
    marks = _in_sequence(list(_LETTER.finditer(text)))
    if len(marks) < 2:
        marks = _in_sequence(list(_SPACED_LETTER.finditer(text)))
    if not marks:
        return None
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    choices = {
        mark[1]: text[mark.end() : end].strip(" \n\t,;'\"")
        for mark, end in zip(marks, ends, strict=True)
    }
    return choices


def _in_sequence(marks: list[re.Match[str]]) -> list[re.Match[str]]:
    """The marks A, B, C … in this order, so that a letter within a choice is no mark."""
    kept: list[re.Match[str]] = []
    for mark in marks:
        if ord(mark[1]) == ord("A") + len(kept):
            kept.append(mark)
    return kept


@lru_cache(maxsize=256)
def read_question_type(text: str) -> str | None:
    """closed, single, multi or open, from a published name; None for any other.

    Case, a plural's missing s, and hyphens or spaces for underscores do not matter.
    """
    plain = re.sub(r"[\s-]+", "_", text.strip().lower())
    return QUESTION_TYPES.get(plain) or QUESTION_TYPES.get(f"{plain}s")


def normalise_answer(
    text: str, question_type: str, choices: dict[str, str] | None
) -> Answer | None:
    """The answer in one form, or None where it is not certainly one that the question allows.

    `question_type` is closed ("Yes" or "No"), single (a letter), multi (a sorted tuple of
    letters) or open (the text, stripped). A choice may be given by its letter, its letter and
    text, or its text. Without `choices` any capital letter is taken.
    """
    text = text.strip()
    if question_type == "open":
        return text
    if question_type == "closed":
        return _yes_or_no(text) or _yes_or_no(_without_prefix(text))
    # As it stands first: a choice's text may begin like a prefix.
    letters = chosen_letters(text, choices) or chosen_letters(_without_prefix(text), choices)
    if question_type == "single":
        return letters[0] if letters and len(letters) == 1 else None
    return letters


def _without_prefix(text: str) -> str:
    match = _PREFIX.match(text)
    return text[match.end() :] if match else text


def _yes_or_no(text: str) -> str | None:
    match = _YES_NO.match(text)
    if match is None:
        return None
    is_both = _BOTH.match(text) or _NO_BUT_YES.match(text)
    return None if is_both and not _AGAIN.fullmatch(text) else match[1].capitalize()


def answer_text(answer: Answer) -> str:
    """The answer as a response states it: several letters as "A, C"."""
    return answer if isinstance(answer, str) else ", ".join(answer)
