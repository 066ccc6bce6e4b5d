"""What a response is: the one definition that data preparation, reward and evaluation share.

The canonical text is three blocks, `<think>`, `<answer>` and `<location>`, once each, in this
order (see `render_response`). Reading is tolerant of unclosed tags, other case, wrappers and the
ways in which datasets write several boxes; `Response.well_formed` is the strict check.

Coordinates are left as written: `x1, y1, x2, y2`, top-left and bottom-right corner.
Every function here takes time linear in the length of the text. A response is read up to
`LONGEST_RESPONSE` characters, which is more than 8,000 tokens, and `MOST_BRACKETS` boxes of it.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from reward.numbers import (
    MOST_BRACKETS,
    Box,
    box_text,
    bracket_groups,
    cited_groups,
    numbers_in,
    to_box,
)
from reward.regions import names_at_end, words_before

__all__ = [
    "LONGEST_RESPONSE",
    "Box",
    "Region",
    "Response",
    "cited_regions",
    "names_before",
    "parse_location",
    "parse_response",
    "render_response",
    "replace_boxes",
]

LONGEST_RESPONSE = 32_000
"""Characters of a response that are read; a longer one is not well-formed."""

_BLOCK_TAG = re.compile(r"<(/?)(think|answer|location|response)\s*+>", re.IGNORECASE)
_REGION_TAG = re.compile(r"<(/?)(ref|box)\s*+>", re.IGNORECASE)
_CONTENT = r"((?:[^<]++|<(?!/?(?i:think|answer|location|response)\s*+>))*+)"
_STRICT_RESPONSE = re.compile(
    rf"\s*+<think>{_CONTENT}</think>\s*+<answer>{_CONTENT}</answer>"
    rf"\s*+<location>{_CONTENT}</location>\s*+"
)
_STRICT_REGION = re.compile(r"\s*+<ref>([^<>]++)</ref>\s*+<box>\s*+\[([^\[\]<>]*+)\]\s*+</box>")
# The datasets' own form, which has its reasoning elsewhere.
_BARE_RESPONSE = re.compile(
    rf"\s*+(?:<response>)?+\s*+<answer>{_CONTENT}</answer>"
    rf"\s*+<location>{_CONTENT}</location>\s*+(?:</response>)?+\s*+"
)
_LONGEST_LEAD = 100
_ONLY_LINKS = re.compile(r"(?:[\s,;&/()\[\]]|\band\b|</?box>)*+", re.IGNORECASE)


class Region(NamedTuple):
    """A named box. `ref` is "" where no name was given.

    `box` is None where a box was given that is not four finite numbers spanning an area.
    """

    ref: str
    box: Box | None


class Response(NamedTuple):
    """A response taken apart.

    `think` and `answer` are stripped texts, None where the block is missing. `regions` come from
    every `<location>` outside the reasoning, `think_regions` from the reasoning.
    """

    think: str | None
    answer: str | None
    regions: tuple[Region, ...]
    think_regions: tuple[Region, ...]
    well_formed: bool


class _Block(NamedTuple):
    name: str
    text: str


def parse_response(text: str) -> Response:
    """Take a response apart; any text is accepted and nothing is raised.

    The reasoning reaches from an outermost `<think>` to its `</think>`, or to the end of the text
    where it is never closed; a lone `</think>` closes a reasoning that began with the text.
    Answers and locations inside it do not count. Of several answers the first counts, and of
    several locations all do. An unclosed block ends at the next block.
    """
    is_short = len(text) <= LONGEST_RESPONSE
    strict = _STRICT_RESPONSE.fullmatch(text) if is_short else None
    if strict is None:
        bare = _BARE_RESPONSE.fullmatch(text) if is_short else None
        if bare is not None:
            return _parse_bare(bare[1], bare[2])
        return _parse_tolerantly(text[:LONGEST_RESPONSE])
    think, answer, location = map(str.strip, strict.groups())
    regions = _strict_location(location)
    return Response(
        think=think,
        answer=answer,
        regions=parse_location(location) if regions is None else regions,
        think_regions=cited_regions(think),
        well_formed=bool(think and answer) and regions is not None,
    )


def _parse_bare(answer: str, location: str) -> Response:
    """What `_parse_tolerantly` finds in a response of these two blocks alone."""
    regions = _strict_location(location.strip())
    return Response(
        think=None,
        answer=answer.strip(),
        regions=parse_location(location) if regions is None else regions,
        think_regions=(),
        well_formed=False,
    )


def _parse_tolerantly(text: str) -> Response:
    blocks = list(_blocks(text))
    thoughts = [block.text.strip() for block in blocks if block.name == "think"]
    answers = [block.text.strip() for block in blocks if block.name == "answer"]
    locations = [block.text for block in blocks if block.name == "location"]
    think = "\n".join(thoughts) if thoughts else None
    return Response(
        think=think,
        answer=answers[0] if answers else None,
        regions=tuple(region for location in locations for region in parse_location(location)),
        think_regions=cited_regions(think) if think else (),
        well_formed=False,
    )


def parse_location(text: str) -> tuple[Region, ...]:
    """Read the contents of a `<location>`, in the order of the boxes.

    Accepted: repeated `<ref>…</ref><box>…</box>` pairs, refs and boxes in two runs, one `<box>`
    with a list of boxes, several refs in one `<ref>` separated by commas or semicolons (used
    where their number is that of the boxes), and, without any `<box>`, boxes in plain text.
    A ref without a box is no region.
    """
    tags = list(islice(_REGION_TAG.finditer(text), 4 * MOST_BRACKETS))
    if not any(tag[2].lower() == "box" for tag in tags):
        return cited_regions(text)
    regions: list[Region] = []
    refs: list[str] = []
    boxes: list[Box | None] = []
    for position, tag in enumerate(tags):
        if tag[1]:
            continue
        end = tags[position + 1].start() if position + 1 < len(tags) else len(text)
        content = text[tag.end() : end]
        if tag[2].lower() == "ref":
            if boxes:
                regions += _pair(refs, boxes)
                refs, boxes = [], []
            refs.append(" ".join(content.split()))
        else:
            boxes += _boxes_in_element(content)
    regions += _pair(refs, boxes)
    return tuple(regions)


def cited_regions(text: str) -> tuple[Region, ...]:
    """Find the boxes in free text, such as `left lung ([63, 20, 98, 80])`, in order.

    `ref` is the words just before the box, without articles and prepositions; boxes that follow
    each other directly share it. Brackets are square or round, or the tags of a `<box>`.
    """
    gaps: list[str] = []
    boxes: list[Box | None] = []
    previous_end = 0
    for begin, end, box in cited_groups(text):
        gaps.append(text[previous_end:begin])
        boxes.append(box)
        previous_end = end
    return tuple(map(Region, names_before(gaps), boxes))


def names_before(gaps: Sequence[str]) -> list[str]:
    """Return the names of the boxes of a text; each gap is what stands before one of them.

    The first gap begins with the text, and each other one behind the box before.
    """
    names = names_at_end(gaps)
    if "" in names:
        for place, gap in enumerate(gaps):
            if not names[place]:
                follows = place and len(gap) <= _LONGEST_LEAD and _ONLY_LINKS.fullmatch(gap)
                names[place] = names[place - 1] if follows else words_before(gap[-_LONGEST_LEAD:])
    return names


def replace_boxes(text: str, mapping: Callable[[Box], Box]) -> str:
    """Rewrite every valid box in a text, inline or in a `<box>`, where it stands.

    `mapping` takes and returns `x1, y1, x2, y2`. The result is rounded to integers and written
    `[x1, y1, x2, y2]`. What is not a valid box stays as it is.
    """
    parts: list[str] = []
    position = 0
    for group in cited_groups(text):
        if group.box is None:
            continue
        parts += [text[position : group.start], box_text(mapping(group.box))]
        position = group.end
    return "".join([*parts, text[position:]])


def render_response(think: str, answer: str, regions: Sequence[Region]) -> str:
    """Write the canonical text, with coordinates rounded to integers.

    `render_response("…", "Yes", [Region("left lung", (63, 20, 98, 80))])` gives

        <think>…</think>
        <answer>Yes</answer>
        <location><ref>left lung</ref><box>[63, 20, 98, 80]</box></location>

    Raises ValueError for a region without a box.
    """
    pairs = []
    for region in regions:
        if region.box is None:
            raise ValueError(f"region {region.ref!r} has no box to write")
        pairs.append(f"<ref>{region.ref}</ref><box>{box_text(region.box)}</box>")
    location = "".join(pairs)
    return f"<think>{think}</think>\n<answer>{answer}</answer>\n<location>{location}</location>"


def _blocks(text: str) -> Iterator[_Block]:
    """Yield the outermost blocks in order."""
    tags = list(_BLOCK_TAG.finditer(text))
    think_tags = [tag for tag in tags if tag[2].lower() == "think"]
    # A chat template may have written the opening tag into the prompt.
    starts_inside = bool(think_tags) and bool(think_tags[0][1])
    depth, begin, name = (1, 0, "think") if starts_inside else (0, 0, "")
    for tag in tags:
        is_closing, tag_name = bool(tag[1]), tag[2].lower()
        if depth and tag_name != "think":
            continue
        if depth:
            depth += -1 if is_closing else 1
            if depth:
                continue
        elif tag_name == "think" and not is_closing:
            depth = 1
        if name:
            yield _Block(name, text[begin : tag.start()])
        begin, name = tag.end(), "" if is_closing else tag_name
    if name:
        yield _Block(name, text[begin:])


def _boxes_in_element(content: str) -> list[Box | None]:
    """Return every box in the contents of one `<box>`; one that cannot be read is None."""
    groups = bracket_groups(content)
    if groups:
        return [group.box for group in groups]
    return [to_box(numbers_in(content.strip(" \t\r\n[]()")))]


@lru_cache(maxsize=1024)  # the regions of an image are those of many responses
def _box_of(numbers: str) -> Box | None:
    return to_box(numbers_in(numbers))


def _pair(refs: list[str], boxes: list[Box | None]) -> list[Region]:
    names = refs
    if len(names) != len(boxes):
        split = [part.strip() for ref in refs for part in re.split(r"[,;]", ref) if part.strip()]
        names = split if len(split) == len(boxes) else refs
    if len(names) == 1:
        names = names * len(boxes)
    names = names + [""] * (len(boxes) - len(names))
    return [Region(name, box) for name, box in zip(names, boxes, strict=False)]


def _strict_location(text: str) -> tuple[Region, ...] | None:
    """Read a location that is only `<ref>name</ref><box>[x1, y1, x2, y2]</box>`, repeated or none.

    None where anything else is there, or a box is not four finite numbers that span an area.
    """
    regions: list[Region] = []
    position = 0
    for match in _STRICT_REGION.finditer(text):
        ref, numbers = match.groups()
        ref, box = " ".join(ref.split()), _box_of(numbers)
        if match.start() != position or box is None or ref.lower() == ref.upper():  # no letter
            return None
        regions.append(Region(ref, box))
        position = match.end()
    return None if text[position:].strip() else tuple(regions)
