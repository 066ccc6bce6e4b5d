"""One source row to one training example, or to the code of the fault that rejects it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from data_prep.answers import (
    Answer,
    answer_text,
    normalise_answer,
    parse_choices,
    read_question_type,
)
from data_prep.brackets import plain_brackets
from data_prep.coordinates import (
    Frame,
    ModelFamily,
    Size,
    clip_unit,
    overhang,
    scale_box,
    smart_resize,
)
from data_prep.pictures import Picture, patient_and_study
from data_prep.plain import PlainText, plain_box, read_plain, rewrite_plain
from data_prep.unread import has_unread, has_unread_between, loses_regions
from reward.ground_truth import GroundTruth
from reward.numbers import Box, box_text, cited_groups
from reward.response import (
    LONGEST_RESPONSE,
    Region,
    cited_regions,
    parse_response,
    render_response,
    replace_boxes,
)

REJECT_CODES = {
    "bad_json": "the row is no JSON",
    "unknown_form": "the row has the keys of none of the known forms",
    "bad_text": "a text of the row is not valid UTF-8",
    "no_question": "the question is missing or empty",
    "no_response": "the response is missing or empty",
    "no_answer": "the response holds no <answer> or an empty one",
    "unknown_question_type": "the question type is none of the four published ones",
    "answer_not_in_choices": "the answer is not certainly one that the question allows",
    "bad_box": "a box has other than four finite numbers, or a region of the answer does not read",
    "unread_box": "four numbers in a text look like a box and are in no form that is read",
    "too_long": f"reasoning and response have more than {LONGEST_RESPONSE} characters",
    "degenerate_box": "a box has swapped or equal corners, or vanishes in the model's pixels",
    "box_outside": "a box lies more than 2 % of the frame outside it",
    "no_patient": "the image path names no patient, so its split is unknown",
    "excluded": "the exclusion list names the image, its study or its patient",
    "missing_image": "the image does not exist",
    "unreadable_image": "the image does not open",
    "image_too_narrow": "the image is too narrow for the model's resize",
    "internal_error": "this program failed on the row: a fault of the program, please report it",
}
MOST_OVERHANG = 0.02
UNNAMED = "region"
MOST_REMEMBERED = 512

# Tags that verl takes for a medium, and tokens that only a chat template may write.
_MEDIA = re.compile(r"<(?:image|video|audio|\|\w{1,40}\|)>")
_TAG = re.compile(r"<[^<>]*>|[<>]")
_BLOCK_TAGS = re.compile(r"</?(?:think|answer|location|response)\s*>", re.IGNORECASE)
_LOCATION = re.compile(r"<location\s*>(.*?)(?:</location\s*>|$)", re.IGNORECASE | re.DOTALL)
_MAY_HOLD_BOX = re.compile(r"[\[(>]\s*[+-]?(?:\.?\d|inf|nan)", re.IGNORECASE)
_NUMBERS = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+|inf|nan)(?:e[+-]?\d+)?", re.IGNORECASE)


class RowFault(Exception):
    """A fault that rejects a row; its text is the reject code."""


class ParsedRow(NamedTuple):
    """A row read but not yet mapped: all boxes are in the dataset's frame."""

    source_index: int
    image_path: str
    patient: str
    study: str
    question: str
    question_type: str
    choices: dict[str, str] | None
    answer: Answer
    reasoning: str
    # The reasoning taken apart, where all of its boxes stand as `[1, 2, 3, 4]`.
    plain: PlainText | None
    regions: tuple[Region, ...]
    media_tags: int

    def boxes(self) -> list[Box]:
        """Every box of the row, in its regions and in its reasoning."""
        cited = (
            [region.box for region in cited_regions(self.reasoning)]
            if self.plain is None
            else self.plain.boxes()
        )
        final = [region.box for region in self.regions]
        return [box for box in (*final, *cited) if box is not None]


class Example(NamedTuple):
    """A row as training sees it: boxes in the coordinates of the model's output."""

    parsed: ParsedRow
    picture: Picture
    question: str
    ground_truth: GroundTruth
    response: str | None
    clipped_boxes: int


def parse_row(row: Mapping[str, Any], source_index: int) -> ParsedRow:
    """Reads the texts of a row. Raises RowFault with a code of `REJECT_CODES`."""
    question, in_question = _without_media(plain_brackets(_text(row.get("question"))))
    response, in_response = _without_media(plain_brackets(_text(row.get("response"))))
    if not question:
        raise RowFault("no_question")
    if not response:
        raise RowFault("no_response")
    question_type = read_question_type(_text(row.get("question_type")))
    if question_type is None:
        raise RowFault("unknown_question_type")
    told = _text(row.get("thinkVG"))
    if len(response) + len(told) > LONGEST_RESPONSE:
        raise RowFault("too_long")
    read = parse_response(response)
    if not read.answer:
        raise RowFault("no_answer")
    choices = parse_choices(question) if question_type in ("single", "multi") else None
    answer = normalise_answer(read.answer, question_type, choices)
    if answer is None:
        raise RowFault("answer_not_in_choices")
    reasoning, plain, in_reasoning = read_reasoning(told)
    if plain is None:
        _check_boxes(reasoning)
    if has_unread(reasoning) if plain is None else has_unread_between(plain.gaps):
        raise RowFault("unread_box")
    if has_unread(question) or (question_type == "open" and has_unread(read.answer)):
        raise RowFault("unread_box")
    if any(region.box is None for region in read.regions):
        for text in _LOCATION.findall(response):
            _check_boxes(text)
        raise RowFault("bad_box")
    if loses_regions(response, len(read.regions)):
        raise RowFault("bad_box")
    image_path = _text(row.get("image_path"))
    if not image_path:
        raise RowFault("missing_image")
    subject = patient_and_study(image_path)
    if subject is None:
        raise RowFault("no_patient")
    return ParsedRow(
        source_index=source_index,
        image_path=image_path,
        patient=subject[0],
        study=subject[1],
        question=question,
        question_type=question_type,
        choices=choices,
        answer=answer,
        reasoning=reasoning,
        plain=plain,
        regions=read.regions,
        media_tags=in_question + in_response + in_reasoning,
    )


def read_reasoning(told: str) -> tuple[str, PlainText | None, int]:
    """A reasoning's text, the same taken apart if it is plain, and how many media tags it had."""
    reasoning = _one_space_between(told)
    plain = read_plain(reasoning)
    # Then it has no tag, and no brackets to bring into form but, perhaps, these.
    if plain is not None and reasoning.isascii() and "{" not in reasoning and "|" not in reasoning:
        return reasoning, plain, 0
    told, media_tags = _without_media(plain_brackets(told))
    reasoning = _one_space_between(_BLOCK_TAGS.sub(" ", told) if "<" in told else told)
    return reasoning, read_plain(reasoning), media_tags


def _without_media(text: str) -> tuple[str, int]:
    """The text without tags and tokens that stand for something else, and how many there were."""
    count = 0
    if "<" not in text:
        return text.strip(), count
    while found := len(_MEDIA.findall(text)):
        # Again, since two halves of a tag may have stood around it.
        text, count = _MEDIA.sub("", text), count + found
    return text.strip(), count


def _one_space_between(text: str) -> str:
    """The words of a text with one space between them."""
    # Of ASCII's white space only the space is printable.
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()
    return " ".join(text.split())


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _check_boxes(text: str) -> None:
    """Raises RowFault where a box in the text is not four finite numbers with area."""
    for group in cited_groups(text):
        if group.box is None:
            numbers = [float(part) for part in _NUMBERS.findall(text[group.start : group.end])]
            is_four = len(numbers) == 4 and all(map(math.isfinite, numbers))
            raise RowFault("degenerate_box" if is_four else "bad_box")


def write_box(
    box: Box, place: tuple[tuple[float, float], tuple[float, float]], space: Size
) -> tuple[Box, bool]:
    """A box in whole units of `space`, (width, height), and whether it had to be clipped.

    `place` is where the picture lies in the frame of `box`: its top-left corner and its size.
    Raises RowFault for a box too far outside the picture, or one that vanishes.
    """
    (left, top), (wide, high) = place
    x1, y1, x2, y2 = box
    x1, y1, x2, y2 = (x1 - left) / wide, (y1 - top) / high, (x2 - left) / wide, (y2 - top) / high
    is_clipped = not (0 <= x1 <= 1 and 0 <= y1 <= 1 and 0 <= x2 <= 1 and 0 <= y2 <= 1)
    if is_clipped:
        unit = (x1, y1, x2, y2)
        if overhang(unit) > MOST_OVERHANG:
            raise RowFault("box_outside")
        x1, y1, x2, y2 = clip_unit(unit)
    width, height = space
    x1, y1 = float(round(x1 * width)), float(round(y1 * height))
    x2, y2 = float(round(x2 * width)), float(round(y2 * height))
    if x2 <= x1 or y2 <= y1:
        raise RowFault("degenerate_box")
    return (x1, y1, x2, y2), is_clipped


class _WrittenBoxes(dict[Box, Box]):
    """Boxes of the frame, and what `write_box` made of them for pictures of one shape.

    An image has a box for each of its regions, and many questions about them.
    """

    def __init__(self, place: tuple[tuple[float, float], tuple[float, float]], space: Size) -> None:
        self._place, self._space = place, space
        self.clipped: set[Box] = set()

    def __missing__(self, box: Box) -> Box:
        self[box], is_clipped = write_box(box, self._place, self._space)
        if is_clipped:
            self.clipped.add(box)
        return self[box]


class _WrittenTexts(dict[str, tuple[Box, str]]):
    """The same by the texts of the boxes, with the new texts."""

    def __init__(self, boxes: _WrittenBoxes) -> None:
        self._boxes = boxes

    def __missing__(self, written: str) -> tuple[Box, str]:
        box = self._boxes[plain_box(written)]
        self[written] = box, box_text(box)
        return self[written]


@lru_cache(maxsize=64)
def _remembered(
    place: tuple[tuple[float, float], tuple[float, float]], space: Size
) -> tuple[_WrittenBoxes, _WrittenTexts]:
    boxes = _WrittenBoxes(place, space)
    return boxes, _WrittenTexts(boxes)


@dataclass(frozen=True)
class Mapper:
    """Takes rows from the dataset's frame to the model's coordinates."""

    frame: Frame
    family: ModelFamily
    min_pixels: int
    max_pixels: int

    def model_size(self, original: Size) -> Size:
        """The size at which the model sees a picture; RowFault for one it cannot take."""
        try:
            return smart_resize(original, self.family.factor, self.min_pixels, self.max_pixels)
        except ValueError:
            raise RowFault("image_too_narrow") from None

    def to_output(self, box: Box, picture: Picture, image_size: Size) -> Box:
        """Maps a box from the dataset's frame to the model's coordinates; neither clips nor rounds.

        `image_size` is the (width, height) at which the model sees the picture.
        """
        return scale_box(
            self.frame.to_unit(box, picture.original), self.family.box_space(image_size)
        )

    def from_output(self, box: Box, picture: Picture, image_size: Size) -> Box:
        """The inverse of `to_output`."""
        width, height = self.family.box_space(image_size)
        unit = (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
        return self.frame.from_unit(unit, picture.original)

    def written(self, box: Box, picture: Picture, image_size: Size) -> tuple[Box, bool]:
        """The box as the model is to write it, in whole units, and whether it had to be clipped.

        Raises RowFault for a box too far outside the picture, or one that vanishes.
        """
        return write_box(box, self.frame.place(picture.original), self.family.box_space(image_size))

    def example(self, parsed: ParsedRow, picture: Picture) -> Example:
        """Maps every box of a row, in its texts as in its ground truth.

        Raises RowFault for a box too far outside the picture, or too small for its pixels.
        """
        image_size = self.model_size(picture.size)
        boxes, texts = _remembered(
            self.frame.place(picture.original), self.family.box_space(image_size)
        )
        if len(boxes) + len(texts) > MOST_REMEMBERED:
            boxes.clear()
            boxes.clipped.clear()
            texts.clear()
        in_texts: set[Box] = set()

        def noted(box: Box) -> Box:
            in_texts.add(box)
            return boxes[box]

        regions = tuple(
            Region(_plain_name(region.ref), boxes[region.box])
            for region in parsed.regions
            if region.box is not None
        )

        def rewritten(text: str) -> str:
            return replace_boxes(text, noted) if _MAY_HOLD_BOX.search(text) else text

        question, choices = parsed.question, parsed.choices
        if _MAY_HOLD_BOX.search(question):
            question = replace_boxes(question, noted)
            # They are parts of the question.
            choices = choices and {letter: rewritten(text) for letter, text in choices.items()}

        if parsed.plain is not None:
            reasoning, cited = rewrite_plain(parsed.plain, texts.__getitem__)
        else:
            reasoning = rewritten(parsed.reasoning)
            cited = cited_regions(reasoning)
        answer = parsed.answer
        if parsed.question_type == "open":
            answer = rewritten(answer_text(answer))
        truth = GroundTruth(
            question_type=parsed.question_type,  # type: ignore[arg-type]
            answer=answer,
            choices=choices,
            regions=regions,
            think_regions=cited,
            image_size=image_size,
            coordinates=self.family.coordinates,
        )
        return Example(
            parsed=parsed,
            picture=picture,
            question=question,
            ground_truth=truth,
            response=_write_response(reasoning, answer, regions) if reasoning else None,
            clipped_boxes=len(boxes.clipped & in_texts.union(parsed.boxes()))
            if boxes.clipped
            else 0,
        )


def _plain_name(ref: str) -> str:
    """A region's name without tags and angle brackets, which a response may not hold."""
    return " ".join(_TAG.sub(" ", ref).split()) if "<" in ref or ">" in ref else ref


def _write_response(reasoning: str, answer: Answer, regions: tuple[Region, ...]) -> str:
    # A name without a letter is none to the strict reader.
    named = [
        region if region.ref.lower() != region.ref.upper() else Region(UNNAMED, region.box)
        for region in regions
    ]
    return render_response(reasoning, answer_text(answer), named)
