"""What a response is: the one definition that data preparation, reward and evaluation share.

The canonical text is three blocks, `<think>`, `<answer>` and `<location>`, once each, in this
order (see `render_response`). Reading is tolerant of unclosed tags, other case, wrappers and the
ways in which datasets write several boxes; `Response.well_formed` is the strict check.

A chat template may write the start of a response into the prompt, as those of thinking models do
with `<think>`. Readers take the whole text, with that start (see `whole_response`).

Coordinates stay as written: `x1, y1, x2, y2`, top-left and bottom-right corner. Every function
here takes time linear in the length of the text. At most `LONGEST_RESPONSE` characters of a
response are read, which is more than 8,000 tokens, and `MOST_BRACKETS` boxes.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from reward.boxes_in_text import MOST_BRACKETS, Box, box_text, boxes_in, cited_groups, words_before

LONGEST_RESPONSE = 32_000
"""Characters of a response that are read; a longer one is not well-formed."""

RESPONSE_PREFIX = "response_prefix"
"""Key of `extra_info`: what the prompt already holds of the response, such as `<think>\\n`."""

_BLOCK_TAG = re.compile(r"<(/?)(think|answer|location|response)\s*+>", re.IGNORECASE)
_REGION_TAG = re.compile(r"<(/?)(ref|box)\s*+>", re.IGNORECASE)
_CONTENT = r"((?:[^<]++|<(?!/?(?i:think|answer|location|response)\s*+>))*+)"
_STRICT_RESPONSE = re.compile(
    rf"""\s*+
    <think>{_CONTENT}</think> \s*+
    <answer>{_CONTENT}</answer> \s*+
    <location> \s*+
    (?: <ref>[^<>]++</ref> \s*+ <box> \s*+ \[[^\[\]()<>]*+\] \s*+ </box> \s*+ )*+
    </location> \s*+
    """,
    re.VERBOSE,
)
_LONGEST_LEAD = 100
_ONLY_LINKS = re.compile(r"(?:[\s,;&/()\[\]]|\band\b|</?box>)*+", re.IGNORECASE)


class Region(NamedTuple):
    """A named box.

    `ref` is "" if there is no name. `box` is None if the box in the text is not four finite numbers
    that span an area.
    """

    ref: str = ""
    box: Box | None = None


class Response(NamedTuple):
    """The parts of a response.

    `think` and `answer` are stripped texts, None if the block is missing. `regions` come from
    every `<location>` outside the reasoning, `think_regions` from the reasoning.
    """

    think: str | None
    answer: str | None
    regions: tuple[Region, ...]
    think_regions: tuple[Region, ...]
    well_formed: bool


def whole_response(generated: str, extra_info: Mapping[str, Any] | None) -> str:
    """Return the part of the response that is in the prompt, followed by the generated text.

    Args:
        generated: the text that the model generated.
        extra_info: `extra_info[RESPONSE_PREFIX]` is the part in the prompt. If the key is missing,
            or its value None or empty, the prompt holds no part of the response.

    Raises:
        ValueError: the prefix is not a text.
    """
    prefix = (extra_info or {}).get(RESPONSE_PREFIX) or ""
    if not isinstance(prefix, str):
        raise ValueError(f"extra_info.{RESPONSE_PREFIX} is {prefix!r}, not a text")
    return prefix + generated


def parse_response(text: str) -> Response:
    """Read a whole response; any text is accepted and nothing is raised.

    The reasoning reaches from an outermost `<think>` to its `</think>`, or to the end of the text
    if it is never closed; a lone `</think>` closes a reasoning that began with the text.
    Answers and locations inside it do not count. The first answer counts, and every location. An
    unclosed block ends at the next block.
    """
    blocks = list(_blocks(text[:LONGEST_RESPONSE]))
    thoughts = [content.strip() for name, content in blocks if name == "think"]
    answers = [content.strip() for name, content in blocks if name == "answer"]
    locations = [content for name, content in blocks if name == "location"]
    think = "\n".join(thoughts) if thoughts else None
    answer = answers[0] if answers else None
    regions = tuple(region for location in locations for region in parse_location(location))
    return Response(
        think=think,
        answer=answer,
        regions=regions,
        think_regions=cited_regions(think or ""),
        well_formed=bool(think and answer) and _is_strict(text, regions),
    )


def _is_strict(text: str, regions: Sequence[Region]) -> bool:
    """Return whether a response has the canonical form, with a box and a letter in each name."""
    return (
        len(text) <= LONGEST_RESPONSE
        and _STRICT_RESPONSE.fullmatch(text) is not None
        and all(box is not None and ref.lower() != ref.upper() for ref, box in regions)
    )


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and content of the outermost blocks, in order."""
    tags = list(_BLOCK_TAG.finditer(text))
    think_tags = [tag for tag in tags if tag[2].lower() == "think"]
    # The opening tag may be missing, if a chat template wrote it into the prompt.
    starts_inside = bool(think_tags) and bool(think_tags[0][1])
    depth, start, name = (1, 0, "think") if starts_inside else (0, 0, "")
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
            yield name, text[start : tag.start()]
        start, name = tag.end(), "" if is_closing else tag_name
    if name:
        yield name, text[start:]


def parse_location(text: str) -> tuple[Region, ...]:
    """Read the content of a `<location>`, in the order of the boxes.

    Accepted are repeated `<ref>…</ref><box>…</box>` pairs, first all refs and then all boxes, one
    `<box>` with a list of boxes, several names in one `<ref>` separated by commas or semicolons (if
    there are as many names as boxes), and, without any `<box>`, boxes in plain text. A ref without
    a box is not a region.
    """
    # The text before the first tag, and then for each tag its slash, its name and what follows it.
    parts = _REGION_TAG.split(text, maxsplit=4 * MOST_BRACKETS)
    names = [name.lower() for name in parts[2::3]]
    if "box" not in names:
        return cited_regions(text)
    regions: list[Region] = []
    refs: list[str] = []
    boxes: list[Box | None] = []
    for slash, name, content in zip(parts[1::3], names, parts[3::3], strict=True):
        if slash:
            continue
        if name == "box":
            boxes += boxes_in(content)
            continue
        if boxes:
            regions += _pair(refs, boxes)
            refs, boxes = [], []
        refs.append(" ".join(content.split()))
    return (*regions, *_pair(refs, boxes))


def _pair(refs: list[str], boxes: list[Box | None]) -> list[Region]:
    names = refs
    if len(names) != len(boxes):
        split = [part.strip() for ref in refs for part in re.split(r"[,;]", ref) if part.strip()]
        names = split if len(split) == len(boxes) else refs
    if len(names) == 1:
        names = names * len(boxes)
    names = names + [""] * (len(boxes) - len(names))
    return [Region(name, box) for name, box in zip(names, boxes, strict=False)]


def cited_regions(text: str) -> tuple[Region, ...]:
    """Return the boxes in free text, such as `left lung ([63, 20, 98, 80])`, in order.

    `ref` is the words just before the box, without articles and prepositions; boxes that directly
    follow each other share it. Brackets are square or round, or the tags of a `<box>`.
    """
    groups = cited_groups(text)
    starts = [0, *(group.end for group in groups)]
    gaps = [text[start : group.start] for start, group in zip(starts, groups, strict=False)]
    return tuple(map(Region, names_before(gaps), (group.box for group in groups)))


def names_before(gaps: Sequence[str]) -> list[str]:
    """Return the names of a text's boxes.

    Args:
        gaps: the texts before each box: the first from the start of the text, each other one from
            the end of the box before.
    """
    names: list[str] = []
    for gap in gaps:
        if names and len(gap) <= _LONGEST_LEAD and _ONLY_LINKS.fullmatch(gap):
            names.append(names[-1])
        else:
            names.append(words_before(gap[-_LONGEST_LEAD:]))
    return names


def replace_boxes(text: str, mapping: Callable[[Box], Box]) -> str:
    """Rewrite every valid box of a text, inline or in a `<box>`, in its position.

    Args:
        text: any text; what is not a valid box stays as it is.
        mapping: takes and returns `x1, y1, x2, y2`; the result is rounded to integers.
    """
    parts: list[str] = []
    position = 0
    for start, end, box in cited_groups(text):
        if box is not None:
            parts += [text[position:start], box_text(mapping(box))]
            position = end
    return "".join([*parts, text[position:]])


def render_response(think: str, answer: str, regions: Sequence[Region]) -> str:
    """Write the canonical text, with coordinates rounded to integers.

    `render_response("…", "Yes", [Region("left lung", (63, 20, 98, 80))])` gives

        <think>…</think>
        <answer>Yes</answer>
        <location><ref>left lung</ref><box>[63, 20, 98, 80]</box></location>

    Raises:
        ValueError: a region has no box.
    """
    location = ""
    for ref, box in regions:
        if box is None:
            raise ValueError(f"region {ref!r} has no box to write")
        location += f"<ref>{ref}</ref><box>{box_text(box)}</box>"
    return f"<think>{think}</think>\n<answer>{answer}</answer>\n<location>{location}</location>"
