"""Whether two statements about an image contradict each other, such as a conclusion and an answer.

They do if what one says to be seen is none of what the other says (`RELATED` has the words that may
mean the same), if one says that all is normal and the other that something is not, or if a side, a
level, a degree, a number or a negation differs. So "pneumothorax" and "normal" both contradict
"pleural effusion", but "fluid" does not. Two statements without an observation in common, or
another word, say nothing about each other.
"""

from collections.abc import Set as AbstractSet

from reward.report_words import EXCLUSIVE, FINDINGS, NORMAL, RELATED
from reward.text import Reading, differ, opposes, read

_OBSERVED = FINDINGS | NORMAL | RELATED.keys() | {"abnormal"}
_DENIED_IF_NORMAL = frozenset(("abnormal", "acute", "process", "disease"))
_POSITIONS_AND_DEGREES = EXCLUSIVE[:4]


def contradicts(first: str, second: str) -> bool | None:
    """Return whether two statements contradict each other, None if that cannot be told."""
    a, b = read(first), read(second)
    sees_other = _sees_other(a, b)
    if sees_other:
        return True
    if a.words & b.words:
        # "No opacity in the lung" denies the lung's opacity, not "the lung is clear".
        return opposes(a, b, deniable=None if sees_other is None else FINDINGS)
    if differ(a.numbers, b.numbers):
        return True
    if any(differ(a.named & group, b.named & group) for group in _POSITIONS_AND_DEGREES):
        return True
    return sees_other


def _sees_other(a: Reading, b: Reading) -> bool | None:
    """Return whether two texts see different things, None if one of them says nothing of it."""
    stated_a, denied_a = _observations(a)
    stated_b, denied_b = _observations(b)
    if not (stated_a or denied_a) or not (stated_b or denied_b):
        return None
    if stated_a and stated_b:
        return not _are_related(stated_a, stated_b)
    if stated_a | stated_b == {"normal"}:  # the other one only denies something
        return False
    return not _are_related(denied_a, denied_b)


def _observations(reading: Reading) -> tuple[AbstractSet[str], AbstractSet[str]]:
    """Return what a text says to be seen, with "normal" for all of `NORMAL`, and what it denies."""
    words = reading.words.keys() & (_OBSERVED | _DENIED_IF_NORMAL)
    stated = {word for word in words & _OBSERVED if False in reading.polarity[word]}
    denied = words - stated
    if stated & NORMAL or (not stated and denied & _DENIED_IF_NORMAL):
        stated = (stated - NORMAL) | {"normal"}
    if denied & NORMAL and not denied & FINDINGS:  # but "no clear effusion"
        stated = stated | {"abnormal"}
    return stated, denied & _OBSERVED - NORMAL


def _are_related(first: AbstractSet[str], second: AbstractSet[str]) -> bool:
    """Return whether one of the words may mean the same as one of the others."""
    for some, others in ((first, second), (second, first)):
        if "abnormal" in some and others - {"normal"}:
            return True
    return any(not RELATED.get(word, {word}).isdisjoint(second) for word in first)
