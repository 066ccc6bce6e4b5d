"""From one source row to one training example, or to its reject code."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Any, NamedTuple

from data_prep.coordinates import (
    Frame,
    ModelFamily,
    Size,
    clip_unit,
    overhang,
    scale_box,
    smart_resize,
)
from data_prep.dicom import turn_unit
from data_prep.pictures import Picture, patient_and_study
from data_prep.rows.answers import (
    Answer,
    answer_text,
    beyond_one_image,
    normalise_answer,
    parse_choices,
    read_question_type,
)
from data_prep.rows.box_forms import (
    SplitText,
    has_unread_box,
    loses_regions,
    plain_brackets,
    split_at_boxes,
)
from reward.boxes_in_text import Box, cited_groups
from reward.ground_truth import GroundTruth, QuestionType
from reward.grounding import iou
from reward.response import (
    LONGEST_RESPONSE,
    Region,
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
    "no_answer": "the answer is missing or empty",
    "unknown_question_type": "the question type is none of the four published ones",
    "answer_not_in_choices": "the answer is not certainly one that the question allows",
    "bad_box": "a box has other than four finite numbers, or a region of the answer does not read",
    "unread_box": "four numbers in a text look like a box and are in no form that is read",
    "too_long": f"reasoning and response have more than {LONGEST_RESPONSE} characters",
    "degenerate_box": "a box has swapped or equal corners, or vanishes in the model's pixels",
    "box_outside": "a box lies more than 2 % of the frame outside it",
    "no_patient": "the image path names no patient, so its split is unknown",
    "excluded": "the exclusion list names the image, its study or its patient",
    "compares": "the answer compares with an earlier examination, and --leave-out says compares",
    "hedges": "the answer leaves open which of several things it states (--leave-out hedges)",
    "missing_image": "the image does not exist",
    "unreadable_image": "the image does not open",
    "deep_image": "the image is DICOM or has more than 8 bits; data_prep.images makes 8-bit copies",
    "size_mismatch": "the image has another size than the set says, so its boxes would be wrong",
    "unknown_size": "the boxes are in pixels of a DICOM file, and this image does not say its size",
    "no_split": "the set's table of splits does not name the image",
    "image_too_narrow": "the image is too narrow for the model's resize",
    "internal_error": "this program failed on the row: a fault of the program, please report it",
}
MOST_OVERHANG = 0.02  # of the frame's side; a box that reaches further outside rejects its row
UNNAMED = "region"  # the name written for a region without one

# Tags that verl replaces by media, and special tokens, which only a chat template may write.
_MEDIA = re.compile(r"<(?:image|video|audio|\|\w{1,40}\|)>")
_TAG = re.compile(r"<[^<>]*>|[<>]")
_BLOCK_TAGS = re.compile(r"</?(?:think|answer|location|response)\s*>", re.IGNORECASE)
_LOCATION = re.compile(r"<location\s*>(.*?)(?:</location\s*>|$)", re.IGNORECASE | re.DOTALL)
_NUMBERS = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+|inf|nan)(?:e[+-]?\d+)?", re.IGNORECASE)


class RowFault(Exception):
    """A fault that rejects a row; its text is the reject code."""


class ParsedRow(NamedTuple):
    """A parsed row, with all boxes in the dataset's frame."""

    source_index: int
    image_path: str
    patient: str
    study: str
    question: str
    question_type: QuestionType
    choices: dict[str, str] | None
    answer: Answer
    reasoning: str
    split_reasoning: SplitText
    regions: tuple[Region, ...]
    media_tags: int
    # Why one image cannot give the answer: codes of `data_prep.rows.answers.BEYOND`.
    beyond: tuple[str, ...]

    def boxes(self) -> list[Box]:
        boxes = [*(region.box for region in self.regions), *self.split_reasoning.boxes]
        return [box for box in boxes if box is not None]


class Example(NamedTuple):
    """A row for training, with all boxes in the coordinates of the model's output."""

    parsed: ParsedRow
    picture: Picture
    question: str
    ground_truth: GroundTruth
    response: str | None
    clipped_boxes: int


def parse_row(row: Mapping[str, Any], source_index: int) -> ParsedRow:
    """Parse a row with ThinkVG's columns; a RowFault has a code of `REJECT_CODES`."""
    question, question_tags = clean_text(row.get("question"))
    response, response_tags = clean_text(row.get("response"))
    if not question:
        raise RowFault("no_question")
    if not response:
        raise RowFault("no_response")
    question_type = read_question_type(_text(row.get("question_type")))
    if question_type is None:
        raise RowFault("unknown_question_type")
    if len(response) + len(_text(row.get("thinkVG"))) > LONGEST_RESPONSE:
        raise RowFault("too_long")
    parsed = parse_response(response)
    if not parsed.answer:
        raise RowFault("no_answer")
    choices = parse_choices(question) if question_type in ("single", "multi") else None
    answer = normalise_answer(parsed.answer, question_type, choices)
    if answer is None:
        raise RowFault("answer_not_in_choices")
    reasoning, split_reasoning, reasoning_tags = _read_reasoning(row.get("thinkVG"))
    for text in (question, parsed.answer) if question_type == "open" else (question,):
        _check_unread(split_at_boxes(text))
    _check_regions(response, parsed.regions)
    image_path, patient, study = _picture_of(row)
    return ParsedRow(
        source_index=source_index,
        image_path=image_path,
        patient=patient,
        study=study,
        question=question,
        question_type=question_type,
        choices=choices,
        answer=answer,
        reasoning=reasoning,
        split_reasoning=split_reasoning,
        regions=parsed.regions,
        media_tags=question_tags + response_tags + reasoning_tags,
        beyond=beyond_one_image(question, question_type, parsed.answer, answer, choices),
    )


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def clean_text(value: object) -> tuple[str, int]:
    """Return a text with plain brackets and without media tags, and the number of these tags."""
    text, count = plain_brackets(_text(value)), 0
    while True:
        text, removed = _MEDIA.subn("", text)
        if not removed:
            return text.strip(), count
        count += removed  # and again, since the removal may join two halves of a tag


def _read_reasoning(value: object) -> tuple[str, SplitText, int]:
    """Return a reasoning, the same split at its boxes, and the number of its media tags."""
    text, count = clean_text(value)
    reasoning = " ".join(_BLOCK_TAGS.sub(" ", text).split())
    split = split_at_boxes(reasoning)
    if None in split.boxes:
        _check_boxes(reasoning)
    _check_unread(split)
    return reasoning, split, count


def _check_unread(text: SplitText) -> None:
    if has_unread_box(text.gaps):
        raise RowFault("unread_box")


def _check_boxes(text: str) -> None:
    """Raise RowFault if a box in the text is not four finite numbers with area."""
    for group in cited_groups(text):
        if group.box is None:
            numbers = [float(part) for part in _NUMBERS.findall(text[group.start : group.end])]
            is_four = len(numbers) == 4 and all(map(math.isfinite, numbers))
            raise RowFault("degenerate_box" if is_four else "bad_box")


def _check_regions(response: str, regions: Sequence[Region]) -> None:
    if any(region.box is None for region in regions):
        for text in _LOCATION.findall(response):
            _check_boxes(text)
        raise RowFault("bad_box")
    if loses_regions(response, len(regions)):
        raise RowFault("bad_box")


def _picture_of(row: Mapping[str, Any]) -> tuple[str, str, str]:
    image_path = _text(row.get("image_path"))
    if not image_path:
        raise RowFault("missing_image")
    subject = patient_and_study(image_path)
    if subject is None:
        raise RowFault("no_patient")
    return image_path, *subject


@lru_cache(maxsize=4096)  # the many questions about an image repeat its boxes
def _write_box(
    box: Box, frame: Frame, original: Size, turned: str, space: Size
) -> tuple[Box, bool]:
    unit = turn_unit(frame.to_unit(box, original), turned)
    outside = overhang(unit)
    if outside > MOST_OVERHANG:
        raise RowFault("box_outside")
    x1, y1, x2, y2 = (float(round(side)) for side in scale_box(clip_unit(unit), space))
    if x2 <= x1 or y2 <= y1:
        raise RowFault("degenerate_box")
    return (x1, y1, x2, y2), outside > 0


@dataclass(frozen=True)
class Mapper:
    """Maps rows from the dataset's frame to the model's coordinates."""

    frame: Frame
    family: ModelFamily
    min_pixels: int
    max_pixels: int
    boxes_in_texts: bool = True
    """Whether four numbers in brackets in a question, a choice or an open answer are a box."""

    def model_size(self, original: Size) -> Size:
        """Return the size at which the model sees a picture; raise RowFault if it is too narrow."""
        try:
            return smart_resize(original, self.family.factor, self.min_pixels, self.max_pixels)
        except ValueError:
            raise RowFault("image_too_narrow") from None

    def written(self, box: Box, picture: Picture, image_size: Size) -> tuple[Box, bool]:
        """Return a box as the model must write it, and whether it was clipped.

        `image_size` is the (width, height) at which the model sees the picture. A RowFault rejects
        a box that is too far outside the picture, or has no area in whole units.
        """
        space = self.family.box_space(image_size)
        return _write_box(box, self.frame, picture.original, picture.turned, space)

    def example(self, parsed: ParsedRow, picture: Picture) -> Example:
        """Map every box of a row; raise RowFault for one that is too far outside or too small."""
        image_size = self.model_size(picture.size)
        clipped: set[Box] = set()

        def map_box(box: Box) -> Box:
            mapped, is_clipped = self.written(box, picture, image_size)
            if is_clipped:
                clipped.add(box)
            return mapped

        regions = tuple(
            Region(_plain_name(region.ref), map_box(region.box))
            for region in parsed.regions
            if region.box is not None
        )

        def map_text(text: str) -> str:
            return replace_boxes(text, map_box) if self.boxes_in_texts else text

        question, choices = map_text(parsed.question), parsed.choices
        if choices:
            choices = {key: map_text(text) for key, text in choices.items()}
        cited = [map_box(box) for box in parsed.split_reasoning.boxes if box is not None]
        reasoning = parsed.split_reasoning.joined(cited)
        answer = parsed.answer
        if parsed.question_type == "open":
            answer = map_text(answer_text(answer))
        truth = GroundTruth(
            question_type=parsed.question_type,
            answer=answer,
            choices=choices,
            regions=regions,
            think_regions=parsed.split_reasoning.regions(cited),
            image_size=image_size,
            coordinates=self.family.coordinates,
        )
        response = _write_response(reasoning, answer, regions) if reasoning else None
        return Example(parsed, picture, question, truth, response, len(clipped))


def _plain_name(ref: str) -> str:
    """Return a region's name without tags and angle brackets, which would break a response."""
    return " ".join(_TAG.sub(" ", ref).split()) if "<" in ref or ">" in ref else ref


def _write_response(reasoning: str, answer: Answer, regions: Sequence[Region]) -> str:
    # The strict parser ignores a name without letters.
    named = [
        region if region.ref.lower() != region.ref.upper() else Region(UNNAMED, region.box)
        for region in regions
    ]
    return render_response(reasoning, answer_text(answer), named)


def agreement(final: Sequence[Region], cited: Sequence[Region]) -> tuple[int, float | None]:
    """Return how many final boxes the reasoning cites exactly, and the mean IoU of final boxes.

    The IoU of a final box is the largest with a cited one, 0 if none is cited. The mean is None
    without final boxes.
    """
    cited_boxes = [region.box for region in cited if region.box is not None]
    final_boxes = [region.box for region in final if region.box is not None]
    if not final_boxes:
        return 0, None
    ious = [
        max((iou(cited_box, box) for cited_box in cited_boxes), default=0.0) for box in final_boxes
    ]
    return sum(box in cited_boxes for box in final_boxes), fmean(ious)
