"""Questions about one picture: the answer, the regions that show it, and the wording."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeVar

import numpy as np

from phantom.draw.chest import (
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
FrameBox = tuple[int, int, int, int]
"""A box in whole units of the frame."""
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
# Odds of each kind of finding in one of its regions, from `sample_findings`.
_ODDS = {"opacity": 0.165, "effusion": 0.27, "raised": 0.205, "enlarged": 0.72, "device": 0.22}
_NORMAL = ("is clear", "is sharp", "is normal", "are normal")
_CLOSERS = ("So the {}.", "Therefore, the {}.")
# Shares of the four forms that `response` writes.
_FORM_SHARES = (0.88, 0.04, 0.04, 0.04)


@dataclass(frozen=True)
class Item:
    """One question."""

    question_type: str  # as published
    question: str  # with choices
    answer: str  # as the response states it
    regions: tuple[str, ...]  # that show the answer
    compared: tuple[str, ...]  # that the reasoning only compares with
    conclusion: str  # last words of the reasoning
    letters: tuple[str, ...] = ()  # of the choice that names each region, if there are choices


def ask(findings: Findings, rng: np.random.Generator, quiet: Sequence[str] = QUIET_REGIONS) -> Item:
    """Ask a question of a type drawn by its share.

    `quiet` are regions that never have a finding and may be asked about.
    """
    names = list(TYPE_SHARES)
    shares = np.array(list(TYPE_SHARES.values()))
    kind = names[rng.choice(len(names), p=shares / shares.sum())]
    if kind == "open_ended_questions":
        return ask_open(findings, rng, quiet)
    askers = {
        "closed_ended_questions": ask_closed,
        "single_choice_questions": ask_single,
        "multi_choice_questions": ask_multi,
    }
    return askers[kind](findings, rng)


def ask_closed(findings: Findings, rng: np.random.Generator) -> Item:
    """Ask a yes/no question; Yes and No are about equally likely if there is any finding."""
    is_present = bool(findings) and rng.random() < 0.55
    finding = _pick(findings, rng) if is_present else _absent_finding(findings, rng)
    region, form = finding.region, rng.integers(2)
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
    answer = "Yes" if is_present else "No"
    return Item(
        "closed_ended_questions",
        forms[finding.kind][form],
        answer,
        (region,),
        _comparison(region, rng),
        f"answer is {answer}",
    )


def ask_single(findings: Findings, rng: np.random.Generator) -> Item:
    """Ask for one right choice of four: an abnormal region, a region's content, or a finding."""
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
            wrong = [finding.name for finding in _absent_findings(findings)]
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
    """Ask for one to four right choices of four, each with its region."""
    count, normal = _multi_plan(len(findings), rng)
    if normal:
        question = "Which of these regions are normal?"
        wrong = [finding.region for finding in findings]
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
            wrong = [finding.name for finding in _absent_findings(findings)]
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
    opacities = [finding for finding in findings if finding.kind == "opacity"]
    form = rng.random()
    if form < 0.2 and len(opacities) == 1:
        named: Findings = (opacities[0],)
        question, answer = "Where is the opacity?", f"In the {opacities[0].region}."
    elif form < 0.5 and 1 <= len(findings) <= 2:
        named = findings
        question = "What is abnormal in this image?"
        names = " and ".join(finding.name for finding in findings)
        answer = f"{names[0].upper()}{names[1:]}."
    else:
        region = _region_to_ask(findings, rng, 0.2, quiet)
        request = "How large is the heart?" if region == HEART else f"Describe the {region}."
        state = seen_in(region, findings)
        return Item(
            "open_ended_questions",
            request if rng.random() < 0.5 else f"What is seen in the {region}?",
            sentence_about(region, findings),
            (region,),
            _comparison(region, rng),
            "region is normal" if state in _NORMAL else "region is abnormal",
        )
    regions = tuple(finding.region for finding in named)
    compared = _comparison(regions[0], rng) if len(regions) == 1 else ()
    return Item("open_ended_questions", question, answer, regions, compared, "region is abnormal")


def _multi_plan(available: int, rng: np.random.Generator) -> tuple[int, bool]:
    """Draw how many choices are right, and whether they are the normal regions.

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
    """Return the choices in the published form, shuffled, and the letter of each right one."""
    options = [*right, *wrong]
    letters = [LETTERS[position] for position in rng.permutation(len(options))]
    listed = sorted(f"{letter}: {text}" for letter, text in zip(letters, options, strict=True))
    return f"<choices>: [{', '.join(listed)}]", letters[: len(right)]


def _absent_findings(findings: Findings) -> list[Finding]:
    return [finding for finding in possible_findings() if finding not in findings]


def _absent_finding(findings: Findings, rng: np.random.Generator) -> Finding:
    """Draw an absent finding; each kind is as frequent as among present findings.

    Otherwise the question alone would give away the answer.
    """
    absent = _absent_findings(findings)
    odds = np.array([_ODDS[finding.kind] for finding in absent])
    return absent[rng.choice(len(absent), p=odds / odds.sum())]


def _normal_regions(findings: Findings) -> list[str]:
    """Return regions that could have a finding and have none, so that a name says nothing."""
    abnormal = {finding.region for finding in findings}
    return [region for region in asked_regions() if region not in abnormal]


def _region_to_ask(
    findings: Findings,
    rng: np.random.Generator,
    share: float = 0.0,
    quiet: Sequence[str] = QUIET_REGIONS,
) -> str:
    """Draw a region to describe: quiet in a share of the questions, abnormal in about half."""
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
    """Return, in a share of the rows, the same region of the opposite side, to compare with."""
    if region == "right atrium":
        return ()  # the left atrium is not among the regions
    if region.split()[0] not in ("right", "left") or rng.random() >= share:
        return ()
    side, name = region.split(maxsplit=1)
    return (f"{'left' if side == 'right' else 'right'} {name}",)


def impression(findings: Findings) -> str:
    """Return all findings of a picture in one sentence."""
    names = ", ".join(finding.name for finding in findings)
    return f"Impression: {names or 'no abnormality'}."


def reasoning(
    item: Item,
    findings: Findings,
    boxes: Mapping[str, FrameBox],
    rng: np.random.Generator,
    further: Sequence[str] = (),
    words: int = 0,
) -> str:
    """Write the reasoning: all findings, what each cited region shows, and a conclusion.

    A sentence that decides a choice ends with the choice's letter. Boxes follow the region's name
    as `[x1, y1, x2, y2]` or `([x1, y1, x2, y2])`. Regions in `further` are added until the text has
    about `words` words.
    """
    bracketed = rng.random() < 0.3
    sentences = [impression(findings)]
    for region, letter in zip_longest((*item.regions, *item.compared), item.letters):
        box = f"({list(boxes[region])})" if bracketed else f"{list(boxes[region])}"
        choice = f" (choice {letter})" if letter else ""
        sentences.append(f"The {region} {box} {seen_in(region, findings)}{choice}.")
    cited = {*item.regions, *item.compared}
    length = sum(len(sentence.split()) for sentence in sentences)
    for region in further:
        if region not in cited and length < words:
            sentences.append(f"The {region} {list(boxes[region])} {seen_in(region, findings)}.")
            length += len(sentences[-1].split())
    sentences.append(_CLOSERS[rng.integers(len(_CLOSERS))].format(item.conclusion))
    return " ".join(sentences)


def response(item: Item, boxes: Mapping[str, FrameBox], rng: np.random.Generator) -> str:
    """Write the answer and its regions, in one of the forms that the dataset has.

    Most have repeated `<ref>…</ref><box>…</box>` pairs inside `<response>`; a few lack the wrapper,
    and a few have one `<ref>` and one `<box>` that list everything.
    """
    form = int(rng.choice(4, p=_FORM_SHARES))
    texts = [str(list(boxes[region])) for region in item.regions]
    if form >= 2:
        separator = ", " if form == 2 else "; "
        listed = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
        location = f"<ref>{separator.join(item.regions)}</ref><box>{listed}</box>"
    else:
        location = "".join(
            f"<ref>{region}</ref><box>{box}</box>"
            for region, box in zip(item.regions, texts, strict=True)
        )
    inner = f"<answer>{item.answer}</answer><location>{location}</location>"
    return inner if form == 1 else f"<response>{inner}</response>"
