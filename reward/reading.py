"""What a report's sentence says: its words, what it denies, and on which side."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from reward.lexicon import (
    CLAUSE_BREAKS,
    COMPARES,
    FINDINGS,
    LEVELS,
    NEGATES_AFTER,
    NEGATES_CLAUSE,
    NEW_SUBJECT,
    SAME_WORD,
    SIDES,
    STOP_WORDS,
    UNCERTAIN,
)
from reward.phrases import canonical

_EITHER_SIDE = re.compile(r"\b(?:left\s++or\s++right|right\s++or\s++left)\b")
_SENTENCE_END = re.compile(r"[;:!?\n]|\.(?![0-9])")
_TOKEN = re.compile(r"[^\W_]+(?:\.[0-9]+)?|,")
_LIST_AFTER_COMMA = re.compile(r",[^,]*\b(?:or|nor|and)\b(?!\s+(?:there|the|a|an|is|are|no)\b)")
_LINKS = ("and", "or", "with")

Segment = list[tuple[str, bool]]
"""Words of one noun phrase, each with whether it is denied."""


@dataclass(frozen=True)
class Reading:
    """The words of a text and what it says of them.

    `polarity` holds for each word whether it is denied (True), stated (False) or both; `stated`
    the same for each word and the sides it is bound to; `places` the sides and levels of a word.
    """

    words: Counter[str]
    polarity: dict[str, frozenset[bool]]
    stated: frozenset[tuple[str, frozenset[str], bool]]
    places: dict[str, frozenset[str]]
    hedges_side: bool
    is_uncertain: bool
    compared_side: str

    @property
    def findings(self) -> frozenset[str]:
        """Findings named, denied ones too."""
        return FINDINGS & self.words.keys()

    @property
    def affirmed(self) -> frozenset[str]:
        """Findings that the text says are there."""
        return frozenset(word for word in self.findings if False in self.polarity[word])

    @property
    def numbers(self) -> frozenset[str]:
        """Numbers named."""
        return frozenset(word for word in self.words if word[0].isdigit())

    def named(self, words: frozenset[str]) -> frozenset[str]:
        """Those of some words that are named anywhere in the text, bilateral as both sides."""
        return expand(self.words.keys()) & words


# Reference answers come again with every response; readings of long answers are large, so few stay.
@lru_cache(maxsize=256)
def read(text: str) -> Reading:
    """Read a text."""
    lowered = canonical(text)
    words: Counter[str] = Counter()
    polarity: defaultdict[str, set[bool]] = defaultdict(set)
    places: defaultdict[str, set[str]] = defaultdict(set)
    stated = set()
    for sentence in _SENTENCE_END.split(lowered):
        for segment, named in _placed(_clauses(sentence)):
            words.update([word for word, _ in segment])
            sides = named & {"left", "right"}
            for word, negated in segment:
                polarity[word].add(negated)
                places[word] |= named
                stated.add((word, sides, negated))
    tokens = _TOKEN.findall(lowered)
    return Reading(
        words,
        {word: frozenset(seen) for word, seen in polarity.items()},
        frozenset(stated),
        {word: frozenset(seen) for word, seen in places.items()},
        hedges_side=bool(_EITHER_SIDE.search(lowered)),
        is_uncertain=not UNCERTAIN.isdisjoint(tokens),
        compared_side=_compared_side(tokens),
    )


def plain(text: str) -> str:
    """Return a text's words as they are, in small letters."""
    return " ".join(_TOKEN.findall(text.lower()))


def expand(words: Iterable[str]) -> frozenset[str]:
    """Return some words, bilateral replaced by both sides."""
    found: set[str] = set()
    for word in words:
        found |= SIDES.get(word, {word})
    return frozenset(found)


def _placed(clauses: list[list[Segment]]) -> list[tuple[Segment, frozenset[str]]]:
    """Bind each segment to its sides and levels.

    One without any takes those of a segment before it that names no finding: "on the left, ...".
    """
    placed = []
    inherited: frozenset[str] = frozenset()
    for segment in [segment for clause in clauses for segment in clause]:
        words = {word for word, _ in segment}
        named = expand(words) & PLACES
        if named:
            inherited = frozenset() if words & FINDINGS else named
        placed.append((segment, named or inherited))
    return placed


PLACES = frozenset({"left", "right"}) | LEVELS


def _compared_side(tokens: list[str]) -> str:
    """The side that is compared with the other one, in "larger on the left than on the right"."""
    if COMPARES.isdisjoint(tokens) or not {"left", "right"} <= set(tokens):
        return ""
    return next(token for token in tokens if token in ("left", "right"))


def _clauses(sentence: str) -> list[list[Segment]]:
    """Split a sentence into clauses, these into segments.

    Clauses end at a comma, at words like "but" and "with", and at an "and" that begins a new
    statement; segments, which bind a finding to its side, also at another "and" and at "or". In
    "no A, B or C" the negation reaches over the commas.
    """
    tokens = [*_TOKEN.findall(sentence), ","]
    reaches_over = bool(_LIST_AFTER_COMMA.search(sentence))
    clauses: list[list[Segment]] = []
    raw: list[str] = []
    carried = False
    for index, token in enumerate(tokens):
        if token != "," and token not in CLAUSE_BREAKS and not _begins_anew(tokens, index):
            raw.append(token)
            continue
        clause, is_negated = _clause(raw, carried)
        clauses.append(clause)
        carried = token == "," and reaches_over and is_negated
        raw = []
    return clauses


def _begins_anew(tokens: list[str], index: int) -> bool:
    """Whether a new statement begins behind this "and" or "or"."""
    if tokens[index] not in ("and", "or"):
        return tokens[index] == "with"
    for token in tokens[index + 1 : index + 8]:
        if token in _LINKS or token == "," or token in CLAUSE_BREAKS:
            return False
        if token in NEW_SUBJECT:
            return True
    return False


def _clause(raw: list[str], carried: bool) -> tuple[list[Segment], bool]:
    """Return a clause's segments, and whether its end stands under a negation."""
    negated_throughout = sum(token in NEGATES_CLAUSE for token in raw) % 2 == 1
    negated = carried or negated_throughout
    segments: list[Segment] = [[]]
    for token in raw:
        if token in NEGATES_AFTER:
            negated = True
        elif token in _LINKS:
            segments.append([])
        elif token not in NEGATES_CLAUSE and token not in STOP_WORDS:
            segments[-1].append((stem(token), negated))
    return segments, negated and not negated_throughout


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
    elif len(word) > 5 and word.endswith("aces"):
        single = word[:-3] + "x"
    elif len(word) > 4 and word.endswith(("sses", "xes", "ches", "shes")):
        single = word[:-2]
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "is", "us")):
        single = word[:-1]
    return SAME_WORD.get(single, single)
