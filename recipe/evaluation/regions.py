"""Results for each anatomical region: how well its boxes are met, and its questions answered."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from recipe.evaluation.baselines import region_key
from recipe.evaluation.clusters import estimates
from recipe.evaluation.metrics import answer_correct
from recipe.evaluation.predictions import Prediction
from reward.boxes import iou_matrix, is_above
from reward.ground_truth import place
from reward.numbers import Box
from reward.response import parse_response

METRICS = ("v_score", "iou_50", "iou_75", "a_score")


def reference_ious(predicted: Sequence[Box | None], reference: Sequence[Box | None]) -> list[float]:
    """IoU of each reference box with its partner under the one-to-one matching of largest sum.

    Boxes are in 0..1. A reference box without a partner has 0.
    """
    if not reference:
        return []
    matrix = np.array(iou_matrix(predicted, reference)).reshape(-1, len(reference))
    found = [0.0] * len(reference)
    for row, column in zip(*linear_sum_assignment(matrix, maximize=True), strict=True):
        found[column] = float(matrix[row, column])
    return found


def region_values(predictions: Sequence[Prediction]) -> pd.DataFrame:
    """One row per reference box of each prediction: `region`, `patient` and `METRICS`."""
    rows: list[dict[str, Any]] = []
    for prediction in predictions:
        truth = prediction.truth
        given = place(parse_response(prediction.response).regions, truth)
        wanted = truth.placed_regions
        ious = reference_ious([box for _, box in given], [box for _, box in wanted])
        right = float(answer_correct(prediction))
        rows += [
            {
                "region": region_key(ref) or "(unnamed)",
                "patient": prediction.patient,
                "v_score": iou,
                "iou_50": float(is_above(iou, 0.5)),
                "iou_75": float(is_above(iou, 0.75)),
                "a_score": right,
            }
            for (ref, _), iou in zip(wanted, ious, strict=True)
        ]
    return pd.DataFrame(rows, columns=["region", "patient", *METRICS])


def by_region(predictions: Sequence[Prediction], seed: int = 0) -> dict[str, dict[str, Any]]:
    """Estimates of `METRICS` for each region and its number of reference boxes, commonest first.

    A box that the response gives too many costs the V-score of its question, but no region.
    """
    values = region_values(predictions)
    counts = values["region"].value_counts()
    order = sorted(counts.index, key=lambda name: (-counts[name], name))
    return {
        str(name): {
            **estimates(rows[list(METRICS)], rows["patient"], seed=seed),
            "boxes": len(rows),
        }
        for name, rows in ((name, values[values["region"] == name]) for name in order)
    }
