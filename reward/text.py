"""A deterministic score of an open answer against the reference text, in [0, 1].

    score = F1 of the content words (as multisets, lightly stemmed, stop words left out),
            squared where words were replaced rather than only added or left out,
            times 0.4 where the sense differs,
            0 where the answer has it both ways.

The sense differs if a word that both texts use is negated in one only, if both name sides (left,
right, bilateral) or levels (upper, mid, lower) that are not the same, overall or for the same
finding, or if the findings named are not the same. So the same words in the same sense score 1 in
whatever order, and a changed negation, side or finding scores at most 0.4.

Squaring and the two factors are this project's choice; the F1 of words is that of SQuAD
(Rajpurkar et al., EMNLP 2016).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from reward.lexicon import (
    CLAUSE_BREAKS,
    FINDINGS,
    LEVELS,
    NEGATES_AFTER,
    NEGATES_CLAUSE,
    SAME_WORD,
    SIDES,
    STOP_WORDS,
)

FACTOR_OF_OTHER_SENSE = 0.4

_BOTH_OF = re.compile(
    r"\b(left|right)\s++(\w++(?:\s\w++){0,2}?)\s++and\s++(?!\1)(?:left|right)\s++(?=\2\b)"
)
_NO_BEHIND = re.compile(r"([a-z ]{1,60}):\s*+(?:no|none|absent|negative)\b(?=\s*+(?:[.,;]|\Z))")
_BOTH_SIDES = re.compile(r"\b(?:left\s++and\s++right|right\s++and\s++left)\b")
_EITHER_SIDE = re.compile(r"\b(?:left\s++or\s++right|right\s++or\s++left)\b")
_SIDED = re.compile(r"\b(left|right)[-\s]++sided\b")
_FREE_OF = re.compile(r"\b(?:free\s++of|clear\s++of|rules?\s++out|ruled\s++out)\b")
_CONTRACTION = re.compile(r"\b(?:is|are|was|were|does|do|did|has|have|ca)n['’]t\b")
_SENTENCE_END = re.compile(r"[;:!?\n]|\.(?![0-9])")
_TOKEN = re.compile(r"[^\W_]+(?:\.[0-9]+)?|,")
_OR_AFTER_COMMA = re.compile(r",[^,]*\b(?:or|nor)\b")


@dataclass(frozen=True)
class _Reading:
    """The words of a text and what it says of them."""

    words: Counter[str]
    polarity: dict[str, frozenset[bool]]
    places: dict[str, frozenset[str]]
    hedges_side: bool

    @property
    def findings(self) -> frozenset[str]:
        return FINDINGS & self.words.keys()

    def named(self, places: frozenset[str]) -> frozenset[str]:
        """Sides or levels named anywhere in the text."""
        return _expand(self.words.keys()) & places


def text_score(answer: str, reference: str) -> float:
    """Score an answer against a reference by the module's formula."""
    given, wanted = _read(answer), _read(reference)
    if not wanted.words or not given.words:
        return float(_plain(answer) == _plain(reference) != "")
    if _has_it_both_ways(given, wanted):
        return 0.0
    shared = sum((given.words & wanted.words).values())
    score = 2 * shared / (given.words.total() + wanted.words.total())
    if given.words - wanted.words and wanted.words - given.words:
        score *= score
    return score * FACTOR_OF_OTHER_SENSE if _sense_differs(given, wanted) else score


def contradicts(first: str, second: str) -> bool:
    """Return whether two texts speak of the same thing in a different sense."""
    one, other = _read(first), _read(second)
    if not one.words & other.words:
        return False
    return _opposes(one, other) or bool(
        one.findings and other.findings and not one.findings & other.findings
    )


def _has_it_both_ways(given: _Reading, wanted: _Reading) -> bool:
    if given.hedges_side and not wanted.hedges_side:
        return True
    return any(
        len(given.polarity[word]) == 2 and len(wanted.polarity.get(word, ())) < 2
        for word in given.findings
    )


def _sense_differs(one: _Reading, other: _Reading) -> bool:
    return one.findings != other.findings or _opposes(one, other)


def _opposes(one: _Reading, other: _Reading) -> bool:
    """Whether a negation, a side or a level that both texts have differs."""
    for word in one.polarity.keys() & other.polarity.keys():
        if one.polarity[word] != other.polarity[word]:
            return True
    for kind in (frozenset({"left", "right"}), LEVELS):
        if _differ(one.named(kind), other.named(kind)):
            return True
        for finding in one.findings & other.findings:
            if _differ(one.places[finding] & kind, other.places[finding] & kind):
                return True
    return False


def _differ(one: frozenset[str], other: frozenset[str]) -> bool:
    return bool(one) and bool(other) and one != other


@lru_cache(maxsize=4096)
def _read(text: str) -> _Reading:
    lowered = _CONTRACTION.sub("is not", text.lower()).replace("cardiomegaly", "enlarged heart")
    lowered = _NO_BEHIND.sub(r"no \1", _BOTH_OF.sub("bilateral ", lowered))
    hedges_side = bool(_EITHER_SIDE.search(lowered))
    lowered = _FREE_OF.sub("without", _BOTH_SIDES.sub("bilateral", _SIDED.sub(r"\1", lowered)))
    words: Counter[str] = Counter()
    polarity: defaultdict[str, set[bool]] = defaultdict(set)
    places: defaultdict[str, set[str]] = defaultdict(set)
    for sentence in _SENTENCE_END.split(lowered):
        for clause in _clauses(sentence):
            for segment in clause:
                stems = [stem for stem, _ in segment]
                words.update(stems)
                named = _expand(stems)
                for stem, negated in segment:
                    polarity[stem].add(negated)
                    places[stem] |= named
    return _Reading(
        words,
        {word: frozenset(seen) for word, seen in polarity.items()},
        {word: frozenset(seen) for word, seen in places.items()},
        hedges_side,
    )


def _clauses(sentence: str) -> list[list[list[tuple[str, bool]]]]:
    """Split a sentence into clauses, these into segments of (stem, is negated).

    Clauses end at a comma and at words like "but"; segments, which bind a finding to its side,
    also at "and", "or" and "with". In "no A, B or C" the negation reaches over the commas.
    """
    reaches_over = bool(_OR_AFTER_COMMA.search(sentence))
    clauses: list[list[list[tuple[str, bool]]]] = []
    raw: list[str] = []
    carried = False
    for token in [*_TOKEN.findall(sentence), ","]:
        if token != "," and token not in CLAUSE_BREAKS:
            raw.append(token)
            continue
        clause, is_negated = _clause(raw, carried)
        clauses.append(clause)
        carried = token == "," and reaches_over and is_negated
        raw = []
    return clauses


def _clause(raw: list[str], carried: bool) -> tuple[list[list[tuple[str, bool]]], bool]:
    """Return a clause's segments, and whether its end stands under a negation."""
    negated_throughout = any(token in NEGATES_CLAUSE for token in raw)
    negated = carried or negated_throughout
    segments: list[list[tuple[str, bool]]] = [[]]
    for token in raw:
        if token in NEGATES_AFTER:
            negated = True
        elif token in ("and", "or", "with"):
            segments.append([])
        elif token not in NEGATES_CLAUSE and token not in STOP_WORDS:
            segments[-1].append((stem(token), negated))
    return segments, negated and not negated_throughout


def _expand(words: Iterable[str]) -> frozenset[str]:
    """Return the sides and levels among some words, bilateral as both sides."""
    found: set[str] = set()
    for word in words:
        found |= SIDES.get(word, frozenset())
        if word in LEVELS:
            found.add(word)
    return frozenset(found)


@lru_cache(maxsize=4096)
def stem(word: str) -> str:
    """Return a word without plural ending and with one spelling for what is one term.

    `"effusions"` gives `"effusion"`, `"opacities"` `"opacity"`, `"atelectasis"` itself.
    """
    if word in SAME_WORD:
        return SAME_WORD[word]
    single = word
    if len(word) > 4 and word.endswith("ies"):
        single = word[:-3] + "y"
    elif len(word) > 4 and word.endswith(("sses", "xes", "ches", "shes")):
        single = word[:-2]
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "is", "us")):
        single = word[:-1]
    return SAME_WORD.get(single, single)


def _plain(text: str) -> str:
    return " ".join(_TOKEN.findall(text.lower()))
