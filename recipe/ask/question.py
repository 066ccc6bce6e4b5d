"""A question as a model was trained to read it, and its answer in the pixels of its picture.

The prompt has the words of the model's training data, and the picture is resized as it was there.
Boxes are written for that smaller picture; `Asked` maps them to the original one.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from PIL import Image

from data_prep import pictures
from data_prep.coordinates import MODEL_FAMILIES, Frame, ModelFamily, Size, scale_box
from data_prep.program import InputError, read_metadata
from data_prep.rows.answers import parse_choices, split_choices, with_choices
from data_prep.rows.example import REJECT_CODES, Mapper, RowFault, clean_text
from data_prep.rows.prompts import PromptTemplates, load_templates
from recipe.data.prompts import without_reasoning
from recipe.evaluate.generation import Prompt
from recipe.evaluate.predictions import (
    Prediction,
    read_columns,
    read_images,
    read_questions,
    score_predictions,
)
from recipe.report.cases import ImageMissing, compared, image_source, shown_question, shown_response
from reward.boxes_in_text import Box
from reward.ground_truth import QUESTION_TYPES, Coordinates, GroundTruth, QuestionType
from reward.response import Region, replace_boxes

PRESET = "dense"
"""Preset of the reward that scores answers to prepared questions."""
MOST_PIXELS = 50_000_000
"""Largest picture; a radiograph has some 20 million pixels."""
_FAR = 1e6  # pixels, outside any picture
_SPLITS = ("test.parquet", "val.parquet", "train.parquet")


class Space(NamedTuple):
    """What boxes are written in; a `reward.ground_truth.BoxSpace`."""

    image_size: Size
    coordinates: Coordinates


@dataclass(frozen=True)
class Question:
    """A question, with its choices at its end, where it has any."""

    text: str
    kind: QuestionType
    choices: dict[str, str] | None = None


def read_question(text: str, kind: str = "open", choices: Sequence[str] = ()) -> Question:
    """Check a question, and write its choices as the data has them; empty ones are left out.

    Raises:
        InputError: there is no text, an unknown type, or choices that do not fit the type.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError("the question is not valid UTF-8: write it anew") from None
    cleaned, _ = clean_text(text)
    lines = [
        line for line in (" ".join(clean_text(choice)[0].split()) for choice in choices) if line
    ]
    if not cleaned:
        raise InputError("the question is empty: write what you want to know about the picture")
    if kind not in QUESTION_TYPES:
        known = ", ".join(QUESTION_TYPES)
        raise InputError(f"the type {kind!r} of the question is none of {known}")
    has_choices = kind in ("single", "multi")
    if lines and not has_choices:
        raise InputError(f"a question of type {kind} has no choices: choose single or multi")
    try:
        cleaned = with_choices(cleaned, lines) if lines else cleaned
    except ValueError as error:
        raise InputError(str(error)) from None
    read = parse_choices(cleaned) if has_choices else None
    if has_choices and len(read or ()) < 2:
        raise InputError(f"a question of type {kind} needs two choices or more")
    return Question(cleaned, cast("QuestionType", kind), read)


def read_picture(source: Path | bytes, name: str) -> Image.Image:
    """Return a picture from a file or its contents, DICOM too, as 8-bit RGB.

    Raises:
        InputError: it is missing, unreadable or too large; the message begins with `name`.
    """

    def check(size: Size) -> None:
        width, height = size
        if width * height > MOST_PIXELS:
            most = f"{MOST_PIXELS / 1e6:.0f} million"
            raise InputError(f"{name}: {width} x {height} pixels; a picture has {most} at most")

    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        return pictures.read_picture(stream, check).convert("RGB")
    except OSError as error:
        raise InputError(f"{name}: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{name}: not a readable picture ({reason}); give a JPEG, PNG, WebP or DICOM file"
        ) from None


class Asked(NamedTuple):
    """A question about a picture, ready for a model."""

    prompt: Prompt
    question: Question
    original: Size  # of the picture, in pixels
    model_boxes: Frame  # what the model writes boxes in

    def in_pixels(self, response: str) -> str:
        """Return a response with its boxes in pixels of the original picture."""
        return replace_boxes(response, self.box_in_pixels)

    def shown(self, response: str) -> dict[str, Any]:
        """Return what the page shows of a response, see `recipe.report.cases`."""
        shown = shown_response(self.in_pixels(response), Space(self.original, "absolute"))
        return shown | {"raw": response}

    def case(self, identity: str) -> dict[str, Any]:
        """Return what the page shows of a question without a reference."""
        question = self.question
        shown: dict[str, Any] = {"id": identity, "kind": question.kind, "right": []}
        shown |= {"patient": "", "findings": "", "regions": [], "cited": [], "answers": {}}
        text = split_choices(question.text, question.choices)
        shown |= {"question": text, "choices": question.choices}
        return shown | {"size": list(self.original)}

    def box_in_pixels(self, box: Box) -> Box:
        """Return one of the model's boxes in whole pixels of the original picture."""
        sides = scale_box(self.model_boxes.to_unit(box, self.original), self.original)
        # A model may write 1e308, which no picture has and which would not round.
        x1, y1, x2, y2 = (float(round(min(max(side, -_FAR), _FAR))) for side in sides)
        return x1, y1, x2, y2


@dataclass(frozen=True)
class Training:
    """How questions were written and pictures resized in a model's training."""

    family: ModelFamily
    min_pixels: int
    max_pixels: int
    templates: PromptTemplates
    reasoning: bool = True

    def check_examples(self, data: Path, title: str) -> None:
        """Refuse prepared questions whose boxes are in another space than this model's.

        Raises:
            InputError: they are for another family, or for pictures of another size.
        """
        if not (metadata := data_metadata(data)):
            return
        name = metadata["model_family"]
        prepared = (name, *(int(metadata[key]) for key in ("min_pixels", "max_pixels")))
        asked_as = (self.family.name, self.min_pixels, self.max_pixels)
        if prepared[1:] != asked_as[1:] or not fits(name, self.family.name):
            described = "{} with pictures of {} to {} pixels"
            raise InputError(
                f"the prepared questions of {data} are for {described.format(*prepared)}, and "
                f"{title} is asked as {described.format(*asked_as)}: leave out --pixels, or start "
                "a page for each model"
            )

    def asked(self, question: Question, picture: Image.Image) -> Asked:
        """Prepare a question; boxes in its text are in pixels of the picture.

        Raises:
            InputError: the picture is too narrow, or a box of the question is outside it.
        """
        mapper = Mapper(Frame(None), self.family, self.min_pixels, self.max_pixels)
        measured = pictures.Picture("", picture.size, picture.size)
        try:
            size = mapper.model_size(picture.size)
            text = replace_boxes(question.text, lambda box: mapper.written(box, measured, size)[0])
        except RowFault as fault:
            raise InputError(f"the question: {REJECT_CODES[str(fault)]}") from None
        content = self.templates.render(text, question.kind, self.family.coordinates)
        return self.prepared([{"role": "user", "content": content}], question, picture)

    def prepared(
        self, messages: list[dict[str, Any]], question: Question, picture: Image.Image
    ) -> Asked:
        """Return a question whose prompt is written already, as in a prepared row."""
        if not self.reasoning:
            messages = without_reasoning(messages)
        limits = {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        mapper = Mapper(Frame(None), self.family, self.min_pixels, self.max_pixels)
        size = mapper.model_size(picture.size)
        # The comparison with a server sorts prompts by this size.
        truth = json.dumps({"image_size": list(size)})
        prompt = Prompt(0, messages, [{"image": picture, **limits}], truth, {})
        return Asked(prompt, question, picture.size, Frame(self.family.box_space(size)))


def fits(prepared: str, actual: str) -> bool:
    """Return whether data prepared for one family has the boxes and image tokens of the other."""
    first, second = MODEL_FAMILIES.get(prepared), MODEL_FAMILIES.get(actual)
    return prepared == actual or bool(first and second and first.writes_like(second))


def read_training(
    data: Path | None, config: dict[str, Any], reasoning: bool, pixels: tuple[int, int] | None
) -> Training:
    """Return how a model was trained: as prepared data says, or else by its family's defaults.

    `config` is the model's `config.json`, and `pixels` are limits that replace the data's.

    Raises:
        InputError: the data is of another family or has other prompts, or the family is unknown.
    """
    metadata = data_metadata(data) if data else {}
    prepared, actual = metadata.get("model_family"), config.get("model_type")
    known = ", ".join(MODEL_FAMILIES)
    if not (prepared or actual):
        raise InputError(f"the model's family is not known: give --family (one of {known})")
    if prepared and actual and not fits(prepared, actual):
        raise InputError(f"--data {data}: prepared for {prepared}, the model is a {actual}")
    name = str(actual or prepared)
    if name not in MODEL_FAMILIES:
        raise InputError(f"the model is a {name}; the families known here are {known}")
    family = MODEL_FAMILIES[name]
    version = str(metadata.get("prompt_version", ""))
    templates = load_templates(version.rpartition("-")[0] or "thinkvg")
    if version and templates.version != version:
        raise InputError(
            f"{data}: its prompts are {version}, those of configs/prompts are "
            f"{templates.version}: take the version of this project that prepared the data"
        )
    low, high = pixels or family.default_pixels
    if not (1 <= low <= high <= MOST_PIXELS and high >= family.factor**2):
        raise InputError(
            f"--pixels {low} {high}: give MIN and MAX, not above {MOST_PIXELS} and MAX not "
            f"below {family.factor**2}, one token of {name}"
        )
    if metadata and not pixels:
        low, high = int(metadata["min_pixels"]), int(metadata["max_pixels"])
    return Training(family, low, high, templates, reasoning)


def data_metadata(folder: Path) -> dict[str, Any]:
    """Return what `data_prep.thinkvg` wrote into the files of a folder.

    Raises:
        InputError: there is no prepared file in it.
    """
    files = [folder / name for name in _SPLITS if (folder / name).is_file()]
    if not files:
        raise InputError(f"--data {folder}: no test.parquet in it: give a folder of prepared data")
    try:
        return read_metadata(files[0])
    except ValueError as error:
        raise InputError(f"--data {error}") from None


class PreparedRow(NamedTuple):
    """A row of a prepared file as a page shows it and asks it."""

    question: Question
    picture: Image.Image
    messages: list[dict[str, Any]]
    truth: GroundTruth  # in the model's coordinates
    extra_info: dict[str, Any]


class Examples:
    """Questions of a prepared file, whose answers are known."""

    def __init__(self, path: Path) -> None:
        """Read the questions, but no pictures.

        Raises:
            InputError: it is not a prepared file.
        """
        self._path = path
        self._truths = {each.index: each.ground_truth for each in read_questions(path)}
        self._rows = {index: number for number, index in enumerate(self._truths)}

    def choose(self, most: int) -> list[dict[str, Any]]:
        """Return index, type and text of up to `most` questions of each type, in file order."""
        chosen: dict[str, list[int]] = {}
        for index, truth in self._truths.items():
            chosen.setdefault(truth.question_type, []).append(index)
        indices = sorted(index for kind in chosen.values() for index in kind[:most])
        numbers = [self._rows[index] for index in indices]
        extras = read_columns(self._path, ("extra_info",), numbers)["extra_info"]
        return [
            {
                "index": index,
                "kind": self._truths[index].question_type,
                "question": split_choices(extra["question"], self._truths[index].choices),
            }
            for index, extra in zip(indices, extras, strict=True)
        ]

    def row(self, index: int) -> PreparedRow:
        """Return a row with its picture.

        Raises:
            InputError: there is no such row, or its picture cannot be read.
        """
        if index not in self._rows:
            raise InputError(f"{self._path}: no question {index}")
        columns = read_columns(self._path, ("prompt", "extra_info"), [self._rows[index]])
        extra, truth = columns["extra_info"][0], self._truths[index]
        try:
            image = read_images(self._path, {index})[index]
            source, name = image_source(image, (self._path.parent,))
        except ImageMissing as error:
            raise InputError(str(error)) from None
        contents = source.getvalue() if isinstance(source, io.BytesIO) else source
        question = Question(extra["question"], truth.question_type, truth.choices)
        return PreparedRow(
            question, read_picture(contents, name), columns["prompt"][0], truth, extra
        )


def truth_in_pixels(truth: GroundTruth, asked: Asked) -> GroundTruth:
    """Return a reference whose boxes are in pixels of the original picture."""

    def mapped(regions: Sequence[Region]) -> tuple[Region, ...]:
        return tuple(Region(ref, asked.box_in_pixels(box)) for ref, box in regions if box)

    return truth.model_copy(
        update={
            "regions": mapped(truth.regions),
            "think_regions": mapped(truth.think_regions),
            "image_size": asked.original,
            "coordinates": "absolute",
        }
    )


def known_case(identity: str, row: PreparedRow, asked: Asked) -> dict[str, Any]:
    """Return what the page shows of a prepared question and its reference."""
    shown = shown_question(identity, truth_in_pixels(row.truth, asked), row.extra_info)
    return shown | {"answers": {}}


def scored(row: PreparedRow, asked: Asked, response: str) -> dict[str, Any]:
    """Return what the page shows of a complete response to a prepared question, with its reward."""
    prediction = Prediction("", 0, 0, response, json.loads(row.truth.to_json()), row.extra_info)
    scores = score_predictions([prediction], PRESET)[0].scores
    truth = json.loads(truth_in_pixels(row.truth, asked).to_json())
    in_pixels = Prediction("", 0, 0, asked.in_pixels(response), truth, row.extra_info, scores)
    return compared(in_pixels) | {"raw": response}
