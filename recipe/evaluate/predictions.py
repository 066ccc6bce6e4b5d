"""Questions of a rollout parquet, and files of predictions on them: read, written and scored.

A predictions file has lines of JSON, one for each (question, sample). Scores are those of a reward
preset, and the AR-score. GEMeX's AR-score is an LLM's grade of answer
and reasoning together; its prompt and scale are not published. Here the reward's judge grades
response and reference from 1 to 10 in one call, with the reasoning, for all question types, and the
AR-score is the response's grade as a share of the reference's, 1 at most.
"""

import asyncio
import dataclasses
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.lib import ArrowInvalid
from pydantic import ConfigDict, FiniteFloat, TypeAdapter, ValidationError
from tqdm.asyncio import tqdm

from data_prep.program import InputError, write_whole
from reward.ground_truth import QUESTION_TYPES, GroundTruth
from reward.judge.settings import JudgeFailing, JudgeSettings, check_ready
from reward.response import parse_response
from reward.settings import is_judged, load_preset
from reward.thinkvg import compute_score


@dataclass(frozen=True)
class Question:
    """A row of a rollout parquet; `index` is its `extra_info.index`."""

    index: int
    ground_truth: GroundTruth
    scored: str = "both"  # see `scored_part`


def read_questions(path: str | Path) -> list[Question]:
    """Read the questions of a split, in file order.

    Raises:
        InputError: the file cannot be read, a column is missing, or a row has no valid ground
            truth; names the file and the row.
    """
    path = Path(path)
    rows = read_columns(path, ("reward_model", "extra_info"))
    questions = []
    for number, (model, extra) in enumerate(
        zip(rows["reward_model"], rows["extra_info"], strict=True)
    ):
        where = f"{path}: row {number}"
        try:
            truth = GroundTruth.parse(model["ground_truth"])
        except (KeyError, TypeError) as error:
            raise InputError(f'{where}: column "reward_model" has no "ground_truth"') from error
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error
        questions.append(Question(_index(extra, where), truth, scored_part(extra)))
    if not questions:
        raise InputError(f"{path}: the split is empty")
    if len({q.index for q in questions}) != len(questions):
        raise InputError(f'{path}: column "extra_info" has the same "index" in several rows')
    return questions


def scored_part(extra_info: Mapping[str, Any]) -> str:
    """Return what a question has a truth for: "answer", "boxes" or "both".

    Questions of external sets (`data_prep.external`) often have one of the two only.
    """
    return str(extra_info.get("scored") or "both")


def read_images(path: str | Path, indices: Collection[int]) -> dict[int, Any]:
    """Read the first `image` (path, bytes or struct with them) of the rows with these indices.

    Only those rows become Python objects, since images may be embedded.

    Raises:
        InputError: a row has no image.
    """
    path = Path(path)
    extras = read_columns(path, ("extra_info",))["extra_info"]
    rows = {_index(extra, f"{path}: row {number}"): number for number, extra in enumerate(extras)}
    present = sorted(set(indices) & rows.keys())
    lists = read_columns(path, ("images",), [rows[index] for index in present])["images"]
    first_images = {}
    for index, images in zip(present, lists, strict=True):
        # --embed-images of data_prep.thinkvg writes bytes
        image = images and (images[0].get("image") or images[0].get("bytes"))
        if not image:
            raise InputError(f'{path}: row {rows[index]}: column "images" has no "image"')
        first_images[index] = image
    return first_images


def read_columns(
    path: Path, columns: Collection[str], rows: list[int] | None = None
) -> dict[str, list[Any]]:
    """Read columns of a parquet file as Python lists, with all rows or only `rows`.

    Raises:
        InputError: the file is missing, is no parquet file or lacks a column.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such parquet file")
    try:
        names = pq.read_schema(path).names
        for column in columns:
            if column not in names:
                raise InputError(f'{path}: column "{column}" is missing')
        table = pq.read_table(path, columns=list(columns))
    except ArrowInvalid as error:
        raise InputError(f"{path}: not a readable parquet file") from error
    if rows is not None:
        table = table.take(pa.array(rows, pa.int64()))
    return {column: table.column(column).to_pylist() for column in columns}


def _index(extra: Any, where: str) -> int:
    if not isinstance(extra, dict) or not isinstance(extra.get("index"), int):
        raise InputError(f'{where}: column "extra_info" has no whole number "index"')
    return int(extra["index"])


DATA_SOURCE = "thinkvg"
AR_SCORE = "ar_score"
AR_FAILED = "ar_failed"
AR_PRESET = "paper_judge"


@dataclass(frozen=True)
class Prediction:
    """One generated response to one question of the rollout parquet."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    id: str
    index: int  # the row's `extra_info.index`
    sample: int  # from 0, which is also greedy decoding
    # complete, with a `<think>` of the chat template; boxes in the model's coordinates
    response: str
    ground_truth: dict[str, Any]
    extra_info: dict[str, Any] = field(default_factory=dict)
    # of `reward.thinkvg.compute_score`; empty before scoring
    scores: dict[str, FiniteFloat] = field(default_factory=dict)
    is_cut: bool = False  # whether `data.max_response_length` ended it

    @property
    def question_type(self) -> str:
        """`closed`, `single`, `multi` or `open`."""
        return str(self.ground_truth["question_type"])

    @cached_property
    def truth(self) -> GroundTruth:
        return GroundTruth.parse(self.ground_truth)

    @property
    def scored(self) -> str:
        return scored_part(self.extra_info)

    @property
    def question(self) -> Question:
        return Question(self.index, self.truth, self.scored)

    @property
    def patient(self) -> str:
        """The patient of the question; the question's id if the data names none."""
        return str(self.extra_info.get("patient") or self.id)


_PREDICTION = TypeAdapter(Prediction)


def read_predictions(path: str | Path) -> list[Prediction]:
    """Read a predictions file.

    Raises:
        InputError: the file is missing or empty, a line is not what `write_predictions` writes,
            or an (id, sample) is repeated; the message names the file and the line.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such predictions file")
    predictions: list[Prediction] = []
    first_lines: dict[tuple[str, int], int] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            prediction = _parse_line(line, f"{path}:{number}")
            key = (prediction.id, prediction.sample)
            if key in first_lines:
                raise InputError(
                    f"{path}:{number}: id {prediction.id!r} sample {prediction.sample} "
                    f"is already on line {first_lines[key]}"
                )
            first_lines[key] = number
            predictions.append(prediction)
    if not predictions:
        raise InputError(f"{path}: no predictions in the file")
    return predictions


def _parse_line(line: str, where: str) -> Prediction:
    try:
        prediction = _PREDICTION.validate_json(line)
    except ValidationError as error:
        raise InputError(f"{where}: {first_fault(error)}") from error
    try:
        _ = prediction.truth
    except ValueError as error:
        raise InputError(f"{where}: ground_truth: {error}") from error
    return prediction


def first_fault(error: ValidationError) -> str:
    """Return the first fault that pydantic reports: the key and what is wrong with it."""
    fault = error.errors(include_url=False)[0]
    key = ".".join(map(str, fault["loc"]))
    message = fault["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


def write_predictions(path: str | Path, predictions: Iterable[Prediction]) -> None:
    """Write a predictions file; it gets its name only when it is complete."""
    lines = [
        json.dumps(dataclasses.asdict(p), ensure_ascii=False, allow_nan=False) for p in predictions
    ]
    write_whole(Path(path), "".join(line + "\n" for line in lines))


def score_predictions(
    predictions: Sequence[Prediction], preset: str = "dense", judge: Mapping[str, Any] | None = None
) -> list[Prediction]:
    """Return the predictions with scores of a preset; `judge` replaces settings of its judge.

    Raises:
        InputError: the judge failed for too many of them.
    """
    kwargs = load_preset(preset, judge)
    if is_judged(kwargs):
        scores = asyncio.run(_judged_scores(predictions, kwargs))
    else:
        scores = [
            compute_score(DATA_SOURCE, p.response, p.ground_truth, p.extra_info, **kwargs)
            for p in predictions
        ]
    return [dataclasses.replace(p, scores=s) for p, s in zip(predictions, scores, strict=True)]


async def _judged_scores(
    predictions: Sequence[Prediction], kwargs: Mapping[str, Any]
) -> list[dict[str, float]]:
    from reward.thinkvg import Item, score_many  # needs the extra `judge`

    items = (Item(p.response, p.ground_truth, p.extra_info) for p in predictions)
    scores = score_many(items, kwargs, DATA_SOURCE)
    progress = tqdm(scores, total=len(predictions), desc="judging", unit="response", delay=2)
    try:
        return [score async for score in progress]
    except JudgeFailing as error:
        raise InputError(str(error)) from error


def ar_settings(judge: Mapping[str, Any]) -> JudgeSettings:
    """Return the settings of the judge for the AR-score; `judge` replaces those of `AR_PRESET`.

    Raises:
        InputError: a wrong setting, or a judge that cannot be asked.
    """
    all_types = {"question_types": list(QUESTION_TYPES), "reasoning": True, "alignment": False}
    try:
        return check_ready(load_preset(AR_PRESET, {**judge, **all_types})["judge"])
    except ValueError as error:
        raise InputError(f"ar_score: {error}") from error


def add_ar_scores(predictions: Sequence[Prediction], judge: Mapping[str, Any]) -> list[Prediction]:
    """Add the score `ar_score` (0..1), or `ar_failed` if the judge gave none.

    A response without an answer gets 0 and is not sent.

    Raises:
        InputError: a wrong setting, or more than `judge.max_failed_share` of the answers failed.
    """
    settings = ar_settings(judge)
    grades = asyncio.run(_ar_scores(predictions, settings))
    failed = sum(grade is None for grade in grades)
    if failed > settings.max_failed_share * len(grades):
        raise InputError(
            f"ar_score: the judge failed on {failed} of {len(grades)} responses, more than "
            "judge.max_failed_share; its own log says why"
        )
    scored = []
    for prediction, grade in zip(predictions, grades, strict=True):
        scores = {k: v for k, v in prediction.scores.items() if k not in (AR_SCORE, AR_FAILED)}
        scores |= {AR_FAILED: 1.0} if grade is None else {AR_SCORE: grade}
        scored.append(dataclasses.replace(prediction, scores=scores))
    return scored


async def _ar_scores(
    predictions: Sequence[Prediction], settings: JudgeSettings
) -> list[float | None]:
    from reward.judge.judge import close_judges  # needs the extra `judge`

    # Bounds the prompts that are in memory while they wait for the judge.
    slots = asyncio.Semaphore(2 * settings.max_concurrency)

    async def grade(prediction: Prediction) -> float | None:
        async with slots:
            return await _ar_score(prediction, settings)

    try:
        return await tqdm.gather(*map(grade, predictions), desc="judging", unit="response")
    finally:
        await close_judges()


async def _ar_score(prediction: Prediction, settings: JudgeSettings) -> float | None:
    from llm_client.server import ServerFault
    from reward.judge.judge import judge_for
    from reward.judge.prompt import make_case

    response = parse_response(prediction.response)
    if not (response.answer or "").strip():
        return 0.0
    case = make_case(response, prediction.truth, prediction.extra_info, with_reasoning=True)
    try:
        verdict = await judge_for(settings).ask(case)
    except ServerFault:
        return None
    return min(verdict.candidate / verdict.reference, 1.0)
