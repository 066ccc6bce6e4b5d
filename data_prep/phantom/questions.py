"""Questions about one picture, with the answer and the regions that it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from data_prep.phantom.findings import (
    HEART,
    QUIET_REGIONS,
    THING,
    Finding,
    asked_regions,
    possible_findings,
    seen_in,
    sentence_about,
)

Findings = tuple[Finding, ...]
_Option = TypeVar("_Option")
LETTERS = "ABCD"

# The published shares of the four types, corrected for repeated questions that are dropped.
TYPE_SHARES = {
    "open_ended_questions": 0.31,
    "closed_ended_questions": 0.195,
    "single_choice_questions": 0.26,
    "multi_choice_questions": 0.245,
}
# How many regions a multi-choice question is about; the other types mostly have one,
# so these make up the published shares of boxes per row.
MULTI_REGIONS = {1: 0.08, 2: 0.55, 3: 0.35, 4: 0.02}


@dataclass(frozen=True)
class Item:
    """One question.

    `regions` are the answer's, and `letters` the choices that name them, where there are choices;
    the regions in `also` are only compared with.
    """

    question_type: str
    question: str
    answer: str
    regions: tuple[str, ...]
    also: tuple[str, ...]
    conclusion: str
    letters: tuple[str, ...] = ()


def ask(findings: Findings, rng: np.random.Generator, quiet: Sequence[str] = QUIET_REGIONS) -> Item:
    """One question of a type drawn by its share; `quiet` are the regions without findings."""
    names = list(TYPE_SHARES)
    shares = np.array(list(TYPE_SHARES.values()))
    kind = names[rng.choice(len(names), p=shares / shares.sum())]
    if kind == "open_ended_questions":
        return ask_open(findings, rng, quiet)
    return _ASKERS[kind](findings, rng)


def ask_closed(findings: Findings, rng: np.random.Generator) -> Item:
    """A yes/no question; Yes and No are equally likely where there is any finding."""
    wanted_yes = bool(findings) and rng.random() < 0.55
    finding = _pick(findings, rng) if wanted_yes else _absent_finding(findings, rng)
    region, verb = finding.region, rng.integers(2)
    forms = {
        "opacity": (f"Is there an opacity in the {region}?", f"Does the {region} show an opacity?"),
        "effusion": (
            f"Is there a pleural effusion at the {region}?",
            f"Does the {region} show a pleural effusion?",
        ),
        "raised": (f"Is the {region} raised?", f"Is there elevation of the {region}?"),
        "enlarged": ("Is the heart enlarged?", f"Is the {region} enlarged?"),
        "device": (f"Is there a device in the {region}?", f"Does the {region} show a device?"),
    }
    answer = "Yes" if wanted_yes else "No"
    return Item(
        "closed_ended_questions",
        forms[finding.kind][verb],
        answer,
        (region,),
        _comparison(region, rng),
        f"answer is {answer}",
    )


def ask_single(findings: Findings, rng: np.random.Generator) -> Item:
    """One right choice of four: an abnormal region, what a region shows, or a finding."""
    form = rng.choice(3, p=[0.4, 0.3, 0.3])
    if form == 1 or not findings:
        region = _region_to_ask(findings, rng)
        right = _thing_in(region, findings)
        wrong = [thing for thing in ("no finding", *THING.values()) if thing != right]
        question = f"What is seen in the {region}?"
    else:
        finding = _pick(findings, rng)
        region = finding.region
        if form == 0:
            question, right = "Which region is abnormal?", region
            wrong = _normal_regions(findings)
        else:
            question, right = "Which finding is present?", finding.name
            wrong = [other.name for other in _absent_findings(findings)]
    choices, letters = _choices([right], _sample(wrong, 3, rng), rng)
    return Item(
        "single_choice_questions",
        f"{question} {choices}",
        letters[0],
        (region,),
        _comparison(region, rng, share=0.2),
        f"answer is {letters[0]}",
        (letters[0],),
    )


def ask_multi(findings: Findings, rng: np.random.Generator) -> Item:
    """One to four right choices of four, each with a region of its own."""
    count, normal = _multi_plan(len(findings), rng)
    if normal:
        question, wrong = "Which of these regions are normal?", [f.region for f in findings]
        right = regions = _sample(_normal_regions(findings), count, rng)
    else:
        present = _sample(list(findings), count, rng)
        regions = [finding.region for finding in present]
        if rng.random() < 0.5:
            question, right = "Which of these regions are abnormal?", regions
            wrong = _normal_regions(findings)
        else:
            question = "Which of these findings are present?"
            right = [finding.name for finding in present]
            wrong = [other.name for other in _absent_findings(findings)]
    choices, letters = _choices(right, _sample(wrong, 4 - count, rng), rng)
    ordered = [region for _, region in sorted(zip(letters, regions, strict=True))]
    return Item(
        "multi_choice_questions",
        f"{question} {choices}",
        str(sorted(letters)),
        tuple(ordered),
        (),
        f"answer is {', '.join(sorted(letters))}",
        tuple(sorted(letters)),
    )


def ask_open(
    findings: Findings, rng: np.random.Generator, quiet: Sequence[str] = QUIET_REGIONS
) -> Item:
    """A question that is answered by a short sentence."""
    opacities = [finding for finding in findings if finding.kind == "opacity"]
    form = rng.random()
    if form < 0.2 and len(opacities) == 1:
        found: Findings = (opacities[0],)
        question, answer = "Where is the opacity?", f"In the {opacities[0].region}."
    elif form < 0.5 and 1 <= len(findings) <= 2:
        found = findings
        question = "What is abnormal in this image?"
        names = " and ".join(finding.name for finding in findings)
        answer = f"{names[0].upper()}{names[1:]}."
    else:
        region = _region_to_ask(findings, rng, 0.2, quiet)
        verb = "How large is the heart?" if region == HEART else f"Describe the {region}."
        state = seen_in(region, findings)
        return Item(
            "open_ended_questions",
            verb if rng.random() < 0.5 else f"What is seen in the {region}?",
            sentence_about(region, findings),
            (region,),
            _comparison(region, rng),
            "region is normal" if state in _NORMAL else "region is abnormal",
        )
    regions = tuple(finding.region for finding in found)
    also = _comparison(regions[0], rng) if len(regions) == 1 else ()
    return Item("open_ended_questions", question, answer, regions, also, "region is abnormal")


# Odds of each kind of finding in one of its places, from `sample_findings`.
_ODDS = {"opacity": 0.165, "effusion": 0.27, "raised": 0.205, "enlarged": 0.72, "device": 0.22}
_NORMAL = ("is clear", "is sharp", "is normal", "are normal")
_ASKERS = {
    "closed_ended_questions": ask_closed,
    "single_choice_questions": ask_single,
    "multi_choice_questions": ask_multi,
}


def _multi_plan(available: int, rng: np.random.Generator) -> tuple[int, bool]:
    """How many choices are right, and whether they are the normal regions.

    With n findings, 1 to n choices can be abnormal, or 4 - n to 4 normal.
    """
    count = int(rng.choice(list(MULTI_REGIONS), p=list(MULTI_REGIONS.values())))
    normal = rng.random() < 0.3
    if available == 0:
        return 4, True
    if normal and 4 - count > available:
        return min(count, available), False
    if not normal and count > available:
        return (count, True) if 4 - count <= available else (available, False)
    return count, normal


def _pick(findings: Sequence[Finding], rng: np.random.Generator) -> Finding:
    return findings[int(rng.integers(len(findings)))]


def _sample(options: Sequence[_Option], count: int, rng: np.random.Generator) -> list[_Option]:
    return [options[index] for index in rng.permutation(len(options))[:count]]


def _choices(
    right: Sequence[str], wrong: Sequence[str], rng: np.random.Generator
) -> tuple[str, list[str]]:
    """The choices in the published form, shuffled, and the letter of each right one."""
    options = [*right, *wrong]
    places = [int(place) for place in rng.permutation(len(options))]
    texts = dict(zip(places, options, strict=True))
    written = ", ".join(f"{LETTERS[place]}: {texts[place]}" for place in range(len(options)))
    return f"<choices>: [{written}]", [LETTERS[place] for place in places[: len(right)]]


def _absent_findings(findings: Findings) -> list[Finding]:
    return [finding for finding in possible_findings() if finding not in findings]


def _absent_finding(findings: Findings, rng: np.random.Generator) -> Finding:
    """A finding to deny, as often of each kind as there are ones to affirm.

    Otherwise the question alone would tell the answer.
    """
    absent = _absent_findings(findings)
    odds = np.array([_ODDS[finding.kind] for finding in absent])
    return absent[rng.choice(len(absent), p=odds / odds.sum())]


def _normal_regions(findings: Findings) -> list[str]:
    """Regions without a finding that could have one, so that the name alone tells nothing."""
    abnormal = {finding.region for finding in findings}
    return [region for region in asked_regions() if region not in abnormal]


def _region_to_ask(
    findings: Findings,
    rng: np.random.Generator,
    share: float = 0.0,
    quiet: Sequence[str] = QUIET_REGIONS,
) -> str:
    """A region to describe: abnormal in about half of the questions, quiet in a share of them."""
    if rng.random() < share:
        return quiet[int(rng.integers(len(quiet)))]
    if findings and rng.random() < 0.55:
        return _pick(findings, rng).region
    return _absent_finding(findings, rng).region


def _thing_in(region: str, findings: Findings) -> str:
    for finding in findings:
        if finding.region == region:
            return THING[finding.kind]
    return "no finding"


def _comparison(region: str, rng: np.random.Generator, share: float = 0.3) -> tuple[str, ...]:
    """In a share of the rows the same region of the other side, to compare with."""
    if region == "right atrium":
        return ()  # the left one is not among the regions
    if region.split()[0] not in ("right", "left") or rng.random() >= share:
        return ()
    side, name = region.split(maxsplit=1)
    return (f"{'left' if side == 'right' else 'right'} {name}",)
