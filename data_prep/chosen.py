"""Which of a question's choices an answer names, where that is certain."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

Choices = Mapping[str, str] | None

_LONE = re.compile(r"[\W_]*([A-Za-z])[\W_]*")
# Only letters and what may stand between them: the usual case, read at once.
_LETTERS = re.compile(r"[A-Z\s,;&|+/'\"\[\](){}.、，；*]+")
# The other usual case, `B: its text`.
_WITH_TEXT = re.compile(r"([A-Z])[:.)] ?(.*?)[.\s]*", re.DOTALL)
_RUN = re.compile(r"[A-Z]+")
_TOKEN = re.compile(r"[^\W_]+|[^\w\s]|_")
_WORD = re.compile(r"[^\W_]+")
_BETWEEN = frozenset(",;&|+/'\"[](){}.、，；*•") | {"and"}
_MARKS = frozenset(":.)-–—'\"]*")
# Behind a choice's text these may take it back.
_DOUBTS = frozenset({"not", "or", "nor", "neither", "except", "without", "unlike", "than"})


def chosen_letters(text: str, choices: Choices) -> tuple[str, ...] | None:
    """The letters of the choices that `text` names, sorted; None where it is not certain.

    A choice is named by its letter, by its letter and its text, or by its text; the whole text is
    compared first, so that a choice which joins two others is not taken for them. Without
    `choices` any capital letter is one, whatever follows its mark.
    """
    lone = _LONE.fullmatch(text)
    if lone is not None:
        letter = lone[1].upper()
        if choices is None or letter in choices:
            return (letter,)
    marked = _WITH_TEXT.fullmatch(text)
    if marked is not None and choices is not None and choices.get(marked[1]) == marked[2]:
        return (marked[1],)
    if _LETTERS.fullmatch(text):
        return _listed(_RUN.findall(text), choices)
    return _Reader(text, choices).read()


def _listed(runs: Sequence[str], choices: Choices) -> tuple[str, ...] | None:
    """Letters from `A, C` or `AC`."""
    if len(runs) > 1 and any(len(run) > 1 for run in runs):
        return None
    letters = set("".join(runs))
    known = choices is None or letters <= choices.keys()
    return tuple(sorted(letters)) if letters and known else None


class _Reader:
    """Reads an answer token by token: words, and marks of one character."""

    def __init__(self, text: str, choices: Choices) -> None:
        self._tokens: list[str] = _TOKEN.findall(text)
        self._plain = [token.lower() for token in self._tokens]
        self._choices = choices
        words = {letter: _words(choice) for letter, choice in (choices or {}).items()}
        # The longest first: it may hold another.
        self._texts = sorted(words.items(), key=lambda item: -len(item[1]))

    def read(self) -> tuple[str, ...] | None:
        words = [token for token in self._plain if _WORD.fullmatch(token)]
        same = [letter for letter, text in self._texts if text == words]
        if same:
            return (same[0],) if len(same) == 1 else None
        letters: set[str] = set()
        kinds: set[str] = set()
        place = 0
        while place < len(self._tokens):
            if self._plain[place] in _BETWEEN:
                place += 1
                continue
            item = self._item(place)
            if item is None:
                return None
            kind, letter, place = item
            letters.add(letter)
            kinds.add(kind)
        if not letters or kinds >= {"letter", "text"}:
            return None  # `B. Heart` is no list
        return tuple(sorted(letters))

    def _item(self, place: int) -> tuple[str, str, int] | None:
        """What begins at a token: its kind, its letter, and where it ends."""
        marked = self._marked(place)
        if marked is not None:
            end = self._skip_more(marked)
            return None if end is None else ("marked", self._tokens[place], end)
        found = self._text_at(place)
        if found is not None:
            letter, end = found
            return ("text", letter, end) if self._ends_item(end) else None
        letter = self._plain[place].upper()
        if self._is_letter(letter) and self._ends_item(place + 1):
            return "letter", letter, place + 1
        return None

    def _is_letter(self, token: str) -> bool:
        if self._choices is None:
            return len(token) == 1 and "A" <= token <= "Z"
        return token in self._choices

    def _ends_item(self, place: int) -> bool:
        """Whether an item may end here: at the end, before a mark between items, or a letter."""
        if place >= len(self._tokens) or self._plain[place] in _BETWEEN:
            return True
        return len(self._tokens[place]) == 1 and self._is_letter(self._plain[place].upper())

    def _marked(self, place: int) -> int | None:
        """Where `B: its text` ends that begins here."""
        letter = self._tokens[place]
        if not self._is_letter(letter):
            return None
        place += 1
        begin = place
        while place < len(self._tokens) and self._tokens[place] in _MARKS:
            place += 1
        if self._choices is None:
            has_mark = any(token in ":.)" for token in self._tokens[begin:place])
            return place if has_mark and not self._is_letter_at(place) else None
        return self._match(_words(self._choices[letter]), place)

    def _is_letter_at(self, place: int) -> bool:
        return place >= len(self._tokens) or self._is_letter(self._tokens[place])

    def _text_at(self, place: int) -> tuple[str, int] | None:
        """The one choice whose text begins here, and where it ends."""
        for letter, words in self._texts:
            end = self._match(words, place)
            if end is not None:
                return None if [text for _, text in self._texts].count(words) > 1 else (letter, end)
        return None

    def _match(self, words: Sequence[str], place: int) -> int | None:
        """Where these words end that begin here, whatever marks stand between them."""
        for word in words:
            while place < len(self._plain) and not _WORD.fullmatch(self._plain[place]):
                place += 1
            if place >= len(self._plain) or self._plain[place] != word:
                return None
            place += 1
        return place if words else None

    def _skip_more(self, place: int) -> int | None:
        """The next `C: its text`, past what else is said of a choice; None for what may deny it."""
        while place < len(self._tokens):
            if self._marked(place) is not None:
                return place
            is_letter = len(self._tokens[place]) == 1 and self._is_letter(self._tokens[place])
            if is_letter and self._ends_item(place + 1) and not self._in_words(place):
                return place
            if is_letter or self._plain[place] in _DOUBTS or self._text_at(place) is not None:
                return None
            place += 1
        return place

    def _in_words(self, place: int) -> bool:
        """Whether words stand directly before a token, so that it may be part of what they say."""
        before = self._plain[place - 1]
        return _WORD.fullmatch(before) is not None and before != "and"


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
