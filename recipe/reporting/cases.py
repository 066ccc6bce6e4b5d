"""Single questions for the reader to look at: which ones, and all that is shown of each.

What is built here is what the page's script reads, as JSON (`templates/viewer.js`).
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recipe.evaluation.metrics import QUESTION_TYPES, answer_correct
from recipe.evaluation.predictions import Prediction
from recipe.evaluation.questions import read_images
from recipe.reporting.images import Embedded, embed
from recipe.reporting.run_folder import RunFolder
from recipe.reporting.sentences import Numbered, sentences
from reward.boxes import iou_matrix
from reward.ground_truth import GroundTruth, normalise, place
from reward.response import Region, parse_response
from reward.settings import COMPONENTS

PARTS = {name: name.replace("_", " ") for name in COMPONENTS} | {"mean_iou": "mean IoU"}
NOT_EMBEDDED = "images of patients are left out of the page; --images all puts them in"


@dataclass(frozen=True)
class Viewer:
    """The cases of a page.

    `cases` are plain objects for JSON, `images` the data URIs that their `image` counts in, and
    `models` the models with answers: key -> title.
    """

    models: dict[str, str]
    cases: list[dict[str, Any]]
    images: tuple[str, ...]
    left_out: int

    def to_json(self) -> dict[str, Any]:
        """What the script needs before it shows anything; the images come apart."""
        return {"models": self.models, "parts": PARTS, "cases": self.cases}


def choose(greedy: Mapping[str, Sequence[Prediction]], count: int, seed: int = 0) -> list[str]:
    """The ids of at most `count` questions, in the order of the last model's predictions.

    All where there are no more. Else each type gets an equal share, drawn at random with a fixed
    seed, never by how well they went; what a type leaves of its share goes to the next.
    """
    *_, last = greedy.values()
    if len(last) <= count:
        return [p.id for p in last]
    types: dict[str, list[str]] = {}
    for prediction in last:
        types.setdefault(prediction.question_type, []).append(prediction.id)
    present = sorted(
        (kind for kind in QUESTION_TYPES if kind in types), key=lambda kind: len(types[kind])
    )
    picked: set[str] = set()
    for position, kind in enumerate(present):
        ids = sorted(types[kind])
        random.Random(f"{seed} {kind}").shuffle(ids)
        picked |= set(ids[: (count - len(picked)) // (len(present) - position)])
    return [p.id for p in last if p.id in picked]


def build_viewer(run: RunFolder, count: int, with_images: bool = True) -> Viewer | None:
    """The cases of a run; None where it has no predictions or none are wanted.

    Without images (`with_images`), or where one is missing, a case says why it has none.
    """
    if not run.greedy or not count:
        return None
    by_id = {model: {p.id: p for p in found} for model, found in run.greedy.items()}
    picked = choose(run.greedy, count)
    *_, any_model = by_id.values()
    indices = {key: any_model[key].index for key in picked}
    shown = _images(run, set(indices.values()), with_images)
    cases = []
    for key in picked:
        answered = {model: found[key] for model, found in by_id.items() if key in found}
        case = _case(answered)
        index = indices[key]
        case["image"] = shown.places.get(index, -1)
        if index not in shown.places:
            case["no_image"] = shown.problems.get(index, "the question is not in data/test.parquet")
        cases.append(case)
    models = {key: run.titles[key] for key in run.greedy}
    return Viewer(models, cases, shown.uris, len(any_model) - len(picked))


def _images(run: RunFolder, indices: set[int], with_images: bool) -> Embedded:
    if not with_images:
        return Embedded((), {}, dict.fromkeys(indices, NOT_EMBEDDED))
    if run.test is None:
        return Embedded((), {}, dict.fromkeys(indices, "data/test.parquet is not there"))
    return embed(read_images(run.test, indices), (run.path, run.test.parent))


def _case(predictions: Mapping[str, Prediction]) -> dict[str, Any]:
    any_prediction = next(iter(predictions.values()))
    truth = GroundTruth.parse(any_prediction.ground_truth)
    extra = any_prediction.extra_info
    question = str(extra.get("question", "(question not recorded)"))
    return {
        "id": any_prediction.id,
        "kind": truth.question_type,
        "question": question.split("<choices>")[0].strip() if truth.choices else question,
        "choices": truth.choices,
        "right": list(truth.answer) if truth.choices else [],
        "patient": str(extra.get("patient", "")),
        "findings": str(extra.get("findings") or ""),
        "size": list(truth.image_size),
        "answer": _answer_text(truth),
        "regions": _drawn(truth.regions, truth),
        "cited": _drawn(truth.think_regions, truth),
        "answers": {model: _answered(p, truth) for model, p in predictions.items()},
    }


def _answered(prediction: Prediction, truth: GroundTruth) -> dict[str, Any]:
    """One model's response to the question.

    `think` is a list of sentences, each a list of (text, place in `cited` or -1).
    """
    response = parse_response(prediction.response)
    numbered = Numbered()
    think = sentences(response.think or "", numbered)
    regions = _drawn(response.regions, truth)
    ious = iou_matrix(
        [box for _, box in place(response.regions, truth)],
        [box for _, box in truth.placed_regions],
    )
    # A response with absurdly many boxes has fewer rows than boxes.
    for region, row in zip(regions, ious, strict=False):
        region["iou"] = round(max(row, default=0.0), 3)
    return {
        "correct": answer_correct(prediction),
        "score": round(prediction.scores["score"], 4),
        "parts": {n: round(prediction.scores[n], 4) for n in PARTS if n in prediction.scores},
        "answer": response.answer or "",
        "regions": regions,
        "cited": _drawn(numbered.regions, truth),
        "think": think,
        "raw": prediction.response,
    }


def _drawn(regions: Iterable[Region], truth: GroundTruth) -> list[dict[str, Any]]:
    """Regions with `at`: x, y, width, height in pixels of `truth.image_size`, clipped to it.

    An unreadable box has no `at`. `text` is the box in the model's own coordinates.
    """
    width, height = truth.image_size
    drawn: list[dict[str, Any]] = []
    for region in regions:
        entry: dict[str, Any] = {"ref": region.ref}
        if region.box is not None:
            x1, y1, x2, y2 = normalise(region.box, truth)
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
