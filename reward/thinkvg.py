"""The reward of a grounded answer, in the form that verl calls: `compute_score`, and with an LLM
judge the asynchronous `compute_score_judged`; `score_many` has many of these in progress.

`score` is the weighted mean of five components in [0, 1]: `format` (the strict form),
`answer`, `grounding` (final boxes), `think_grounding` (boxes cited in the reasoning) and
`alignment` (reasoning and final answer agree). The rest are diagnostics.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from llm_client.server import missing_package
from reward.alignment import alignment_score
from reward.answers import answer_is_correct, answer_score
from reward.ground_truth import GroundTruth, place
from reward.grounding import (
    count_gate_score,
    dense_score,
    distinct,
    is_above,
    matched_ious,
    matched_share,
)
from reward.judge.settings import FailureWatch, JudgeFailing, JudgeSettings, check_ready
from reward.reasoning import Citation, citation_value, citations, distinct_citations
from reward.response import Region, Response, parse_response, whole_response
from reward.settings import COMPONENTS, Settings

SCORE_KEYS = (
    "score",
    *COMPONENTS,
    *("mean_iou", "iou_50", "iou_75", "box_count_match", "n_boxes", "n_think_boxes"),
    *("judge_used", "judge_failed", "response_chars"),
)
"""The keys of every result, in order."""

BLOCK = 256
"""Responses that count as one step of `judge.failed_window`."""

# The rollouts of a prompt share their ground truth.
_parse_json = lru_cache(maxsize=4096)(GroundTruth.parse)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str | Mapping[str, Any],
    extra_info: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, float]:
    """Score one response.

    Args:
        data_source: name of the data set; every set is scored alike.
        solution_str: the response, decoded.
        ground_truth: the row's ground truth, a JSON string or an object.
        extra_info: `response_prefix` is the part of the response that the prompt already holds,
            such as a `<think>` that the chat template opened: both together are scored.
        **kwargs: exactly a preset's `reward_kwargs` (see `reward.settings.Settings`).

    Returns:
        Finite floats under `SCORE_KEYS`, the same keys for any response.

    Raises:
        ValueError: a setting or the ground truth is wrong, named in one line.
    """
    settings = Settings.from_kwargs(kwargs)
    truth = _parse_truth(ground_truth)
    text = whole_response(solution_str, extra_info)
    return score_response(text, parse_response(text), truth, settings)


async def compute_score_judged(
    data_source: str,
    solution_str: str,
    ground_truth: str | Mapping[str, Any],
    extra_info: Mapping[str, Any] | None = None,
    *,
    reward_router_address: str | None = None,
    reward_model_tokenizer: Any = None,
    **kwargs: Any,
) -> dict[str, float]:
    """Score one response with an LLM judge for what rules cannot decide.

    Args:
        data_source: name of the data set; every set is scored alike.
        solution_str: the response, decoded.
        ground_truth: the row's ground truth, a JSON string or an object.
        extra_info: as for `compute_score`; `question` and, if there, `findings` go to the judge.
        reward_router_address: HOST:PORT of the judge that verl serves, if it does; used if
            `judge.base_url` is null.
        reward_model_tokenizer: not used, but passed by verl.
        **kwargs: a preset's `reward_kwargs`, with `judge` (see `reward.judge.settings`).

    Returns:
        What `compute_score` returns, with the judge's `answer` and `judge_used` 1. If the judge
        fails, the score without it and `judge_failed` 1.

    Raises:
        ValueError: a setting or the ground truth is wrong, or the extra `judge` is not installed.
    """
    judged_components = _import_judge()
    judge = JudgeSettings.from_kwargs(kwargs.pop("judge", None)).at(reward_router_address)
    settings = Settings.from_kwargs(kwargs)
    truth = _parse_truth(ground_truth)
    text = whole_response(solution_str, extra_info)
    response = parse_response(text)
    scores = score_response(text, response, truth, settings)
    scores |= await judged_components(response, truth, extra_info, scores["alignment"], judge)
    scores["score"] = weighted_mean(scores, settings)
    return scores


@dataclass(frozen=True)
class Item:
    """A response to score, as `compute_score` takes it."""

    response: str
    ground_truth: str | Mapping[str, Any]
    extra_info: Mapping[str, Any] | None = None


async def score_many(
    items: Iterable[Item], kwargs: Mapping[str, Any], data_source: str = "thinkvg"
) -> AsyncIterator[dict[str, float]]:
    """Yield the judged result of each item, in order.

    Items are read when they are needed: at most twice `judge.max_concurrency` ahead of the results.

    Raises:
        ValueError: a setting is wrong, or the item next in order.
        JudgeFailing: the judge fails too often, in some consecutive items or in all of them.
    """
    settings = check_ready(kwargs["judge"])
    from reward.judge.judge import close_judges  # needs the extra `judge`

    tally = _Tally(FailureWatch(settings))
    waiting: deque[asyncio.Task[dict[str, float]]] = deque()
    try:
        for item in items:
            scoring = compute_score_judged(
                data_source, item.response, item.ground_truth, item.extra_info, **kwargs
            )
            waiting.append(asyncio.create_task(scoring))
            if len(waiting) >= 2 * settings.max_concurrency:
                yield tally.count(await waiting.popleft())
        while waiting:
            yield tally.count(await waiting.popleft())
        tally.end_block(at_end=True)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await close_judges()


class _Tally:
    """Counts results in blocks, and raises JudgeFailing if too many of them failed."""

    def __init__(self, watch: FailureWatch) -> None:
        self._watch = watch
        self._asked = self._failed = 0

    def count(self, scores: dict[str, float]) -> dict[str, float]:
        self._asked += int(scores["judge_used"] + scores["judge_failed"])
        self._failed += int(scores["judge_failed"])
        if self._asked >= BLOCK:
            self.end_block()
        return scores

    def end_block(self, at_end: bool = False) -> None:
        self._watch.add(self._asked, self._failed)
        self._asked = self._failed = 0
        fault = self._watch.fault(at_end)
        if fault:
            raise JudgeFailing(fault)


def _import_judge() -> Callable[..., Any]:
    """Return the judge's function; scoring without a judge does not need its packages."""
    try:
        from reward.judge.judge import judged_components
    except ModuleNotFoundError as error:
        raise ValueError(missing_package(error.name)) from None
    return judged_components


def _parse_truth(ground_truth: str | Mapping[str, Any]) -> GroundTruth:
    parse = _parse_json if isinstance(ground_truth, str) else GroundTruth.parse
    return parse(ground_truth)


def score_response(
    text: str, response: Response, truth: GroundTruth, settings: Settings
) -> dict[str, float]:
    """Return every key of a result, without a judge; `response` is the parsed `text`."""
    final = place(response.regions, truth)
    cited = citations(response, truth)
    components = {
        "format": float(response.well_formed),
        "answer": _answer(response, truth, settings),
        "grounding": _grounding(final, truth, settings),
        "think_grounding": _think_grounding(cited, truth, settings),
        "alignment": alignment_score(response, final, cited, truth),
    }
    return {
        "score": weighted_mean(components, settings),
        **components,
        **_iou_diagnostics(final, truth),
        "box_count_match": float(len(final) == len(truth.regions)),
        "n_boxes": float(len(final)),
        "n_think_boxes": float(len(cited)),
        "judge_used": 0.0,
        "judge_failed": 0.0,
        "response_chars": float(len(text)),
    }


def weighted_mean(components: Mapping[str, float], settings: Settings) -> float:
    """Return the score: the mean of the components under the settings' weights."""
    weights = settings.weights
    total = sum(weight * components[name] for name, weight in weights.items())
    return total / sum(weights.values())


def _answer(response: Response, truth: GroundTruth, settings: Settings) -> float:
    if settings.answer_rule == "paper":
        return float(answer_is_correct(response.answer, truth, settings.open_threshold))
    return answer_score(response.answer, truth, settings.multi_partial)


def _grounding(final: Sequence[Region], truth: GroundTruth, settings: Settings) -> float:
    if settings.grounding_rule == "paper":
        return count_gate_score(final, truth.placed_regions, settings.iou_threshold)
    return dense_score(final, truth.placed_regions)


def _think_grounding(cited: Sequence[Citation], truth: GroundTruth, settings: Settings) -> float:
    if settings.grounding_rule == "paper":
        regions = distinct([citation.region for citation in cited])
        return count_gate_score(regions, truth.cited_regions, settings.iou_threshold)
    return matched_share(distinct_citations(cited), truth.cited_regions, citation_value)


def _iou_diagnostics(final: Sequence[Region], truth: GroundTruth) -> dict[str, float]:
    """Return means over the larger number of boxes, 1 if there are none on either side."""
    reference = [box for _, box in truth.placed_regions]
    ious = matched_ious([box for _, box in final], reference) or [1.0]
    return {
        "mean_iou": sum(ious) / len(ious),
        "iou_50": sum(is_above(iou, 0.5) for iou in ious) / len(ious),
        "iou_75": sum(is_above(iou, 0.75) for iou in ious) / len(ious),
    }
