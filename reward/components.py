"""The components of one response's reward, and what is reported beside them."""

from collections.abc import Mapping, Sequence

from reward.alignment import alignment_score
from reward.answers import answer_is_correct, answer_score
from reward.boxes import ROUNDING, distinct, iou_matrix, matched_values
from reward.ground_truth import GroundTruth, place
from reward.grounding import cited_score, count_gate_score, dense_score
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
ABOVE_50, ABOVE_75 = 0.5 + ROUNDING, 0.75 + ROUNDING
SCORE_KEYS = ("score", *COMPONENTS, *DIAGNOSTICS)
"""The keys of every result, in order."""


def score_response(
    text: str, response: Response, truth: GroundTruth, settings: Settings
) -> dict[str, float]:
    """Return every key of a result, without a judge.

    `text` is the response as it was, of which only the length is used.
    """
    final = cited = place(response.regions, truth)
    if response.think_regions != response.regions:
        cited = place(response.think_regions, truth)
    boxes = cited_boxes = [box for _, box in final]
    if cited is not final:
        cited_boxes = [box for _, box in cited]
    wanted = truth.placed_regions
    ious = iou_matrix(boxes, truth.placed_boxes)
    mean_iou, iou_50, iou_75 = _iou_shares(ious, max(len(final), len(wanted)))
    grounding = _grounding(final, wanted, ious, settings)
    scores = {
        "score": 0.0,
        "format": float(response.well_formed),
        "answer": _answer(response, truth, settings),
        "grounding": grounding,
        "think_grounding": _think_grounding(cited, final, grounding, truth, settings),
        "alignment": alignment_score(response, boxes, cited_boxes, truth),
        "mean_iou": mean_iou,
        "iou_50": iou_50,
        "iou_75": iou_75,
        "box_count_match": float(len(final) == len(wanted)),
        "n_boxes": float(len(final)),
        "n_think_boxes": float(len(cited)),
        "judge_used": 0.0,
        "judge_failed": 0.0,
        "response_chars": float(len(text)),
    }
    scores["score"] = weighted_mean(scores, settings)
    return scores


def weighted_mean(components: Mapping[str, float], settings: Settings) -> float:
    """Return the score: the mean of the components under the settings' weights."""
    total = 0.0
    for name, weight in settings.weighted:
        total += weight * components[name]
    return total / settings.total_weight


def _iou_shares(ious: Sequence[Sequence[float]], most: int) -> tuple[float, float, float]:
    """Return the mean of matched IoUs and the shares above 0.5 and 0.75, of `most` boxes."""
    if not most:
        return 1.0, 1.0, 1.0
    total, above_50, above_75 = 0.0, 0, 0
    for iou in matched_values(ious):
        total += iou
        if iou > ABOVE_50:
            above_50 += 1
            if iou > ABOVE_75:
                above_75 += 1
    return total / most, above_50 / most, above_75 / most


def _answer(response: Response, truth: GroundTruth, settings: Settings) -> float:
    if settings.answer_rule == "paper":
        return float(answer_is_correct(response.answer, truth, settings.open_threshold))
    return answer_score(response.answer, truth, settings.multi_partial)


def _ious(predicted: Sequence[Region], reference: Sequence[Region]) -> list[list[float]]:
    return iou_matrix([box for _, box in predicted], [box for _, box in reference])


def _grounding(
    predicted: Sequence[Region],
    reference: Sequence[Region],
    ious: Sequence[Sequence[float]],
    settings: Settings,
) -> float:
    if settings.grounding_rule == "paper":
        return count_gate_score(ious, len(predicted), len(reference), settings.iou_threshold)
    return dense_score(predicted, reference, ious)


def _think_grounding(
    cited: Sequence[Region],
    final: Sequence[Region],
    grounding: float,
    truth: GroundTruth,
    settings: Settings,
) -> float:
    given = distinct(cited) if len(cited) > 1 else cited
    wanted = truth.cited_regions
    if given == final and wanted == truth.placed_regions and len(given) <= len(wanted):
        return grounding  # often the same, and then so is the score
    ious = _ious(given, wanted)
    if settings.grounding_rule == "paper":
        return count_gate_score(ious, len(given), len(wanted), settings.iou_threshold)
    return cited_score(given, wanted, ious)
