"""A deterministic score of an open answer against the reference text, in [0, 1].

    score = F1 of the content words (as multisets, lightly stemmed, stop words left out),
            squared if words were replaced rather than only added or left out,
            times 0.4 if the sense differs,
            times 1/2 for each thing of importance that the answer leaves out,
            0 if the answer contradicts itself.

The sense differs if the findings said to be there are not the same; if a word that both texts use
is negated in one only; if both name sides (left, right, bilateral) or levels that are not the same,
overall or for the same finding; if both name a number, a degree, a size or another word of an
exclusive group (`EXCLUSIVE`) that is not the same; or if one leaves open ("possible") what the
other states. So the same words in the same sense score 1 in whatever order, and a changed
negation, side or finding scores at most 0.4. What is read are words and phrases of chest X-ray
reports, not grammar: a denial phrased in another way can be missed, which is what a judge is for.

Of importance are each side, level, degree and state of `NAMED_BY`, a number, and any observation.
One is left out if the reference names it, and the answer names neither it nor another of its kind:
for "is clear" another state or a finding, for an observation any other. So "an opacity in the lung"
leaves out "left", and "the left lung" leaves out "is clear".

Why a half: let p be the probability of the likelier of two words, f the score with the right one,
and c the score with the wrong one. Naming the likelier word gets p f + (1 - p) c on average.
Leaving it out gets at most f / 2, as a shared word raises F1. So for p >= 1/2, naming never gets
less, whatever c is.

Squaring and the three factors are this project's choice; the F1 of words is that of SQuAD
(Rajpurkar et al., EMNLP 2016).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property, lru_cache

from reward.report_words import (
    ALIKE,
    BOTH_SIDES,
    CLAUSE_BREAKS,
    COMPARES,
    EXCLUSIVE,
    FINDINGS,
    LEVELS,
    NAMED_BY,
    NEGATES_AFTER,
    NEGATES_CLAUSE,
    NEW_SUBJECT,
    OBSERVATIONS,
    ONLY_LEFT,
    SAME_WORD,
    SIDES,
    STOP_WORDS,
    UNCERTAIN,
)

FACTOR_OF_OTHER_SENSE = 0.4
FACTOR_OF_OMISSION = 0.5

_CONTRACTION = re.compile(
    r"\b(?:is|are|was|were|does|do|did|has|have|ca|could|would|should|wo)n['’]?t\b"
)
_NOT = r"(?:not|cannot|can\s?not|never)"
_SUBSTITUTES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # denials that leave something open, or turn into their opposite
        (rf"\b{_NOT}\s++(?:be\s++)?(?:\w++ly\s++)?(?:excluded?|ruled\s++out)\b", "possible"),
        (rf"\b{_NOT}\s++(?:absent|without)\b", ""),
        (r"\b(?:there\s++is\s++)?no\s++doubt\b(?:\s++(?:of|about|that))?", ""),
        (r"\bnot\s++normal\b", "abnormal"),
        (r"\bnot\s++abnormal\b", "normal"),
        (
            r"\bno\s++(?:\w++\s++)?(?:abnormalit(?:y|ies)\b|findings?\b(?=\s*+(?:[.,;]|\Z)))"
            r"|\bnothing\s++abnormal\b",
            "normal",
        ),
        (r"\bno\s++abnormal\s++(?=\w)", "no "),
        (r"\b(?:no\s++cardiomegaly|no\s++enlarged\s++heart)\b", "normal heart size"),
        (r"\b(?:not\s++enlarged|non-?\s?enlarged)\b", "normal size"),
        (r"\bcardiomegaly\b", "enlarged heart"),
        (r"\b(?:larger|bigger|wider|greater)\s++than\s++normal\b", "enlarged"),
        (r"\b(?:free\s++of|clear\s++of|rules?\s++out|ruled\s++out)\b", "without"),
        # a denial after what it denies
        (r"([a-z ]{1,60})[:?]\s*+(?:no|none|absent|negative)\b(?=\s*+(?:[.,;]|\Z))", r"no \1"),
        # sides
        (r"\bbi(basilar|basal|apical|hilar)\b", r"bilateral \1"),
        (r"\b(left|right)[-\s]++sided\b", r"\1"),
        (
            r"\b(left|right)\s++(\w++(?:\s\w++){0,2}?)\s++and\s++(?:the\s++)?(?!\1)"
            r"(?:left|right)\s++(?=\2\b)",
            "bilateral ",
        ),
        (
            r"\b(left|right)\s++(?:and|as\s++well\s++as)\s++(?:the\s++)?(?!\1)(?:left|right)\b",
            "bilateral",
        ),
    )
)
_CLEAR_AND_NORMAL = re.compile(
    r"\bclear\s+and\s+(?:normal|unremarkable)\b|\b(?:normal|unremarkable)\s+and\s+clear\b"
)
_EITHER_SIDE = re.compile(r"\b(?:left\s++or\s++right|right\s++or\s++left)\b")
_SENTENCE_END = re.compile(r"[;:!?\n]|\.(?![0-9])")
_TOKEN = re.compile(r"[^\W_]+(?:\.[0-9]+)?|,")
_LIST_AFTER_COMMA = re.compile(r",[^,]*\b(?:or|nor|and)\b(?!\s+(?:there|the|a|an|is|are|no)\b)")
_LINKS = ("and", "or", "with")

Segment = list[tuple[str, bool]]
"""Words of one noun phrase, each with whether it is denied."""


@dataclass(frozen=True)
class Reading:
    """The words of a text and what it says about them.

    `polarity` holds for each word whether it is denied (True), stated (False) or both; `stated`
    the same for each word and the sides it is bound to; `positions` the sides and levels of a word;
    `implied` the sets of sides that its other words can stand for; `repeats_clear` whether each
    "normal" only repeats a "clear", as in "clear and normal".
    """

    words: Counter[str]
    polarity: dict[str, set[bool]]
    stated: set[tuple[str, frozenset[str], bool]]
    positions: dict[str, set[str]]
    hedges_side: bool
    is_uncertain: bool
    compared_side: str
    implied: frozenset[frozenset[str]]
    repeats_clear: bool

    @cached_property
    def named(self) -> frozenset[str]:
        """The words, with both sides for "bilateral"."""
        return _both_sides(self.words)

    @cached_property
    def required(self) -> frozenset[frozenset[str]]:
        """For each thing of importance in the text, the words of which an answer must name one.

        A degree that is denied is none: "no fracture" says more than "no acute fracture".
        """
        return frozenset(
            NAMED_BY[word] | (ALIKE.get(word, frozenset()) - self.named)
            for word in self.named & NAMED_BY.keys()
            if (word in SIDES or word in LEVELS or False in self.polarity[word])
            and not (word == "normal" and self.repeats_clear)
        )

    @cached_property
    def findings(self) -> frozenset[str]:
        """Findings that the text names, including denied ones."""
        return FINDINGS & self.words.keys()

    @cached_property
    def affirmed(self) -> frozenset[str]:
        """Findings that the text says are there."""
        return frozenset(word for word in self.findings if False in self.polarity[word])

    @cached_property
    def numbers(self) -> frozenset[str]:
        """Numbers that the text names."""
        return frozenset(word for word in self.words if word[0].isdigit())


def text_score(answer: str, reference: str) -> float:
    """Score an answer against a reference by the module's formula."""
    answered, expected = read(answer), read(reference)
    if not expected.words or not answered.words:
        return float(_tokens(answer) == _tokens(reference) != [])
    if _contradicts_itself(answered, expected):
        return 0.0
    shared = (answered.words & expected.words).total()
    lengths = answered.words.total(), expected.words.total()
    score = 2 * shared / sum(lengths)
    if shared < min(lengths):
        score *= score
    if _sense_differs(answered, expected):
        score *= FACTOR_OF_OTHER_SENSE
    return score * FACTOR_OF_OMISSION ** _count_omissions(answered, expected)


def _contradicts_itself(answered: Reading, expected: Reading) -> bool:
    if answered.hedges_side and not expected.hedges_side:
        return True
    return any(
        (word, sides, not negated) in answered.stated and len(expected.polarity.get(word, ())) < 2
        for word, sides, negated in answered.stated
        if word in FINDINGS
    )


def _count_omissions(answered: Reading, expected: Reading) -> int:
    """Return how many things of importance the reference names and the answer leaves out."""
    named = answered.named
    sides = expected.named & SIDES
    if sides in answered.implied:
        named |= sides
    omissions = sum(words.isdisjoint(named) for words in expected.required)
    omissions += bool(expected.numbers) and not answered.numbers
    others = (expected.words.keys() & OBSERVATIONS) - NAMED_BY.keys()
    return omissions + (bool(others) and OBSERVATIONS.isdisjoint(named))


def _sense_differs(a: Reading, b: Reading) -> bool:
    return a.affirmed != b.affirmed or a.is_uncertain != b.is_uncertain or opposes(a, b)


def opposes(a: Reading, b: Reading, deniable: AbstractSet[str] | None = None) -> bool:
    """Return whether a negation, side, level, number or degree that both texts name differs.

    Args:
        a: a text.
        b: another text.
        deniable: the words whose negation counts, all of them if None.
    """
    for word in a.words.keys() & b.words.keys():
        if deniable is not None and word not in deniable:
            continue
        is_plain = len(a.polarity[word]) == len(b.polarity[word]) == 1
        if a.polarity[word] != b.polarity[word] and (is_plain or word in FINDINGS):
            return True
    return (
        differ(a.numbers, b.numbers)
        or (a.compared_side != b.compared_side and "" not in (a.compared_side, b.compared_side))
        or any(differ(a.named & group, b.named & group) for group in EXCLUSIVE)
        or any(
            differ(a.positions[finding] & group, b.positions[finding] & group)
            for finding in a.findings & b.findings
            for group in (SIDES, LEVELS)
        )
    )


def differ(a: AbstractSet[str], b: AbstractSet[str]) -> bool:
    """Return whether both have words, and not the same ones."""
    return bool(a) and bool(b) and a != b


# Reference answers come again with every response; readings of long answers are large, so few stay.
@lru_cache(maxsize=256)
def read(text: str) -> Reading:
    """Read a text."""
    lowered = canonical(text)
    words: Counter[str] = Counter()
    polarity: defaultdict[str, set[bool]] = defaultdict(set)
    positions: defaultdict[str, set[str]] = defaultdict(set)
    stated = set()
    for sentence in _SENTENCE_END.split(lowered):
        for segment, named in _with_positions(_segments(sentence)):
            for word, negated in segment:
                words[word] += 1
                polarity[word].add(negated)
                positions[word] |= named
                stated.add((word, named & SIDES, negated))
    tokens = _tokens(lowered)
    return Reading(
        words,
        polarity,
        stated,
        positions,
        hedges_side=bool(_EITHER_SIDE.search(lowered)),
        is_uncertain=not UNCERTAIN.isdisjoint(tokens),
        compared_side=_compared_side(tokens),
        implied=_implied_sides(lowered, tokens),
        repeats_clear="clear" in words
        and words["normal"] == len(_CLEAR_AND_NORMAL.findall(lowered)),
    )


def canonical(text: str) -> str:
    """Return a text in lower case, with one form for expressions of the same meaning.

    `"The heart isn't enlarged"` gives `"the heart is normal size"`.
    """
    lowered = _CONTRACTION.sub("is not", text.lower())
    for pattern, replacement in _SUBSTITUTES:
        lowered = pattern.sub(replacement, lowered)
    return lowered


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text.lower())


def _both_sides(words: Iterable[str]) -> frozenset[str]:
    """Return the words, with "bilateral" replaced by both sides."""
    words = frozenset(words)
    return (words - {"bilateral"}) | SIDES if "bilateral" in words else words


def _implied_sides(lowered: str, tokens: list[str]) -> frozenset[frozenset[str]]:
    """Return the sets of sides that words can stand for: "lungs" for both, "lingula" for left."""
    implied = set()
    if not BOTH_SIDES.isdisjoint(tokens):
        implied.add(SIDES)
    if not ONLY_LEFT.isdisjoint(tokens):
        implied.add(frozenset(("left",)))
    if "middle lobe" in lowered:
        implied.add(frozenset(("right",)))
    return frozenset(implied)


def _with_positions(segments: list[Segment]) -> list[tuple[Segment, frozenset[str]]]:
    """Bind each segment to its sides and levels.

    One without any takes those of a segment before it that names no finding: "on the left, ...".
    """
    bound = []
    inherited: frozenset[str] = frozenset()
    for segment in segments:
        words = frozenset(word for word, _ in segment)
        named = _both_sides(words) & (SIDES | LEVELS)
        if named:
            inherited = frozenset() if words & FINDINGS else named
        bound.append((segment, named or inherited))
    return bound


def _compared_side(tokens: list[str]) -> str:
    """Return the first side of a comparison, as in "larger on the left than on the right"."""
    if COMPARES.isdisjoint(tokens) or not set(tokens) >= SIDES:
        return ""
    return next(token for token in tokens if token in SIDES)


def _segments(sentence: str) -> list[Segment]:
    """Split a sentence into clauses, these into segments.

    Clauses end at a comma, at words like "but" and "with", and at an "and" that begins a new
    statement; segments, which bind a finding to its side, also at another "and" and at "or". In
    "no A, B or C" the negation reaches over the commas.
    """
    tokens = [*_TOKEN.findall(sentence), ","]
    reaches_over = bool(_LIST_AFTER_COMMA.search(sentence))
    segments: list[Segment] = []
    clause: list[str] = []
    carried = False
    for index, token in enumerate(tokens):
        if token != "," and token not in CLAUSE_BREAKS and not _starts_statement(tokens, index):
            clause.append(token)
            continue
        added, is_negated = _read_clause(clause, carried)
        segments += added
        carried = token == "," and reaches_over and is_negated
        clause = []
    return segments


def _starts_statement(tokens: list[str], index: int) -> bool:
    """Return whether a new statement starts after this "and" or "or", or at this "with"."""
    if tokens[index] not in ("and", "or"):
        return tokens[index] == "with"
    for token in tokens[index + 1 : index + 8]:
        if token in _LINKS or token == "," or token in CLAUSE_BREAKS:
            return False
        if token in NEW_SUBJECT:
            return True
    return False


def _read_clause(tokens: list[str], carried: bool) -> tuple[list[Segment], bool]:
    """Return a clause's segments, and whether a negation reaches to its end.

    `carried` is whether a negation of the clause before reaches into this one.
    """
    negated_throughout = sum(token in NEGATES_CLAUSE for token in tokens) % 2 == 1
    negated = carried or negated_throughout
    segments: list[Segment] = [[]]
    for token in tokens:
        if token in NEGATES_AFTER:
            negated = True
        elif token in _LINKS:
            segments.append([])
        elif token not in NEGATES_CLAUSE and token not in STOP_WORDS:
            segments[-1].append((stem(token), negated))
    return segments, negated and not negated_throughout


# Responses are made of few words.
@lru_cache(maxsize=4096)
def stem(word: str) -> str:
    """Return a word without its plural ending, in one spelling for each term.

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
