"""AR-score: what an LLM judge thinks of answer and reasoning together.

GEMeX's AR-score is an LLM's grade of answer and reason; its prompt and scale are not published.
Here the reward's judge grades response and reference from 1 to 10 in one call, with the reasoning,
for all question types, and the AR-score is the response's grade as a share of the reference's, 1 at
most.
"""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from recipe.errors import InputError
from recipe.evaluation.metrics import AR_SCORE
from recipe.evaluation.predictions import Prediction
from reward.ground_truth import QUESTION_TYPES
from reward.judge.faults import JudgeFault
from reward.judge.ready import check_ready
from reward.judge.settings import JudgeSettings
from reward.presets import load_preset
from reward.response import parse_response

PRESET = "paper_judge"
AR_FAILED = "ar_failed"


def ar_settings(judge: Mapping[str, Any]) -> JudgeSettings:
    """The judge's settings for the AR-score; `judge` replaces those of `PRESET`.

    Raises:
        InputError: a wrong setting, or a judge that cannot be asked.
    """
    all_types = {"question_types": list(QUESTION_TYPES), "reasoning": True, "alignment": False}
    try:
        return check_ready(load_preset(PRESET, {**judge, **all_types})["judge"])
    except ValueError as error:
        raise InputError(f"ar_score: {error}") from error


def add_ar_scores(predictions: Sequence[Prediction], judge: Mapping[str, Any]) -> list[Prediction]:
    """The same predictions with the score `ar_score` (0..1), or `ar_failed` where none was given.

    A response without an answer gets 0 and is not sent.

    Raises:
        InputError: a wrong setting, or more than `judge.max_failed_share` of the answers failed.
    """
    settings = ar_settings(judge)
    scores = asyncio.run(_ask_all(predictions, settings))
    failed = sum(score is None for score in scores)
    if failed > settings.max_failed_share * len(scores):
        raise InputError(
            f"ar_score: the judge failed on {failed} of {len(scores)} responses, more than "
            "judge.max_failed_share; its own log says why"
        )
    return [
        dataclasses.replace(
            prediction,
            scores={
                **{k: v for k, v in prediction.scores.items() if k not in (AR_SCORE, AR_FAILED)},
                **({AR_FAILED: 1.0} if score is None else {AR_SCORE: score}),
            },
        )
        for prediction, score in zip(predictions, scores, strict=True)
    ]


async def _ask_all(
    predictions: Sequence[Prediction], settings: JudgeSettings
) -> list[float | None]:
    from reward.judge.sessions import close_judges  # needs the extra `judge`

    # A few tasks for each slot: waiting ones hold their texts.
    waiting = asyncio.Semaphore(2 * settings.max_concurrency)
    with tqdm(total=len(predictions), desc="judging", unit="response") as progress:

        async def one(prediction: Prediction) -> float | None:
            async with waiting:
                score = await _ask(prediction, settings)
            progress.update()
            return score

        try:
            return list(await asyncio.gather(*(one(prediction) for prediction in predictions)))
        finally:
            await close_judges()


async def _ask(prediction: Prediction, settings: JudgeSettings) -> float | None:
    from reward.judge.prompt import make_case
    from reward.judge.sessions import judge_for

    response = parse_response(prediction.response)
    if not (response.answer or "").strip():
        return 0.0
    case = make_case(response, prediction.truth, prediction.extra_info, with_reasoning=True)
    try:
        verdict = await judge_for(settings).ask(case)
    except JudgeFault:
        return None
    return min(verdict.candidate / verdict.reference, 1.0)
