"""The reward of a grounded answer: `compute_score`, in the form that verl calls.

`score` is the weighted mean of five components in [0, 1]: `format` (the strict form),
`answer`, `grounding` (final boxes), `think_grounding` (boxes cited in the reasoning) and
`alignment` (reasoning and final answer agree). The rest are diagnostics.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from reward.alignment import alignment_score
from reward.answers import answer_is_correct, answer_score
from reward.boxes import Overlap, is_above, matched_values, overlaps
from reward.ground_truth import GroundTruth, place
from reward.grounding import count_gate_score, dense_score
from reward.response import Region, Response, parse_response
from reward.settings import COMPONENTS, Settings

DIAGNOSTICS = (
    "mean_iou",
    "iou_50",
    "iou_75",
    "box_count_match",
    "n_boxes",
    "n_think_boxes",
    "judge_used",
    "judge_failed",
    "response_chars",
)
SCORE_KEYS = ("score", *COMPONENTS, *DIAGNOSTICS)
"""The keys of every result, in order."""


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
    settings = _settings(kwargs)
    truth = (
        _parse_cached(ground_truth)
        if isinstance(ground_truth, str)
        else GroundTruth.parse(ground_truth)
    )
    response = parse_response(solution_str)
    final, cited = place(response.regions, truth), place(response.think_regions, truth)
    final_overlaps = _overlaps(final, truth.placed_regions)
    components = {
        "format": float(response.well_formed),
        "answer": _answer(response, truth, settings),
        "grounding": _grounding(final, truth.placed_regions, final_overlaps, settings),
        "think_grounding": _grounding(
            cited,
            truth.placed_think_regions,
            _overlaps(cited, truth.placed_think_regions),
            settings,
        ),
        "alignment": alignment_score(response, final, cited, truth),
    }
    weighted = zip(settings.weights, components.values(), strict=True)
    score = sum(weight * value for weight, value in weighted) / sum(settings.weights)
    return {
        "score": score,
        **components,
        **_box_diagnostics(final_overlaps, len(final), len(truth.regions)),
        "n_boxes": float(len(response.regions)),
        "n_think_boxes": float(len(response.think_regions)),
        "judge_used": 0.0,
        "judge_failed": 0.0,
        "response_chars": float(len(solution_str)),
    }


def _answer(response: Response, truth: GroundTruth, settings: Settings) -> float:
    if settings.answer_rule == "paper":
        return float(answer_is_correct(response.answer, truth, settings.open_threshold))
    return answer_score(response.answer, truth, settings.multi_partial)


def _overlaps(predicted: Sequence[Region], reference: Sequence[Region]) -> list[list[Overlap]]:
    return overlaps([box for _, box in predicted], [box for _, box in reference])


def _grounding(
    predicted: Sequence[Region],
    reference: Sequence[Region],
    pairs: Sequence[Sequence[Overlap]],
    settings: Settings,
) -> float:
    if settings.grounding_rule == "paper":
        return count_gate_score(pairs, len(predicted), len(reference), settings.iou_threshold)
    return dense_score(predicted, reference, pairs)


def _box_diagnostics(
    pairs: Sequence[Sequence[Overlap]], n_predicted: int, n_reference: int
) -> dict[str, float]:
    ious = matched_values([[iou for iou, _, _ in row] for row in pairs])
    n = max(n_predicted, n_reference)
    if not n:
        return {"mean_iou": 1.0, "iou_50": 1.0, "iou_75": 1.0, "box_count_match": 1.0}
    return {
        "mean_iou": sum(ious) / n,
        "iou_50": sum(is_above(iou, 0.5) for iou in ious) / n,
        "iou_75": sum(is_above(iou, 0.75) for iou in ious) / n,
        "box_count_match": float(n_predicted == n_reference),
    }


def _settings(kwargs: Mapping[str, Any]) -> Settings:
    weights = kwargs.get("weights")
    if not isinstance(weights, Mapping):
        return Settings.from_kwargs(kwargs)
    rest = {key: value for key, value in kwargs.items() if key != "weights"}
    try:
        return _settings_cached(tuple(weights.items()), tuple(rest.items()))
    except TypeError:  # an unhashable value, which the check names
        return Settings.from_kwargs(kwargs)


@lru_cache(maxsize=64)
def _settings_cached(
    weights: tuple[tuple[str, Any], ...], rest: tuple[tuple[str, Any], ...]
) -> Settings:
    return Settings.from_kwargs({"weights": dict(weights), **dict(rest)})


@lru_cache(maxsize=16384)
def _parse_cached(ground_truth: str) -> GroundTruth:
    return GroundTruth.parse(ground_truth)
