"""Letters of a choice question, from the ways in which a model writes them.

The whole answer must read as options: `B`, `b.`, `(B)`, `B: Normal`, `Normal` (a choice's text),
`['A', 'C']`, `A, C`, `A and C`, `Option B because …`. What only contains a letter or a word of an
option is none, and neither is one that wavers between options (`A or C`, `B: text of C`).
"""

import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from reward.lead_in import LEAD_IN

_LETTER = re.compile(
    r"(?:(?:option|choice|answer)s?+\s*+:?\s*+)?+[\[({\"'*`]*+([A-Za-z])(?![A-Za-z0-9]|['’][A-Za-z])[\])}\"'*`]*+",
    re.IGNORECASE,
)
_COMPACT = re.compile(r"[A-Z]{2,8}+")
_DELIMITER = re.compile(r"\s*+[.:(\-–—=]\s*+[\"'(*`]*+")
_SEPARATOR = re.compile(
    r"[\s\"'*`)\].]*+(?:(?:[,;&+/|\n]|\band\b)[\s\"'*`(\[]*+)++(?:\band\b[\s\"'*`(\[]*+)?+",
    re.IGNORECASE,
)
_END = re.compile(
    r"[\"'*`)\]}]*+(?:\s++(?:is|are)\s++(?:both\s++)?+(?:the\s++)?+(?:correct|right|true)\b"
    r"(?:\s++(?:answer|option|choice)s?+)?+)?+[\s.!:\"'*`)\]}]*+\Z",
    re.IGNORECASE,
)
_REASON = re.compile(
    r"[\s,;.]*+\b(?:because|since|as|due|given|based)\b|,\s*+(?:there|it|this|the|which)\b",
    re.IGNORECASE,
)
_OTHER_LETTER = re.compile(
    r"\b(?:or|and|also|maybe|possibly|perhaps|alternatively)\b[\s,(]*+"
    r"(?:(?:option|choice|maybe|possibly|perhaps)\s++)?+\(?([A-Z])\b(?=\s*+(?:[.,;:!?)/]|\Z|is|are|"
    r"could|may|might|also|too))"
)
_NEW_LINE = re.compile(r"[^\S\n]*+\n\s*+")
_WORDS = re.compile(r"[^\W_]+")
_OPENING = re.compile(r"[\s\[({\"'*`]*+(?:both\b\s*+)?+", re.IGNORECASE)


def parse_letters(text: str, choices: Mapping[str, str] | None) -> frozenset[str] | None:
    """Return the letters that an answer names, None where it names none or wavers.

    `choices` maps letters to texts; without it only letters are understood.
    """
    stripped = LEAD_IN.sub("", _NEW_LINE.sub("; ", text.strip()), count=1)
    options = tuple((choices or {}).items())
    whole = _whole_text(stripped, options)
    if whole is not None:
        return frozenset(whole)
    return _read_items(stripped, options)


def _read_items(text: str, options: tuple[tuple[str, str], ...]) -> frozenset[str] | None:
    known = {letter for letter, _ in options}
    compact = _COMPACT.match(text)
    if compact and _END.match(text, compact.end()):
        letters = set(compact[0])
        return frozenset(letters) if len(letters) == len(compact[0]) and letters <= known else None
    found: set[str] = set()
    opening = _OPENING.match(text)
    position = opening.end() if opening else 0
    while True:
        item = _read_item(text, position, options)
        if item is None or (known and item[0] not in known):
            return None
        found.add(item[0])
        position = item[1]
        if _END.match(text, position):
            return frozenset(found)
        separator = _SEPARATOR.match(text, position)
        if separator is None:
            return None
        position = separator.end()


def _read_item(
    text: str, position: int, options: tuple[tuple[str, str], ...]
) -> tuple[str, int] | None:
    """Read one option at a position; return its letter and where it ends."""
    named = _text_at(text, position, options)
    if named is not None and _item_ends(text, named[1]):
        return named
    letter = _LETTER.match(text, position)
    if letter is None:
        return None
    name, end = letter[1].upper(), letter.end()
    delimiter = _DELIMITER.match(text, end)
    begin = delimiter.end() if delimiter else _skip_space(text, end)
    described = _text_at(text, begin, options)
    if described is not None and _item_ends(text, described[1]):
        same_text = dict(options).get(name, "")
        agrees = described[0] == name or _words(same_text) == _words(dict(options)[described[0]])
        return (name, described[1]) if agrees else None
    if _END.match(text, end):
        return (name, end)
    explains = _REASON.match(text, end)
    if not explains and _separated_item(text, end, options):
        return (name, end)
    if explains or delimiter or letter[0].endswith((")", "]")):
        return (name, len(text)) if _is_about(name, text[end:], options) else None
    return None


def _separated_item(text: str, position: int, options: tuple[tuple[str, str], ...]) -> bool:
    """Whether a separator stands here and what may be an option behind it."""
    separator = _SEPARATOR.match(text, position)
    if separator is None:
        return False
    begin = separator.end()
    return bool(_LETTER.match(text, begin) or _text_at(text, begin, options))


def _item_ends(text: str, position: int) -> bool:
    return bool(_END.match(text, position) or _SEPARATOR.match(text, position))


def _is_about(letter: str, explanation: str, options: tuple[tuple[str, str], ...]) -> bool:
    """Whether the words after a letter do not bring in another option."""
    if any(other != letter for other in _OTHER_LETTER.findall(explanation)):
        return False
    words = f" {' '.join(_words(explanation))} "
    return not any(
        f" or {' '.join(_words(other_text))} " in words
        for other, other_text in options
        if other != letter and _words(other_text)
    )


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(text)]


def _whole_text(text: str, options: tuple[tuple[str, str], ...]) -> str | None:
    """Return the letter of the one option whose text is the whole answer."""
    words = _words(text)
    matching = [letter for letter, option in options if words and _words(option) == words]
    return matching[0] if len(matching) == 1 else None


def _text_at(
    text: str, position: int, options: tuple[tuple[str, str], ...]
) -> tuple[str, int] | None:
    """Return the option whose text stands at a position, and where it ends; the longest wins."""
    for letter, pattern in _patterns(options):
        found = pattern.match(text, position)
        if found and _item_ends(text, found.end()):
            return letter, found.end()
    return None


@lru_cache(maxsize=4096)
def _patterns(options: tuple[tuple[str, str], ...]) -> tuple[tuple[str, re.Pattern[str]], ...]:
    texts = Counter(tuple(_words(text)) for _, text in options)
    unique = [option for option in options if texts[tuple(_words(option[1]))] == 1]
    ordered = sorted(unique, key=lambda option: -len(_words(option[1])))
    return tuple(
        (letter, re.compile(r"[\W_]++".join(map(re.escape, _words(text))) + r"\b", re.IGNORECASE))
        for letter, text in ordered
        if _words(text)
    )
