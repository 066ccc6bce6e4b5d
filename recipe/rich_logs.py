"""What W&B and TensorBoard take beside numbers: histograms, and tables of rollouts with pictures.

verl hands one dictionary of numbers to all its loggers. These kinds go to the two that know them,
at the same step and before the numbers, so that W&B keeps one point for each step.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from reward.ground_truth import GroundTruth, place
from reward.response import parse_response

REFERENCE, ANSWER, REASONING = "#009e73", "#d55e00", "#0072b2"
SIDE = 448
COLUMNS = ("picture", "question type", "prompt", "response", "reference", "score")


@dataclass(frozen=True)
class Sample:
    """A rollout of the table; `image` is what the data file holds: a path or bytes."""

    image: str | bytes
    prompt: str
    response: str
    truth: GroundTruth
    score: float


def sample(
    messages: Sequence[Mapping[str, Any]], response: str, truth: GroundTruth, score: float
) -> Sample:
    """A row of the table from the messages of a rollout's prompt.

    Raises ValueError where the prompt has no picture.
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
    tracking: Any, found: Mapping[str, tuple[np.ndarray, np.ndarray]], step: int
) -> None:
    """Log counts and bin edges to those loggers of verl's `Tracking` that show them."""
    if "wandb" in tracking.logger:
        import wandb

        shown = {name: wandb.Histogram(np_histogram=pair) for name, pair in found.items()}
        tracking.log(data=shown, step=step, backend=["wandb"])
    if "tensorboard" in tracking.logger:
        writer = tracking.logger["tensorboard"].writer
        for name, (counts, edges) in found.items():
            middles = (edges[:-1] + edges[1:]) / 2
            writer.add_histogram(name, np.repeat(middles, counts), step, bins=edges)


def log_table(tracking: Any, samples: Iterable[Sample], step: int) -> None:
    """Log a table of rollouts with their pictures to W&B; nothing where it is no logger."""
    if "wandb" not in tracking.logger:
        return
    import wandb

    table = wandb.Table(columns=list(COLUMNS))
    for sample in samples:
        table.add_data(
            wandb.Image(draw(sample)),
            sample.truth.question_type,
            sample.prompt,
            sample.response,
            str(sample.truth.answer),
            sample.score,
        )
    tracking.log(data={"rollouts": table}, step=step, backend=["wandb"])


def draw(sample: Sample) -> Image.Image:
    """The picture at most `SIDE` pixels a side, with boxes of the reference and of the response."""
    source = io.BytesIO(sample.image) if isinstance(sample.image, bytes) else Path(sample.image)
    with Image.open(source) as opened:
        picture = opened.convert("RGB")
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
    pen: ImageDraw.ImageDraw,
    regions: Sequence[Any],
    size: tuple[int, int],
    colour: str,
    width: int,
) -> None:
    """Draw boxes that are in fractions of the picture."""
    for _, box in regions:
        if box is None or box[2] <= box[0] or box[3] <= box[1]:
            continue
        scaled = [value * side for value, side in zip(box, size * 2, strict=True)]
        pen.rectangle(scaled, outline=colour, width=width)
