"""The predictions file: JSON lines, one for each (question, sample)."""

import asyncio
import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recipe.errors import InputError
from recipe.evaluation.files import write_text_atomically
from reward.ground_truth import GroundTruth
from reward.judge.failures import JudgeFailing
from reward.presets import is_judged, load_preset
from reward.thinkvg import compute_score

DATA_SOURCE = "thinkvg"
_TYPES: dict[str, type] = {
    "id": str,
    "index": int,
    "sample": int,
    "response": str,
    "ground_truth": dict,
    "extra_info": dict,
    "scores": dict,
}


@dataclass(frozen=True)
class Prediction:
    """One generated response to one question of the rollout parquet.

    `index` is the row's `extra_info.index`; `sample` is 0 for greedy decoding and counts from 0
    for samples. Boxes in `response` and `ground_truth` are in the model's own coordinates.
    `scores` holds what `reward.thinkvg.compute_score` returns, or nothing before scoring.
    """

    id: str
    index: int
    sample: int
    response: str
    ground_truth: Mapping[str, Any]
    extra_info: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def question_type(self) -> str:
        """`closed`, `single`, `multi` or `open`."""
        return str(self.ground_truth["question_type"])

    @cached_property
    def truth(self) -> GroundTruth:
        """`ground_truth`, read."""
        return GroundTruth.parse(self.ground_truth)

    @property
    def patient(self) -> str:
        """Whom the question is about; the question itself where the data does not say."""
        return str(self.extra_info.get("patient") or self.id)


def read_predictions(path: str | Path) -> list[Prediction]:
    """Read a predictions file.

    Raises:
        InputError: the file is missing or empty, a line is not what `write_predictions` writes,
            or the same (id, sample) comes twice; the message names the file and the line.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such predictions file")
    predictions: list[Prediction] = []
    seen: dict[tuple[str, int], int] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            prediction = _parse_line(line, f"{path}:{number}")
            key = (prediction.id, prediction.sample)
            if key in seen:
                raise InputError(
                    f"{path}:{number}: id {prediction.id!r} sample {prediction.sample} "
                    f"is already on line {seen[key]}"
                )
            seen[key] = number
            predictions.append(prediction)
    if not predictions:
        raise InputError(f"{path}: no predictions in the file")
    return predictions


def write_predictions(path: str | Path, predictions: Iterable[Prediction]) -> None:
    """Write a predictions file; it appears under its name only when whole."""
    lines = [
        json.dumps(dataclasses.asdict(p), ensure_ascii=False, allow_nan=False) for p in predictions
    ]
    write_text_atomically(Path(path), "".join(line + "\n" for line in lines))


def score_predictions(
    predictions: Sequence[Prediction], preset: str = "dense", judge: Mapping[str, Any] | None = None
) -> list[Prediction]:
    """The same predictions with `scores` filled under a reward preset.

    `judge` replaces settings of a judged preset.

    Raises:
        InputError: the judge failed for too many of them.
    """
    kwargs = load_preset(preset, judge)
    if is_judged(kwargs):
        results = asyncio.run(_judged(predictions, kwargs))
    else:
        results = [
            compute_score(DATA_SOURCE, p.response, p.ground_truth, p.extra_info, **kwargs)
            for p in predictions
        ]
    return [
        dataclasses.replace(prediction, scores=scores)
        for prediction, scores in zip(predictions, results, strict=True)
    ]


async def _judged(
    predictions: Sequence[Prediction], kwargs: Mapping[str, Any]
) -> list[dict[str, float]]:
    from reward.judge.many import Item, score_many  # needs the extra `judge`

    items = (Item(p.response, p.ground_truth, p.extra_info) for p in predictions)
    with tqdm(total=len(predictions), desc="judging", unit="response", delay=2) as progress:
        results = []
        try:
            async for scores in score_many(items, kwargs, DATA_SOURCE):
                results.append(scores)
                progress.update()
        except JudgeFailing as error:
            raise InputError(str(error)) from error
    return results


def _parse_line(line: str, where: str) -> Prediction:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error.msg})") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: not a JSON object")
    for key, kind in _TYPES.items():
        if key not in row:
            raise InputError(f'{where}: key "{key}" is missing')
        if not isinstance(row[key], kind) or isinstance(row[key], bool):
            raise InputError(f'{where}: key "{key}" is not of type {kind.__name__}')
    if unknown := set(row) - set(_TYPES):
        raise InputError(f"{where}: unknown key {min(unknown)!r}")
    for name, value in row["scores"].items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise InputError(f'{where}: score "{name}" is not a finite number')
    try:
        GroundTruth.parse(row["ground_truth"])
    except ValueError as error:
        raise InputError(f"{where}: ground_truth: {error}") from error
    return Prediction(**row)
