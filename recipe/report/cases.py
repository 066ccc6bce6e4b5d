"""Choose the single questions of a report, and collect what the page shows of each."""

import base64
import functools
import io
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from data_prep.pictures import to_rgb8
from data_prep.rows.answers import split_choices
from recipe.evaluate.metrics import answer_correct
from recipe.evaluate.predictions import Prediction, read_images
from recipe.report.run_folder import RunFolder
from reward.boxes_in_text import Box, cited_groups
from reward.ground_truth import QUESTION_TYPES, BoxSpace, GroundTruth, normalise, place
from reward.grounding import iou_matrix
from reward.response import Region, cited_regions, parse_response
from reward.settings import COMPONENTS

PARTS = {name: name.replace("_", " ") for name in COMPONENTS} | {"mean_iou": "mean IoU"}
NOT_EMBEDDED = "images of patients are left out of the page; --images all puts them in"
# A page opens in about a second for every 15 MB, so many images are embedded in a smaller size.
# Maximum number of images, longest side in pixels, quality of WebP; about 25, 11 and 5 kB each.
_FORMS = ((150, 640, 75), (600, 384, 70))
_SMALLEST = (320, 60)
# The capital excludes full stops in numbers and boxes.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(*])|\n+")
Part = tuple[str, int]
"""A piece of text and the number of the region that it cites, -1 for none."""


@dataclass(frozen=True)
class Viewer:
    """The cases of a page."""

    models: dict[str, str]  # titles by key
    cases: list[dict[str, Any]]  # for JSON; the `image` of a case is a position in `images`
    images: list[str]  # data URIs
    left_out: int  # questions that are no case


def build_viewer(run: RunFolder, count: int, with_images: bool = True) -> Viewer | None:
    """Make the cases of a run; return None if it has no predictions or `count` is 0.

    A case without an image, because of `with_images` or a missing file, says why it has none.
    """
    if not run.greedy or not count:
        return None
    by_id = {model: {p.id: p for p in greedy} for model, greedy in run.greedy.items()}
    chosen = choose(run.greedy, count)
    *_, last = by_id.values()
    uris, images = _images(run, {last[key].index for key in chosen}, with_images)
    cases = []
    for key in chosen:
        case = _case({model: answers[key] for model, answers in by_id.items() if key in answers})
        image = images.get(last[key].index, "the question is not in data/test.parquet")
        case |= {"image": image} if isinstance(image, int) else {"image": -1, "no_image": image}
        cases.append(case)
    models = {key: run.titles[key] for key in run.greedy}
    return Viewer(models, cases, uris, len(last) - len(chosen))


def choose(greedy: Mapping[str, Sequence[Prediction]], count: int) -> list[str]:
    """Choose the ids of at most `count` questions, in the order of the last model's predictions.

    If there are more, each question type gets an equal share, drawn at random with a fixed seed,
    independent of the scores. The unused share of a rare type goes to the next type.
    """
    *_, last = greedy.values()
    if len(last) <= count:
        return [p.id for p in last]
    types: dict[str, list[str]] = {}
    for prediction in last:
        types.setdefault(prediction.question_type, []).append(prediction.id)
    rarest_first = sorted(
        (kind for kind in QUESTION_TYPES if kind in types), key=lambda kind: len(types[kind])
    )
    chosen: set[str] = set()
    for position, kind in enumerate(rarest_first):
        ids = sorted(types[kind])
        random.Random(f"0 {kind}").shuffle(ids)
        chosen |= set(ids[: (count - len(chosen)) // (len(rarest_first) - position)])
    return [p.id for p in last if p.id in chosen]


def _case(predictions: Mapping[str, Prediction]) -> dict[str, Any]:
    first = next(iter(predictions.values()))
    answers = {model: compared(prediction) for model, prediction in predictions.items()}
    return shown_question(first.id, first.truth, first.extra_info) | {"answers": answers}


def shown_question(
    identity: str, truth: GroundTruth, extra_info: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the page shows of a question and its reference."""
    question = str(extra_info.get("question", "(question not recorded)"))
    return {
        "id": identity,
        "kind": truth.question_type,
        "question": split_choices(question, truth.choices),
        "choices": truth.choices,
        "right": list(truth.answer) if truth.choices else [],
        "patient": str(extra_info.get("patient", "")),
        "findings": str(extra_info.get("findings") or ""),
        "size": list(truth.image_size),
        "answer": _answer_text(truth),
        "regions": _drawn(truth.regions, truth),
        "cited": _drawn(truth.think_regions, truth),
    }


def compared(prediction: Prediction) -> dict[str, Any]:
    """Return what the page shows of a scored response: `shown_response`, and how good it is."""
    truth = prediction.truth
    shown = shown_response(prediction.response, truth)
    response = parse_response(prediction.response)
    ious = iou_matrix(
        [box for _, box in place(response.regions, truth)],
        [box for _, box in truth.placed_regions],
    )
    # The matrix leaves out the boxes of a response beyond a limit.
    for region, row in zip(shown["regions"], ious, strict=False):
        region["iou"] = round(max(row, default=0.0), 3)
    return {
        "correct": _is_right(prediction),
        "score": round(prediction.scores["score"], 4),
        "parts": {k: round(prediction.scores[k], 4) for k in PARTS if k in prediction.scores},
        **shown,
    }


def _is_right(prediction: Prediction) -> bool:
    """Return whether the answer is right, or, where only boxes have a truth, all boxes are."""
    if prediction.scored == "boxes":
        return prediction.scores.get("iou_50", 0.0) == 1.0
    return answer_correct(prediction)


def shown_response(text: str, space: BoxSpace) -> dict[str, Any]:
    """Return what the page shows of any response: its parts, see `sentences` for `think`."""
    response = parse_response(text)
    think, cited = sentences(response.think or "")
    return {
        "answer": response.answer or "",
        "regions": _drawn(response.regions, space),
        "cited": _drawn(cited, space),
        "think": think,
        "raw": text,
    }


def _drawn(regions: Iterable[Region], space: BoxSpace) -> list[dict[str, Any]]:
    """Return regions with `at`: x, y, width, height in pixels of `space.image_size`, clipped to it.

    `text` is the box in the model's coordinates. An unreadable box has neither.
    """
    width, height = space.image_size
    drawn: list[dict[str, Any]] = []
    for region in regions:
        entry: dict[str, Any] = {"ref": region.ref}
        if region.box is not None:
            x1, y1, x2, y2 = normalise(region.box, space)
            sides = (x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height)
            entry["at"] = [round(side, 2) for side in sides]
            entry["text"] = f"[{', '.join(f'{value:g}' for value in region.box)}]"
        drawn.append(entry)
    return drawn


def _answer_text(truth: GroundTruth) -> str:
    letters = [truth.answer] if isinstance(truth.answer, str) else list(truth.answer)
    if not truth.choices:
        return ", ".join(letters)
    return "; ".join(f"{letter}: {truth.choices[letter]}" for letter in letters)


def sentences(text: str) -> tuple[list[tuple[Part, ...]], list[Region]]:
    """Split a reasoning into sentences, in order, and each sentence into parts.

    Returns:
        The sentences, and the distinct regions that their parts cite, in the order of first use.
    """
    regions: dict[Box, Region] = {}
    for region in cited_regions(text):
        if region.box is not None:
            regions.setdefault(region.box, region)
    numbers: dict[Box | None, int] = {box: number for number, box in enumerate(regions)}
    cited = [
        (group.start, group.end, numbers.get(region.box, -1))
        for group, region in zip(cited_groups(text), cited_regions(text), strict=True)
    ]
    ends = [(match.start(), match.end()) for match in _SENTENCE_END.finditer(text)]
    begin, split = 0, []
    for end, next_begin in [*ends, (len(text), len(text))]:
        if any(first < end < last for first, last, _ in cited):
            continue  # a line end within a box
        parts: list[Part] = []
        position = begin
        for first, last, number in cited:
            if begin <= first < end:
                parts += [(text[position:first], -1), (text[first:last], number)]
                position = last
        parts.append((text[position:end], -1))
        if sentence := tuple(part for part in parts if part[0]):
            split.append(sentence)
        begin = next_begin
    return split, list(regions.values())


class ImageMissing(Exception):
    """An image cannot be shown; the message says why."""


def _images(
    run: RunFolder, indices: set[int], with_images: bool
) -> tuple[list[str], dict[int, int | str]]:
    """Return data URIs of distinct images, and for each question a position or why it has none."""
    if not with_images:
        return [], dict.fromkeys(indices, NOT_EMBEDDED)
    if run.test is None:
        return [], dict.fromkeys(indices, "data/test.parquet is not there")
    images = read_images(run.test, indices)
    distinct = {_identity(image): image for image in images.values()}
    encode = functools.partial(
        _encode, folders=(run.path, run.test.parent), form=form_for(len(distinct))
    )
    uris: list[str] = []
    results: dict[Any, int | str] = {}
    with ThreadPoolExecutor() as pool:
        encoded = tqdm(
            pool.map(encode, distinct.values()),
            total=len(distinct),
            desc="images",
            unit="image",
            delay=2,
        )
        for identity, (uri, problem) in zip(distinct, encoded, strict=True):
            results[identity] = problem or len(uris)
            uris += [uri] if uri else []
    return uris, {index: results[_identity(image)] for index, image in images.items()}


def _encode(image: Any, folders: tuple[Path, ...], form: tuple[int, int]) -> tuple[str, str]:
    """Return the data URI of an image, or the reason why it has none."""
    try:
        return data_uri(image, folders, form), ""
    except ImageMissing as error:
        return "", str(error)


def form_for(count: int) -> tuple[int, int]:
    """Return the longest side in pixels and the quality for a page with `count` images."""
    fitting = (form for most, *form in _FORMS if count <= most)
    side, quality = next(fitting, _SMALLEST)
    return side, quality


def data_uri(image: Any, folders: tuple[Path, ...] = (), form: tuple[int, int] = _SMALLEST) -> str:
    """Encode an image as a WebP data URI, without enlarging it.

    It is a value of the rollout parquet's `images[].image`: a path, bytes, or a struct with `bytes`
    or `path`. A relative path is searched in `folders`. `form` is the longest side in pixels, and
    the quality from 0 to 100.

    Raises:
        ImageMissing: there is no such file, or it is not an image.
    """
    source, name = image_source(image, folders)
    try:
        with Image.open(source) as opened:
            opened.draft("RGB", (2 * form[0], 2 * form[0]))
            picture = to_rgb8(opened)
    except (OSError, Image.DecompressionBombError) as error:
        raise ImageMissing(f"{name} is not a readable image") from error
    return encode(picture, form)


def encode(picture: Image.Image, form: tuple[int, int]) -> str:
    """Return a data URI of a picture, which it makes smaller in place; see `data_uri`."""
    picture.thumbnail((form[0], form[0]))
    stream = io.BytesIO()
    # Method 1 takes a quarter of the default's time and makes 5 % more bytes.
    picture.save(stream, "WEBP", quality=form[1], method=1)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _identity(image: Any) -> Any:
    """Return a value that is equal for equal images."""
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    return image


def image_source(image: Any, folders: tuple[Path, ...]) -> tuple[io.BytesIO | Path, str]:
    """Return what Pillow opens for an image of `data_uri`, and its name in messages.

    Raises:
        ImageMissing: the row has no image, or there is no such file.
    """
    image = _identity(image)
    if isinstance(image, bytes):
        return io.BytesIO(image), "the embedded image"
    if not isinstance(image, str) or not image:
        raise ImageMissing("the row has no image")
    path = Path(image.removeprefix("file://"))
    for candidate in (path, *(folder / path for folder in folders)):
        if candidate.is_file():
            return candidate, str(path)
    raise ImageMissing(f"{path} does not exist")
