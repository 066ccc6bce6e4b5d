"""What a reasoning says about the regions that it cites.

A box alone explains nothing. A citation counts by a third for its box, a third for naming the
region, and a third for a sentence that states what is seen (`completeness`): nothing is missing of
"The left lung [63, 20, 98, 80] is clear.", two thirds of "a [63, 20, 98, 80]". What is seen is
stated by a word of chest X-ray reports (`OBSERVATIONS` of `reward.report_words`). Whether it is
true cannot be told here: the answer, which rests on it, is checked.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from reward.boxes_in_text import cited_groups, name_similarity
from reward.ground_truth import GroundTruth, place
from reward.grounding import distinct, value
from reward.report_words import OBSERVATIONS
from reward.response import Region, Response
from reward.text import stem

_SENTENCE_END = re.compile(r"[.;!?\n](?=\s|\Z)")
_WORD = re.compile(r"[a-z]+")
_LONGEST_SENTENCE = 600


class Citation(NamedTuple):
    """A region that a reasoning cites, and whether its sentence states what is seen."""

    region: Region
    states: bool


def citations(response: Response, truth: GroundTruth) -> list[Citation]:
    """Return the regions that a reasoning cites, in order, with boxes in [0, 1]."""
    regions = place(response.think_regions, truth)
    return list(map(Citation, regions, _statements(response.think or "")))


def distinct_citations(cited: Sequence[Citation]) -> list[Citation]:
    """Return citations without those that repeat a box; of these, one that states something."""
    stating = {citation.region for citation in cited if citation.states}
    regions = [citation.region for citation in cited]
    best_first = sorted(regions, key=lambda region: (region not in stating, not region.ref))
    return [Citation(region, region in stating) for region in distinct(best_first)]


def completeness(citation: Citation, name: str) -> float:
    """Return how much of a citation of region `name` is there, in thirds: box, name, statement."""
    ref = citation.region.ref
    is_named = bool(ref) and name_similarity(ref, name) > 0
    return (1 + is_named + citation.states) / 3


def citation_value(citation: Citation, reference: Region) -> float:
    """Return the value of a citation for a reference region, in [0, 1]."""
    return value(citation.region, reference) * completeness(citation, reference.ref)


def _statements(think: str) -> list[bool]:
    """Return for each box of a reasoning whether its sentence states what is seen."""
    starts = [0, *map(re.Match.end, _SENTENCE_END.finditer(think)), len(think)]
    by_sentence: dict[int, bool] = {}
    statements = []
    for group in cited_groups(think):
        number = bisect_right(starts, group.start, hi=len(starts) - 1)
        if number not in by_sentence:
            sentence = think[starts[number - 1] : starts[number]][:_LONGEST_SENTENCE]
            words = map(stem, _WORD.findall(sentence.lower()))
            by_sentence[number] = not OBSERVATIONS.isdisjoint(words)
        statements.append(by_sentence[number])
    return statements
