"""Single questions for the reader to look at: which ones, and all that is shown of each."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from recipe.evaluation.metrics import QUESTION_TYPES, answer_correct
from recipe.evaluation.predictions import Prediction
from recipe.evaluation.questions import read_images
from recipe.reporting.images import ImageMissing, data_uri
from recipe.reporting.run_folder import MODELS, RunFolder
from reward.ground_truth import GroundTruth, normalise
from reward.response import Region, parse_response
from reward.settings import COMPONENTS

AT_RANDOM, MOST_GAINED, MOST_LOST = "drawn at random", "most gained", "most lost"
_PARTS = {name: name.replace("_", " ") for name in COMPONENTS} | {"mean_iou": "mean IoU"}


@dataclass(frozen=True)
class DrawnBox:
    """A box in pixels of the drawing (origin top-left); `layer` names its colour."""

    layer: str
    ref: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Answered:
    """One model's response to the question."""

    model: str
    think: str
    answer: str
    regions: str
    raw: str
    correct: bool
    score: float
    parts: Mapping[str, float]


@dataclass(frozen=True)
class Case:
    """One question with its reference, its image and every model's response."""

    id: str
    question_type: str
    chosen: str
    question: str
    truth_answer: str
    truth_regions: str
    width: int
    height: int
    image: str | None
    no_image: str
    boxes: tuple[DrawnBox, ...]
    answers: tuple[Answered, ...]


def choose(
    greedy: Mapping[str, Sequence[Prediction]], count: int, seed: int = 0
) -> list[tuple[str, str]]:
    """Pick questions: (id, why it was picked), by question type.

    Each type gets an equal share of `count`. With two models, one case of a type is where the
    reward gained most and one where it lost most from the first to the second; all others are
    drawn at random with a fixed seed, never by how well they went.
    """
    results = list(greedy.values())
    first, last = results[0], results[-1]
    before, after = _rewards(first), _rewards(last)
    types = {p.id: p.question_type for p in last if p.id in before}
    present = [kind for kind in QUESTION_TYPES if kind in types.values()]
    picked: list[tuple[str, str]] = []
    for position, kind in enumerate(present):
        share = count // len(present) + (position < count % len(present))
        ids = sorted(key for key, value in types.items() if value == kind)
        chosen: dict[str, str] = {}
        if len(greedy) > 1 and share > 2:
            change = {key: after[key] - before[key] for key in ids}
            best, worst = max(ids, key=change.__getitem__), min(ids, key=change.__getitem__)
            if change[best] > 0:
                chosen[best] = MOST_GAINED
            if change[worst] < 0:
                chosen[worst] = MOST_LOST
        others = [key for key in ids if key not in chosen]
        random.Random(f"{seed} {kind}").shuffle(others)
        chosen |= dict.fromkeys(others[: max(0, share - len(chosen))], AT_RANDOM)
        picked += sorted(chosen.items(), key=lambda item: item[1])
    return picked


def build_cases(run: RunFolder, count: int) -> list[Case]:
    """The cases of a run, none where it has no predictions."""
    if not run.greedy:
        return []
    models = {MODELS[name]: predictions for name, predictions in run.greedy.items()}
    by_id = {model: {p.id: p for p in predictions} for model, predictions in models.items()}
    picked = choose(models, count)
    any_model = list(by_id.values())[-1]
    images = {}
    if run.test is not None:
        images = read_images(run.test, {any_model[key].index for key, _ in picked})
    folders = (run.path, run.path / "data")
    cases = []
    for key, why in picked:
        uri, problem = None, "data/test.parquet is not there"
        if run.test is not None:
            try:
                uri = data_uri(images.get(any_model[key].index), folders)
            except ImageMissing as error:
                problem = str(error)
        answered = {model: found[key] for model, found in by_id.items() if key in found}
        cases.append(_case(why, answered, uri, problem))
    return cases


def _case(
    why: str, predictions: Mapping[str, Prediction], image: str | None, no_image: str
) -> Case:
    any_prediction = next(iter(predictions.values()))
    truth = GroundTruth.parse(any_prediction.ground_truth)
    boxes = [
        *_drawn("reasoning", truth.think_regions, truth),
        *_drawn("truth", truth.regions, truth),
    ]
    answers = []
    for model, prediction in predictions.items():
        response = parse_response(prediction.response)
        boxes += _drawn(model.lower(), response.regions, truth)
        answers.append(
            Answered(
                model=model,
                think=response.think or "",
                answer=response.answer or "",
                regions=_region_text(response.regions),
                raw=prediction.response,
                correct=answer_correct(prediction),
                score=prediction.scores["score"],
                parts={
                    title: prediction.scores[name]
                    for name, title in _PARTS.items()
                    if name in prediction.scores
                },
            )
        )
    width, height = truth.image_size
    return Case(
        id=any_prediction.id,
        question_type=truth.question_type,
        chosen=why,
        question=str(any_prediction.extra_info.get("question", "(question not recorded)")),
        truth_answer=_answer_text(truth),
        truth_regions=_region_text(truth.regions) or "none",
        width=width,
        height=height,
        image=image,
        no_image=no_image,
        boxes=tuple(boxes),
        answers=tuple(answers),
    )


def _rewards(predictions: Iterable[Prediction]) -> dict[str, float]:
    return {p.id: p.scores["score"] for p in predictions}


def _drawn(layer: str, regions: Iterable[Region], truth: GroundTruth) -> list[DrawnBox]:
    """Boxes in pixels of `truth.image_size`, clipped to it; unreadable boxes are not drawn."""
    width, height = truth.image_size
    drawn = []
    for region in regions:
        if region.box is None:
            continue
        x1, y1, x2, y2 = normalise(region.box, truth)
        drawn.append(
            DrawnBox(
                layer,
                region.ref,
                round(x1 * width, 2),
                round(y1 * height, 2),
                round((x2 - x1) * width, 2),
                round((y2 - y1) * height, 2),
            )
        )
    return drawn


def _region_text(regions: Iterable[Region]) -> str:
    return "; ".join(
        f"{region.ref or 'unnamed'} "
        + (f"[{', '.join(f'{v:g}' for v in region.box)}]" if region.box else "(unreadable box)")
        for region in regions
    )


def _answer_text(truth: GroundTruth) -> str:
    letters = [truth.answer] if isinstance(truth.answer, str) else list(truth.answer)
    if not truth.choices:
        return ", ".join(letters)
    return "; ".join(f"{letter}: {truth.choices[letter]}" for letter in letters)
