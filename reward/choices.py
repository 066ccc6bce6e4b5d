"""Letters of a choice question, from the ways in which a model writes them.

The whole answer must read as options: `B`, `b.`, `(B)`, `B: Normal`, `Normal` (a choice's text),
`Normal (choice B)`, `['A', 'C']`, `A, C`, `A and C`, `Option B because …`, `B. Normal; the angles
are sharp`. What only contains a letter or a word of an option is none, and neither is one that
wavers between options (`A or C`, `B: text of C`, `B, not A`).
"""

import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from reward.bare_answer import bare_answer, stated_answers

_LETTER = re.compile(
    r"(?:(?:option|choice|answer)s?+\s*+:?\s*+)?+[\[({\"'*`]*+([A-Za-z])(?![A-Za-z0-9]|['’][A-Za-z])[\])}\"'*`]*+",
    re.IGNORECASE,
)
_COMPACT = re.compile(r"[A-Z]{2,8}+")
_SPACED = re.compile(r"[A-Z](?:\s++[A-Z]){1,25}+")
_DELIMITER = re.compile(r"\s*+[.:(\-–—=]\s*+[\"'(*`]*+")
_SEPARATOR = re.compile(
    r"[\s\"'*`)\].]*+(?:(?:[,;&+/|\n]|\b(?:and|plus|as\s++well\s++as)\b)[\s\"'*`(\[]*+)++(?:\band\b[\s\"'*`(\[]*+)?+",
    re.IGNORECASE,
)
_END = re.compile(
    r"[\"'*`)\]}]*+(?:\s++(?:is|are)\s++(?:both\s++)?+(?:the\s++)?+"
    r"(?:(?:correct|right|true|best|final|most\s++likely|likely|present|seen|visible|noted|shown)\b"
    r"(?:\s++(?:answer|option|choice)s?+)?+|(?:answer|option|choice)s?+\b))?+[\s.!:\"'*`)\]}]*+\Z",
    re.IGNORECASE,
)
_REASON = re.compile(
    r"[\s,;.]*+\b(?:because|since|as|due|given|based)\b|,\s*+(?:there|it|this|the|which)\b",
    re.IGNORECASE,
)
_LINK = re.compile(r"[&+/|]|\band\b", re.IGNORECASE)
_WAVERS = re.compile(
    r"[\s,;.(]*+(?:and\s++)?+(?:or|but|however|not|maybe|perhaps|possibly|probably|either|"
    r"neither|unsure|uncertain|unclear|alternatively|also)\b",
    re.IGNORECASE,
)
# A letter by itself; "A" and "I" before a word in small letters are an article and a pronoun.
_CAPITAL = re.compile(r"\b([B-HJ-Z]|[AI](?!\s++[a-z]))\b(?!['’])")
_NAMED_OPTION = re.compile(r"\b(?:option|choice|means)\s++([A-Za-z])\b", re.IGNORECASE)
_HEDGES = re.compile(
    r"\b(?:could|might|may)\s++be\b|\b(?:versus|vs|actually|wait|wrong|incorrect|alternatively|"
    r"on\s++second\s++thought)\b",
    re.IGNORECASE,
)
_JOINS = ("or", "and", "also", "maybe", "possibly")
_ARTICLE = re.compile(
    r"(?:(?:[Ii]n|[Oo]n|[Aa]t|[Tt]here\s++(?:is|are))\s++)?+(?:(?:[Tt]he|[Aa]n|a)\s++|A\s++(?=[a-z]))"
)
_MARK = re.compile(r"\s*+[(\[](?:(?:choice|option|answer)\s++)?+([A-Za-z])[)\]]", re.IGNORECASE)
_NEW_LINE = re.compile(r"[^\S\n]*+\n\s*+")
_WORDS = re.compile(r"[^\W_]+")
_OPENING = re.compile(r"[\s\[({\"'*`]*+(?:both\b\s*+)?+", re.IGNORECASE)


def parse_letters(text: str, choices: Mapping[str, str] | None) -> frozenset[str] | None:
    """Return the letters that an answer names, None where it names none or wavers.

    `choices` maps letters to texts; without it only letters are understood.
    """
    options = tuple((choices or {}).items())
    letters = _read(bare_answer(text), options)
    stated = {_read(bare_answer(answer), options) for answer in stated_answers(text)} - {None}
    if letters is None or not stated:
        return letters or (stated.pop() if len(stated) == 1 else None)
    return letters if stated == {letters} else None


def _read(text: str, options: tuple[tuple[str, str], ...]) -> frozenset[str] | None:
    text = _NEW_LINE.sub("; ", text) if "\n" in text else text
    whole = _whole_text(text, options)
    if whole is not None:
        return frozenset(whole)
    spaced = _SPACED.fullmatch(text)
    return _read_items(", ".join(text.split()) if spaced else text, options)


def _read_items(text: str, options: tuple[tuple[str, str], ...]) -> frozenset[str] | None:
    known = {letter for letter, _ in options}
    compact = _COMPACT.match(text)
    if compact and _END.match(text, compact.end()):
        letters = set(compact[0])
        return frozenset(letters) if len(letters) == len(compact[0]) and letters <= known else None
    found: set[str] = set()
    opening = _OPENING.match(text)
    position = opening.end() if opening else 0
    separator = ""
    while position < len(text):
        item = _read_item(text, position, options)
        if item is None:
            explains = not _LINK.search(separator) and _is_about(found, text[position:], options)
            return frozenset(found) if found and explains else None
        if known and item[0] not in known:
            return None
        found.add(item[0])
        position = item[1]
        if _END.match(text, position):
            return frozenset(found)
        match = _SEPARATOR.match(text, position)
        if match is None:
            return None
        separator, position = match[0], match.end()
    return frozenset(found) if found else None


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
    if not explains and _SEPARATOR.match(text, end):
        return (name, end)
    if explains or delimiter or letter[0].endswith((")", "]")):
        return (name, len(text)) if _is_about({name}, text[end:], options) else None
    return None


def _item_ends(text: str, position: int) -> bool:
    return bool(_END.match(text, position) or _SEPARATOR.match(text, position))


def _is_about(letters: set[str], explanation: str, options: tuple[tuple[str, str], ...]) -> bool:
    """Whether the words behind some options neither waver nor bring in another option."""
    if _WAVERS.match(explanation):
        return False
    if _HEDGES.search(explanation):
        return False
    known = {letter for letter, _ in options}
    named = [*_CAPITAL.findall(explanation), *_MARK.findall(explanation)]
    for found in named + _NAMED_OPTION.findall(explanation):
        if found.upper() not in letters and (not known or found.upper() in known):
            return False
    words = f" {' '.join(_words(explanation))} "
    chosen = [f" {' '.join(_words(text))} " for letter, text in options if letter in letters]
    for letter, text in options:
        phrase = " ".join(_words(text))
        if not phrase or letter in letters or any(f" {phrase} " in other for other in chosen):
            continue
        if words.startswith(f" {phrase} ") or any(f" {x} {phrase} " in words for x in _JOINS):
            return False
    return True


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
    article = _ARTICLE.match(text, position)
    begin = article.end() if article else position
    for letter, pattern in _patterns(options):
        found = pattern.match(text, position) or pattern.match(text, begin)
        if found is None:
            continue
        mark = _MARK.match(text, found.end())
        end = mark.end() if mark and mark[1].upper() == letter else found.end()
        if _item_ends(text, end):
            return letter, end
    return None


@lru_cache(maxsize=4096)
def _patterns(options: tuple[tuple[str, str], ...]) -> tuple[tuple[str, re.Pattern[str]], ...]:
    texts = Counter(tuple(_words(text)) for _, text in options)
    unique = [option for option in options if texts[tuple(_words(option[1]))] == 1]
    ordered = sorted(unique, key=lambda option: -len(_words(option[1])))
    return tuple(
        (letter, re.compile(r"[\W_]++".join(map(re.escape, _words(text))) + r"s?\b", re.IGNORECASE))
        for letter, text in ordered
        if _words(text)
    )
