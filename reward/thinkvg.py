"""The reward of a grounded answer, in the form that verl calls: `compute_score`, and with an LLM
judge the asynchronous `compute_score_judged`.

`score` is the weighted mean of five components in [0, 1]: `format` (the strict form),
`answer`, `grounding` (final boxes), `think_grounding` (boxes cited in the reasoning) and
`alignment` (reasoning and final answer agree). The rest are diagnostics.
"""

from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from typing import Any

# Half a second that `reward.boxes` would else take within the first response that needs it.
import scipy.optimize  # noqa: F401

from reward.components import SCORE_KEYS, score_response, weighted_mean
from reward.ground_truth import GroundTruth
from reward.judge.ready import missing_package
from reward.response import parse_response
from reward.settings import Settings

__all__ = ["SCORE_KEYS", "compute_score", "compute_score_judged"]


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
        extra_info: not looked at without a judge.
        **kwargs: exactly a preset's `reward_kwargs` (see `reward.settings.Settings`).

    Returns:
        Finite floats under `SCORE_KEYS`, the same keys for any response.

    Raises:
        ValueError: a setting or the ground truth is wrong, named in one line.
    """
    settings, truth = _settings(kwargs), _truth(ground_truth)
    return score_response(solution_str, parse_response(solution_str), truth, settings)


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
        data_source, solution_str, ground_truth: as for `compute_score`.
        extra_info: `question` and, where the data has them, `findings` go into the prompt.
        reward_router_address: HOST:PORT of the judge that verl serves, where it does; used where
            `judge.base_url` is null.
        reward_model_tokenizer: what verl passes along with it; not needed.
        **kwargs: a preset's `reward_kwargs`, with `judge` (see `reward.judge.settings`).

    Returns:
        What `compute_score` returns, with the judge's `answer` and `judge_used` 1. Where the judge
        fails, the score without it and `judge_failed` 1.

    Raises:
        ValueError: a setting or the ground truth is wrong, or the extra `judge` is not installed.
    """
    judged_components, read_judge = _judge()
    judge = read_judge(kwargs.pop("judge", None), reward_router_address)
    settings, truth = _settings(kwargs), _truth(ground_truth)
    response = parse_response(solution_str)
    scores = score_response(solution_str, response, truth, settings)
    scores |= await judged_components(response, truth, extra_info, scores["alignment"], judge)
    scores["score"] = weighted_mean(scores, settings)
    return scores


def _judge() -> tuple[Any, Any]:
    """The judge's two functions; scoring without a judge does not need its packages."""
    try:
        from reward.judge.scoring import judged_components
        from reward.judge.sessions import read_settings
    except ModuleNotFoundError as error:
        raise ValueError(missing_package(error.name)) from None
    return judged_components, read_settings


_last_settings: tuple[dict[str, Any], Settings] | None = None
"""What was asked for last, copied, and the settings made of it; a run asks for the same again."""


def _settings(kwargs: dict[str, Any]) -> Settings:
    global _last_settings
    last = _last_settings
    if last is not None and last[0] == kwargs:
        return last[1]
    settings = Settings.from_kwargs(kwargs)
    _last_settings = (deepcopy(kwargs), settings)
    return settings


def _truth(ground_truth: str | Mapping[str, Any]) -> GroundTruth:
    if isinstance(ground_truth, str):
        return _parse_cached(ground_truth)
    return GroundTruth.parse(ground_truth)


@lru_cache(maxsize=16384)
def _parse_cached(ground_truth: str) -> GroundTruth:
    return GroundTruth.parse(ground_truth)
