"""Pre-training of the tiny model on pictures with known content, and on grounded reports.

A tiny model with random weights cannot learn to see, and to name what it sees, from a few thousand
answers. Here the image tokens learn what they show while the whole model learns to report it. The
questions of the rows come later, in the supervised cold start.
"""

import random
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.nn import functional

from data_prep.coordinates import Size, smart_resize
from data_prep.pictures import to_rgb8
from data_prep.program import InputError
from phantom.tiny.model import IMAGE
from recipe import console
from recipe.algorithms.soft_targets import (
    LARGEST_COORDINATE,
    coordinate_ids,
    soft_log_probs,
    soft_targets,
)
from reward.boxes_in_text import Box

COLUMNS = ("image_path", "impression", "findings", "regions")
"""Columns of `pictures.parquet`, which `phantom.draw` writes."""
SHOWN_FROM = 0.15  # a token shows a finding if the region covers more than this share of its cell
WEIGHTS = {"place": 0.3, "regions": 1.0, "findings": 3.0, "image": 1.0}
REGIONS = 4  # regions in a report
ABNORMAL = 2  # of these, drawn first among the regions with a finding
LETTERED = 0.5  # share of the reports that name regions by letters
SMOOTHING = 2.0  # standard deviation of the soft coordinate targets, pixels
BATCH = 16
LEARNING_RATE = 2e-3
WARM_UP = 20


@dataclass(frozen=True)
class Picture:
    """A picture and its content.

    Attributes:
        image: image of the rollout row: its path and the bounds of its size in pixels.
        findings: (name, region) of each finding.
        regions: box of each named region, as fractions of width and height.
        impression: a sentence with all findings.
        seen: how each region that may be described looks, as a verb phrase.
    """

    image: dict[str, Any]
    findings: tuple[tuple[str, str], ...]
    regions: dict[str, Box]
    impression: str = ""
    seen: dict[str, str] | None = None


def training_pictures(truth: Path, rollouts: Path) -> list[Picture]:
    """Return the pictures that are in ``pictures.parquet`` and the rollout rows, by path."""
    images = {
        row["extra_info"]["image_path"]: row["images"][0]
        for row in pq.read_table(rollouts, columns=["images", "extra_info"]).to_pylist()
    }
    known = {row["image_path"]: row for row in pq.read_table(truth).to_pylist()}
    return [_picture(images[path], known[path]) for path in sorted(images.keys() & known.keys())]


def check_images(pictures: Sequence[Picture], cell: int) -> None:
    """Check that all images can be read and have the same size after the resize.

    `cell` is the side in pixels of what becomes one image token.

    Raises:
        InputError: an image cannot be read, or is of a different size; the message names it.
    """
    first: Size | None = None
    for picture in pictures:
        path, low, high = (picture.image[name] for name in ("image", "min_pixels", "max_pixels"))
        try:
            with Image.open(path) as image:
                size = smart_resize(image.size, cell, low, high)
        except OSError as error:
            raise InputError(f"{path}: this picture cannot be read ({error})") from error
        first = first or size
        if size != first:
            raise InputError(
                f"{path}: becomes {size[0]}x{size[1]}, others {first[0]}x{first[1]}: run "
                "python -m data_prep.thinkvg with --min-pixels 12544 --max-pixels 15680"
            )


def _picture(image: dict[str, Any], row: dict[str, Any]) -> Picture:
    return Picture(
        image=image,
        findings=tuple((finding["name"], finding["region"]) for finding in row["findings"]),
        regions={region["name"]: tuple(region["box"]) for region in row["regions"]},
        impression=row["impression"],
        seen={region["name"]: region["seen"] for region in row["regions"] if region["seen"]},
    )


def pixel_values(processor: Any, pictures: Sequence[Picture]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the patches of all pictures, (patches, values), and their grids, (pictures, 3)."""
    images = []
    for picture in pictures:
        with Image.open(picture.image["image"]) as image:
            images.append(to_rgb8(image))
    bounds = {name: pictures[0].image[name] for name in ("min_pixels", "max_pixels")}
    inputs = processor.image_processor(images=images, return_tensors="pt", **bounds)
    return inputs["pixel_values"], inputs["image_grid_thw"]


@dataclass(frozen=True)
class Report:
    """A question and its answer."""

    question: str
    text: str


def write_report(picture: Picture, size: Size, draw: random.Random) -> Report:
    """Write a report about some regions of a picture, with boxes in pixels of `size`."""
    seen = picture.seen or {}
    abnormal = sorted({region for _, region in picture.findings} & seen.keys())
    regions = draw.sample(abnormal, min(ABNORMAL, len(abnormal)))
    remaining = sorted(seen.keys() - set(regions))
    regions += draw.sample(remaining, min(REGIONS - len(regions), len(remaining)))
    draw.shuffle(regions)
    question, letter_of = f"Describe the {', the '.join(regions)}.", {}
    if draw.random() < LETTERED:
        letter_of = dict(
            zip(draw.sample(regions, len(regions)), string.ascii_uppercase, strict=False)
        )
        choices = ", ".join(f"{letter}: {name}" for name, letter in letter_of.items())
        question = f"Describe these regions. <choices>: [{choices}]"
    sentences = [picture.impression]
    for name in regions:
        choice = f" (choice {letter_of[name]})" if letter_of else ""
        sentences.append(f"The {name} {_box(picture, name, size)} {seen[name]}{choice}.")
    return Report(question, f"<think>{' '.join(sentences)}</think>")


def _box(picture: Picture, name: str, size: Size) -> str:
    edges = zip(picture.regions[name], (*size, *size), strict=True)
    return str([round(share * side) for share, side in edges])


class ReportLoss:
    """Cross-entropy of reports, with soft coordinate targets; prompts have no loss."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        ids = coordinate_ids(processor.tokenizer, LARGEST_COORDINATE)
        self.coordinates = torch.tensor(ids)
        self.targets = soft_targets(len(ids), SMOOTHING)

    def __call__(
        self, features: torch.Tensor, grids: torch.Tensor, reports: list[Report]
    ) -> torch.Tensor:
        """Return the mean loss over the tokens of the reports.

        Args:
            features: image tokens, (images, tokens, width).
            grids: patches of each image, (images, 3).
            reports: one for each image.
        """
        ids, mask, trained = self._encode(reports, features.shape[1])
        core = self.model.model
        is_image = ids == self.model.config.image_token_id
        embedded = core.get_input_embeddings()(ids)
        embedded = embedded.masked_scatter(is_image[..., None], features.flatten(0, 1))
        positions, _ = core.get_rope_index(
            input_ids=ids,
            mm_token_type_ids=is_image.int(),
            image_grid_thw=grids,
            attention_mask=mask,
        )
        hidden = core.language_model(
            inputs_embeds=embedded, attention_mask=mask, position_ids=positions
        ).last_hidden_state
        predicts = trained[:, 1:]
        logits = self.model.lm_head(hidden[:, :-1][predicts])
        return -soft_log_probs(logits, ids[:, 1:][predicts], self.coordinates, self.targets).mean()

    def _encode(
        self, reports: list[Report], image_tokens: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return ids, attention mask and which tokens have a loss, each (reports, length)."""
        tokenizer = self.processor.tokenizer
        prompts, answers = [], []
        for report in reports:
            content = [{"type": "image"}, {"type": "text", "text": f"\n{report.question}"}]
            prompt = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
            prompts.append(tokenizer(prompt.replace(IMAGE, IMAGE * image_tokens))["input_ids"])
            answers.append(tokenizer(report.text)["input_ids"])
        pairs = list(zip(prompts, answers, strict=True))
        length = max(len(prompt) + len(answer) for prompt, answer in pairs)
        ids = torch.full((len(reports), length), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        trained = torch.zeros_like(ids, dtype=torch.bool)
        for row, (prompt, answer) in enumerate(pairs):
            end = len(prompt) + len(answer)
            ids[row, :end] = torch.tensor(prompt + answer)
            mask[row, :end] = 1
            trained[row, len(prompt) : end] = True
        return ids, mask, trained


class Targets:
    """Makes the targets of the image tokens, a `rows` x `columns` grid, from pictures."""

    def __init__(self, pictures: Sequence[Picture], rows: int, columns: int) -> None:
        self.grid = (rows, columns)
        self.regions = sorted({name for picture in pictures for name in picture.regions})
        self.findings = sorted({pair for picture in pictures for pair in picture.findings})

    def coverage(self, picture: Picture) -> torch.Tensor:
        """Return the share of each token's cell that each region covers, (tokens, regions)."""
        rows, columns = self.grid
        shares = []
        for name in self.regions:
            x1, y1, x2, y2 = picture.regions.get(name, (0.0, 0.0, 0.0, 0.0))
            horizontal = _covered(x1 * columns, x2 * columns, columns)
            shares.append((_covered(y1 * rows, y2 * rows, rows)[:, None] * horizontal).flatten())
        return torch.stack(shares, dim=1)

    def shown(self, picture: Picture, coverage: torch.Tensor) -> torch.Tensor:
        """Return whether each token shows each finding, (tokens, findings), 0 or 1."""
        findings = set(picture.findings)
        columns = [
            (coverage[:, self.regions.index(region)] > SHOWN_FROM) * ((name, region) in findings)
            for name, region in self.findings
        ]
        return torch.stack(columns, dim=1).float()


def _covered(start: float, end: float, cells: int) -> torch.Tensor:
    """Return the share of each cell of width 1 that lies between start and end, (cells)."""
    edges = torch.arange(cells + 1, dtype=torch.float32)
    return (edges[1:].clamp(max=end) - edges[:-1].clamp(min=start)).clamp(min=0)


class Heads(torch.nn.Module):
    """Linear classifiers of the image tokens, and their loss."""

    def __init__(self, width: int, targets: Targets) -> None:
        super().__init__()
        self.targets = targets
        rows, columns = targets.grid
        self.place = torch.nn.Linear(width, rows * columns)
        self.regions = torch.nn.Linear(width, len(targets.regions))
        self.findings = torch.nn.Linear(width, len(targets.findings))
        self.image = torch.nn.Linear(width, len(targets.findings))

    def loss(self, features: torch.Tensor, pictures: Sequence[Picture]) -> torch.Tensor:
        """Return the weighted sum of cross-entropies.

        Args:
            features: image tokens, (images, tokens, width).
            pictures: one for each image.
        """
        coverages = [self.targets.coverage(picture) for picture in pictures]
        pairs = zip(pictures, coverages, strict=True)
        shown = torch.stack([self.targets.shown(*pair) for pair in pairs])
        coverage = torch.stack(coverages)
        places = torch.arange(features.shape[1]).expand(len(pictures), -1)
        binary = functional.binary_cross_entropy_with_logits
        losses = {
            "place": functional.cross_entropy(self.place(features).transpose(1, 2), places),
            "regions": binary(self.regions(features), coverage),
            "findings": binary(self.findings(features), shown),
            "image": binary(self.image(features.mean(dim=1)), shown.amax(dim=1)),
        }
        return torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum()


def pretrain(
    model: Any, processor: Any, pictures: Sequence[Picture], seed: int, epochs: int = 2
) -> None:
    """Train a Qwen2.5-VL in place, on pictures that have one size after the processor's resize.

    In each epoch, a last batch that is not full is left out.
    """
    tower = model.model.visual
    patch, merge = tower.config.patch_size, tower.config.spatial_merge_size
    _, rows, columns = pixel_values(processor, pictures[:1])[1][0].tolist()
    heads = Heads(tower.config.out_hidden_size, Targets(pictures, rows // merge, columns // merge))
    report_loss = ReportLoss(model, processor)
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, step / WARM_UP))
    draw = random.Random(seed)
    batches = list(_batches(pictures, epochs, draw))
    model.train()
    with console.progress(batches, desc="pre-training", unit="batch") as bar:
        for batch in bar:
            pixels, grids = pixel_values(processor, batch)
            features = tower(pixels, grids).pooler_output
            features = features.view(len(batch), -1, features.shape[-1])
            size = (columns * patch, rows * patch)
            reports = [write_report(picture, size, draw) for picture in batch]
            loss_of_reports = report_loss(features, grids, reports)
            optimizer.zero_grad()
            (loss_of_reports + heads.loss(features, batch)).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            bar.set_postfix_str(f"loss {loss_of_reports.item():.3f}", refresh=False)


def _batches(
    pictures: Sequence[Picture], epochs: int, draw: random.Random
) -> Iterator[list[Picture]]:
    for _ in range(epochs):
        order = draw.sample(pictures, len(pictures))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            yield order[start : start + BATCH]
