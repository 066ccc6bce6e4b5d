"""Metrics of one training step, from the rewards and texts of its rollouts."""

from collections.abc import Mapping, Sequence

import numpy as np

from reward.ground_truth import QUESTION_TYPES
from reward.response import parse_response
from reward.settings import COMPONENTS

BY_TYPE = ("score", *COMPONENTS, "mean_iou", "n_boxes")
"""What is logged for each question type."""

BINS = 20


def type_metrics(rows: Sequence[Mapping[str, float]], types: Sequence[str]) -> dict[str, float]:
    """Mean and standard deviation of `BY_TYPE` for each question type, and the type's share.

    A type without a rollout in the step has share 0 and nothing else.

    Args:
        rows: one result of the reward function for each rollout.
        types: the question type of each.

    Returns:
        ``by_type/TYPE/share``, ``by_type/TYPE/NAME/mean`` and ``by_type/TYPE/NAME/std``.
    """
    metrics: dict[str, float] = {}
    for kind in QUESTION_TYPES:
        chosen = [row for row, name in zip(rows, types, strict=True) if name == kind]
        metrics[f"by_type/{kind}/share"] = len(chosen) / len(rows) if rows else 0.0
        for name in BY_TYPE if chosen else ():
            values = np.array([float(row[name]) for row in chosen])
            metrics[f"by_type/{kind}/{name}/mean"] = float(values.mean())
            metrics[f"by_type/{kind}/{name}/std"] = float(values.std())
    return metrics


def reasonings(texts: Sequence[str]) -> list[str]:
    """The reasoning of each response; empty where there is none."""
    return [parse_response(text).think or "" for text in texts]


def length_metrics(tokens: Sequence[int]) -> dict[str, float]:
    """Mean, standard deviation and maximum of the reasonings' lengths in tokens, and the share
    of responses without one."""
    values = np.array(tokens, dtype=float)
    return {
        "reasoning_length/mean": float(values.mean()),
        "reasoning_length/std": float(values.std()),
        "reasoning_length/max": float(values.max()),
        "reasoning_length/none": float((values == 0).mean()),
    }


def histograms(
    rows: Sequence[Mapping[str, float]], types: Sequence[str]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Counts and bin edges of the score and of every component, over all rollouts and by type.

    All of them are in [0, 1], so the edges are the same at every step and for every run.
    """
    edges = np.linspace(0.0, 1.0, BINS + 1)
    found = {}
    for name in ("score", *COMPONENTS):
        values = np.array([float(row[name]) for row in rows])
        found[f"histogram/{name}"] = (np.histogram(values, edges)[0], edges)
        for kind in QUESTION_TYPES:
            chosen = values[[own == kind for own in types]]
            if len(chosen):
                found[f"histogram/{kind}/{name}"] = (np.histogram(chosen, edges)[0], edges)
    return found
