"""Question types, choices and answers: from the dataset's ways of writing to one form."""

from __future__ import annotations

import re
from functools import lru_cache

Answer = str | tuple[str, ...]

QUESTION_TYPES = {
    "closed_ended_questions": "closed",
    "single_choice_questions": "single",
    "multi_choice_questions": "multi",
    "open_ended_questions": "open",
}

_CHOICES = re.compile(r"<choices>\s*:?\s*\[(.*)\]\s*(?:</choices>)?\s*$", re.DOTALL | re.IGNORECASE)
_LETTER = re.compile(r"(?:^|[,;\n]\s*)['\"]?([A-Z])\s*[:.)]\s*", re.MULTILINE)
_YES_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)
_PREFIX = re.compile(
    r"\W*(?:(?:the\s+)?(?:correct\s+)?(?:answers?|options?|choices?)\b\W*(?:(?:is|are)\b\W*)?)+",
    re.IGNORECASE,
)
_SMALL_LETTER = re.compile(r"\W*([a-z])\W*")
_MARK = re.compile(r"(?:^|[,;\n\[&]|\band\b)\s*['\"(]*([A-Z])['\"]?\s*[:.)]")
_ONE_LETTER = re.compile(r"\W*([A-Z])(?:\W*|\s*[:.)]\s.*)", re.DOTALL)
_BETWEEN = re.compile(r"\s*[,;&/]\s*(?:and\b)?\s*|\s+and\s+", re.IGNORECASE)


def parse_choices(question: str) -> dict[str, str] | None:
    """The choices at the end of a question, `<choices>: [A: …, B: …]`; None without any."""
    match = _CHOICES.search(question)
    if match is None:
        return None
    text = match[1]
    marks = _in_sequence(list(_LETTER.finditer(text)))
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
    """The answer in one form, or None where it is not among those that the question allows.

    `question_type` is closed ("Yes" or "No"), single (a letter), multi (a sorted tuple of
    letters) or open (the text, stripped). A choice may be given by its letter, its letter and
    text, or its text. Without `choices` any capital letter is taken.
    """
    text = text.strip()
    if question_type == "open":
        return text
    if question_type == "closed":
        match = _YES_NO.match(text)
        return match[1].capitalize() if match else None
    if question_type == "single":
        return _one_choice(text, choices) or _one_choice(_PREFIX.sub("", text, count=1), choices)
    return _several(text, choices) or _several(_PREFIX.sub("", text, count=1), choices)


def _several(text: str, choices: dict[str, str] | None) -> Answer | None:
    parts = [part for part in _BETWEEN.split(text.strip("[]() .")) if part]
    if len(parts) == 1 and re.fullmatch(r"[A-Z]{2,}", parts[0]):
        parts = list(parts[0])
    letters = [_one_choice(part, choices) for part in parts]
    if None in letters:
        # A choice's own text may hold a comma or an "and": then only the marks count.
        marked = _MARK.findall(text)
        letters = [_one_choice(letter, choices) for letter in marked]
    if not letters or None in letters:
        return None
    return tuple(sorted({letter for letter in letters if letter}))


def _one_choice(text: str, choices: dict[str, str] | None) -> str | None:
    match = _ONE_LETTER.fullmatch(text)
    if match is not None:
        return match[1] if choices is None or match[1] in choices else None
    wanted = _plain(text)
    same = [letter for letter, choice in (choices or {}).items() if _plain(choice) == wanted]
    if len(same) == 1:
        return same[0]
    small = _SMALL_LETTER.fullmatch(text)
    return _one_choice(small[1].upper(), choices) if small else None


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def answer_text(answer: Answer) -> str:
    """The answer as a response states it: several letters as "A, C"."""
    return answer if isinstance(answer, str) else ", ".join(answer)
