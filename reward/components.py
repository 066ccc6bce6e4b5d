"""The components of one response's reward, and what is reported beside them."""

from collections.abc import Mapping, Sequence

from reward.alignment import alignment_score
from reward.answers import answer_is_correct, answer_score
from reward.boxes import Overlap, is_above, matched_values, overlaps
from reward.ground_truth import GroundTruth, place
from reward.grounding import count_gate_score, dense_score
from reward.response import Region, Response
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


def score_response(
    text: str, response: Response, truth: GroundTruth, settings: Settings
) -> dict[str, float]:
    """Return every key of a result, without a judge.

    `text` is the response as it was, of which only the length is used.
    """
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
    return {
        "score": weighted_mean(components, settings),
        **components,
        **_box_diagnostics(final_overlaps, len(final), len(truth.regions)),
        "n_boxes": float(len(response.regions)),
        "n_think_boxes": float(len(response.think_regions)),
        "judge_used": 0.0,
        "judge_failed": 0.0,
        "response_chars": float(len(text)),
    }


def weighted_mean(components: Mapping[str, float], settings: Settings) -> float:
    """Return the score: the mean of the components under the settings' weights."""
    weighted = zip(settings.weights, map(components.__getitem__, COMPONENTS), strict=True)
    return sum(weight * value for weight, value in weighted) / sum(settings.weights)


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
