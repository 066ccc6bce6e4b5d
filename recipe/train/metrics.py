"""Metrics, histograms and tables of one training step, from its rollouts' rewards and texts."""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from data_prep.pictures import to_rgb8
from recipe.sync import append_histograms, save_table
from reward.ground_truth import QUESTION_TYPES, GroundTruth, place
from reward.response import parse_response
from reward.settings import COMPONENTS

BY_TYPE = ("score", *COMPONENTS, "mean_iou", "n_boxes")
"""Values of a rollout that are logged for each question type."""

BINS = 20
REFERENCE, ANSWER, REASONING = "#009e73", "#d55e00", "#0072b2"
"""Colours of the boxes in a table's picture."""

SIDE = 448
"""Longest side of a table's picture, in pixels."""

TABLE_COLUMNS = ("picture", "question type", "prompt", "response", "reference", "score")


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers that a reward function gave for a rollout, with its ``score``.

    A function that returns a number alone has it under verl's name, ``acc``.
    """
    kinds = (int, float, np.number)
    values = {name: float(value) for name, value in row.items() if isinstance(value, kinds)}
    return {"score": values["acc"], **values} if "acc" in values else values


def component_metrics(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return ``reward/NAME/mean`` and ``reward/NAME/std`` (population) of each component.

    Raises:
        ValueError: the rows, one for each rollout, have different components.
    """
    rows = list(rows)
    names = set(rows[0]) if rows else set()
    if any(set(row) != names for row in rows):
        raise ValueError("rollouts of one step carry different reward components")
    return _means_and_stds("reward", rows, sorted(names))


def _means_and_stds(
    prefix: str, rows: Sequence[Mapping[str, float]], names: Iterable[str]
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for name in names:
        values = np.array([float(row[name]) for row in rows])
        metrics[f"{prefix}/{name}/mean"] = float(values.mean())
        metrics[f"{prefix}/{name}/std"] = float(values.std())
    return metrics


def group_metrics(scores: Sequence[float], groups: Sequence[str]) -> dict[str, float]:
    """Measure how much signal a step's groups have; `groups` has the prompt of each rollout.

    Returns:
        ``reward/group_std/mean`` over groups, and ``reward/group_std/zero``, the share of groups
        whose rollouts all have the same reward and so no advantage.
    """
    spreads = pd.Series(scores, dtype=float).groupby(list(groups)).std(ddof=0)
    return {
        "reward/group_std/mean": float(spreads.mean()),
        "reward/group_std/zero": float((spreads < 1e-6).mean()),
    }


def type_metrics(rows: Sequence[Mapping[str, float]], types: Sequence[str]) -> dict[str, float]:
    """Return mean and deviation of `BY_TYPE`, where given, for each question type, and its share.

    They are ``by_type/TYPE/NAME/mean``, ``by_type/TYPE/NAME/std`` and ``by_type/TYPE/share``. A
    type without a rollout in the step has share 0 and nothing else.
    """
    metrics: dict[str, float] = {}
    for kind in QUESTION_TYPES:
        of_kind = [row for row, name in zip(rows, types, strict=True) if name == kind]
        metrics[f"by_type/{kind}/share"] = len(of_kind) / len(rows) if rows else 0.0
        if of_kind:
            names = [name for name in BY_TYPE if name in of_kind[0]]
            metrics |= _means_and_stds(f"by_type/{kind}", of_kind, names)
    return metrics


def reasonings(texts: Sequence[str]) -> list[str]:
    """Return the reasoning in each complete response; empty if there is none."""
    return [parse_response(text).think or "" for text in texts]


def length_metrics(tokens: Sequence[int]) -> dict[str, float]:
    """Return mean, deviation and maximum of reasoning lengths in tokens, and the share of none."""
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
    """Return counts and bin edges of the score and each component, over all rollouts and by type.

    All values are in [0, 1], so the edges are the same at every step and for every run. Values of
    another reward function that are outside of it count in the first or last bin.
    """
    edges = np.linspace(0.0, 1.0, BINS + 1)
    counted = {}
    for name in ("score", *COMPONENTS):
        if any(name not in row for row in rows):
            continue  # another reward function has other components
        values = np.clip([float(row[name]) for row in rows], 0.0, 1.0)
        counted[f"histogram/{name}"] = (np.histogram(values, edges)[0], edges)
        for kind in QUESTION_TYPES:
            of_kind = values[np.array(types) == kind]
            if len(of_kind):
                counted[f"histogram/{kind}/{name}"] = (np.histogram(of_kind, edges)[0], edges)
    return counted


@dataclass(frozen=True)
class Sample:
    """A rollout of the table: path or bytes of its image, text of its prompt, complete response."""

    image: str | bytes
    prompt: str
    response: str
    truth: GroundTruth
    score: float


def sample(
    messages: Sequence[Mapping[str, Any]], response: str, truth: GroundTruth, score: float
) -> Sample:
    """Make a sample from the messages of a rollout's prompt and its complete response.

    Raises:
        ValueError: the prompt has no picture.
    """
    parts = [part for message in messages for part in _parts(message["content"])]
    image = next((part for part in parts if part["type"] == "image"), None)
    if image is None:
        raise ValueError("a rollout's prompt has no picture")
    source = image.get("image") or image["bytes"]
    prompt = " ".join(str(part["text"]) for part in parts if part["type"] == "text")
    return Sample(source, prompt.strip(), response, truth, score)


def _parts(content: Any) -> Sequence[Mapping[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def log_histograms(
    tracking: Any, counted: Mapping[str, tuple[np.ndarray, np.ndarray]], step: int
) -> None:
    """Log counts and bin edges to those loggers of verl's `Tracking` that draw histograms."""
    if "wandb" in tracking.logger:
        import wandb

        plots = {name: wandb.Histogram(np_histogram=pair) for name, pair in counted.items()}
        tracking.log(data=plots, step=step, backend=["wandb"])
        append_histograms(counted, step)
    if "tensorboard" in tracking.logger:
        writer = tracking.logger["tensorboard"].writer
        for name, (counts, edges) in counted.items():
            middles = (edges[:-1] + edges[1:]) / 2
            writer.add_histogram(name, np.repeat(middles, counts), step, bins=edges)


def log_table(tracking: Any, samples: Iterable[Sample], step: int) -> None:
    """Log a table of rollouts with their pictures to W&B, if it is among the loggers."""
    if "wandb" not in tracking.logger:
        return
    rows = [
        (
            draw(sample),
            sample.truth.question_type,
            sample.prompt,
            sample.response,
            str(sample.truth.answer),
            sample.score,
        )
        for sample in samples
    ]
    table = save_table(TABLE_COLUMNS, rows, step)
    tracking.log(data={"rollouts": table}, step=step, backend=["wandb"])


def draw(sample: Sample) -> Image.Image:
    """Draw a sample's picture, `SIDE` pixels at most, with reference and response boxes."""
    source = io.BytesIO(sample.image) if isinstance(sample.image, bytes) else Path(sample.image)
    with Image.open(source) as opened:
        picture = to_rgb8(opened)
    picture.thumbnail((SIDE, SIDE))
    response = parse_response(sample.response)
    pen = ImageDraw.Draw(picture)
    for regions, colour, width in (
        (sample.truth.placed_regions, REFERENCE, 4),
        (place(response.think_regions, sample.truth), REASONING, 1),
        (place(response.regions, sample.truth), ANSWER, 2),
    ):
        _outline(pen, regions, picture.size, colour, width)
    return picture


def _outline(
    pen: ImageDraw.ImageDraw, regions: Sequence[Any], size: tuple[int, int], colour: str, width: int
) -> None:
    """Draw boxes whose coordinates are fractions of the picture's sides."""
    for _, box in regions:
        if box is None or box[2] <= box[0] or box[3] <= box[1]:
            continue
        scaled = [value * side for value, side in zip(box, size * 2, strict=True)]
        pen.rectangle(scaled, outline=colour, width=width)
