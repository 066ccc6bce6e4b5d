"""A deterministic score of an open answer against the reference text, in [0, 1].

    score = F1 of the content words (as multisets, lightly stemmed, stop words left out),
            squared where words were replaced rather than only added or left out,
            times 0.4 where the sense differs,
            0 where the answer has it both ways.

The sense differs if the findings said to be there are not the same; if a word that both texts use
is negated in one only; if both name sides (left, right, bilateral) or levels that are not the same,
overall or for the same finding; if both name a number, a degree, a size or another word of an
exclusive group (`lexicon.EXCLUSIVE`) that is not the same; or if one leaves open ("possible") what
the other states. So the same words in the same sense score 1 in whatever order, and a changed
negation, side or finding scores at most 0.4. What is read are words and phrases of chest X-ray
reports, not grammar: a denial phrased in another way can be missed, which is what a judge is for.

Squaring and the two factors are this project's choice; the F1 of words is that of SQuAD
(Rajpurkar et al., EMNLP 2016).
"""

from reward.lexicon import EXCLUSIVE, LEVELS
from reward.reading import Reading, plain, read

FACTOR_OF_OTHER_SENSE = 0.4


def text_score(answer: str, reference: str) -> float:
    """Score an answer against a reference by the module's formula."""
    given, wanted = read(answer), read(reference)
    if not wanted.words or not given.words:
        return float(plain(answer) == plain(reference) != "")
    if _has_it_both_ways(given, wanted):
        return 0.0
    shared = sum((given.words & wanted.words).values())
    score = 2 * shared / (given.words.total() + wanted.words.total())
    if given.words - wanted.words and wanted.words - given.words:
        score *= score
    return score * FACTOR_OF_OTHER_SENSE if _sense_differs(given, wanted) else score


def contradicts(first: str, second: str) -> bool:
    """Return whether two texts speak of the same thing in a different sense."""
    one, other = read(first), read(second)
    if not one.words & other.words:
        return False
    return _opposes(one, other) or bool(
        one.findings and other.findings and not one.findings & other.findings
    )


def _has_it_both_ways(given: Reading, wanted: Reading) -> bool:
    if given.hedges_side and not wanted.hedges_side:
        return True
    return any(
        (word, sides, not negated) in given.stated and len(wanted.polarity.get(word, ())) < 2
        for word, sides, negated in given.stated
        if word in given.findings
    )


def _sense_differs(one: Reading, other: Reading) -> bool:
    return (
        one.affirmed != other.affirmed
        or one.is_uncertain != other.is_uncertain
        or _opposes(one, other)
    )


def _opposes(one: Reading, other: Reading) -> bool:
    """Whether a negation, a side, a level, a number or a degree that both texts have differs."""
    for word in one.polarity.keys() & other.polarity.keys():
        first, second = one.polarity[word], other.polarity[word]
        is_finding = word in one.findings
        if first != second and (is_finding or len(first) == len(second) == 1):
            return True
    if _differ(one.numbers, other.numbers) or _differ(
        frozenset({one.compared_side} - {""}), frozenset({other.compared_side} - {""})
    ):
        return True
    if any(_differ(one.named(group), other.named(group)) for group in EXCLUSIVE):
        return True
    return any(
        _differ(one.places[finding] & kind, other.places[finding] & kind)
        for finding in one.findings & other.findings
        for kind in (frozenset({"left", "right"}), LEVELS)
    )


def _differ(one: frozenset[str], other: frozenset[str]) -> bool:
    return bool(one) and bool(other) and one != other
