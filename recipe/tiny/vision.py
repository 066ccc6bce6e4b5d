"""Pre-training of the tiny model's vision tower on pictures of which it is known what they show.

A real Qwen2.5-VL comes with a vision tower that has seen the world; a tiny one with random weights
would have to learn to see from a few thousand answers. Here every image token learns where it is,
which share of it each region covers and which findings it shows, and the image as a whole which
findings it has. The linear heads that say so are thrown away.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.nn import functional
from tqdm import tqdm

BATCH = 32
LEARNING_RATE = 2e-3
WARM_UP = 20
SHOWN_FROM = 0.15  # a token shows a finding whose region covers at least this share of it
WEIGHTS = {"place": 0.3, "regions": 1.0, "findings": 3.0, "image": 1.0}


@dataclass(frozen=True)
class Picture:
    """What is known of a picture.

    Attributes:
        image: of the rollout row: a path, with the bounds of its size in pixels.
        findings: (name, region) of each.
        regions: box of each named region, (x1, y1, x2, y2) as fractions of width and height.
    """

    image: dict[str, Any]
    findings: tuple[tuple[str, str], ...]
    regions: dict[str, tuple[float, float, float, float]]


def training_pictures(truth: Path, rollouts: Path) -> list[Picture]:
    """The pictures of a rollout parquet that a table of `data_prep.phantom` describes, by path.

    Args:
        truth: ``pictures.parquet``.
        rollouts: ``train.parquet``; its pictures and no others are used.
    """
    images = {
        row["extra_info"]["image_path"]: row["images"][0]
        for row in pq.read_table(rollouts, columns=["images", "extra_info"]).to_pylist()
    }
    known = {row["image_path"]: row for row in pq.read_table(truth).to_pylist()}
    return [
        Picture(
            image=images[path],
            findings=tuple((each["name"], each["region"]) for each in known[path]["findings"]),
            regions={each["name"]: tuple(each["box"]) for each in known[path]["regions"]},
        )
        for path in sorted(images.keys() & known.keys())
    ]


class Targets:
    """Turns pictures into what the tokens of a `rows` x `columns` grid should know."""

    def __init__(self, pictures: Sequence[Picture], rows: int, columns: int) -> None:
        self.grid = (rows, columns)
        self.regions = sorted({name for picture in pictures for name in picture.regions})
        self.findings = sorted({each for picture in pictures for each in picture.findings})

    def coverage(self, picture: Picture) -> torch.Tensor:
        """Share of each token's cell that each region covers, (tokens, regions), 0..1."""
        rows, columns = self.grid
        shares = []
        for name in self.regions:
            x1, y1, x2, y2 = picture.regions.get(name, (0.0, 0.0, 0.0, 0.0))
            wide = _covered(x1 * columns, x2 * columns, columns)
            shares.append((_covered(y1 * rows, y2 * rows, rows)[:, None] * wide).flatten())
        return torch.stack(shares, dim=1)

    def shown(self, picture: Picture, coverage: torch.Tensor) -> torch.Tensor:
        """Whether each token shows each finding, (tokens, findings), 0 or 1."""
        columns = [
            (coverage[:, self.regions.index(region)] > SHOWN_FROM) * ((name, region) in findings)
            for findings in [set(picture.findings)]
            for name, region in self.findings
        ]
        return torch.stack(columns, dim=1).float()


def _covered(start: float, end: float, cells: int) -> torch.Tensor:
    edges = torch.arange(cells + 1, dtype=torch.float32)
    return (edges[1:].clamp(max=end) - edges[:-1].clamp(min=start)).clamp(min=0)


class Heads(torch.nn.Module):
    """Linear readers of the image tokens, and the loss of what they read."""

    def __init__(self, width: int, tokens: int, regions: int, findings: int) -> None:
        super().__init__()
        self.place = torch.nn.Linear(width, tokens)
        self.regions = torch.nn.Linear(width, regions)
        self.findings = torch.nn.Linear(width, findings)
        self.image = torch.nn.Linear(width * tokens, findings)

    def loss(
        self, features: torch.Tensor, coverage: torch.Tensor, shown: torch.Tensor
    ) -> torch.Tensor:
        """Weighted sum of cross-entropies.

        Args:
            features: (images, tokens, width).
            coverage: (images, tokens, regions).
            shown: (images, tokens, findings).
        """
        images, tokens, _ = features.shape
        binary = functional.binary_cross_entropy_with_logits
        places = torch.arange(tokens).expand(images, tokens)
        losses = {
            "place": functional.cross_entropy(self.place(features).transpose(1, 2), places),
            "regions": binary(self.regions(features), coverage),
            "findings": binary(self.findings(features), shown),
            "image": binary(self.image(features.flatten(1)), shown.amax(dim=1)),
        }
        return torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum()


def pretrain(
    model: Any, processor: Any, pictures: Sequence[Picture], seed: int, scale: float
) -> None:
    """Train ``model``'s vision tower on each picture once, at most.

    Args:
        model: a Qwen2.5-VL; its vision tower changes in place, nothing else does.
        processor: the model's.
        pictures: all of one size in pixels after the processor's resize.
        seed: of the order of the pictures.
        scale: standard deviation that the image tokens are brought to at the end.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pictures), generator=generator).tolist()
    batches = [order[start : start + BATCH] for start in range(0, len(order) - BATCH + 1, BATCH)]
    tower = model.model.visual
    _, rows, columns = _pixels(processor, pictures[:1])[1][0].tolist()
    merge = tower.config.spatial_merge_size
    targets = Targets(pictures, rows // merge, columns // merge)
    tokens = targets.grid[0] * targets.grid[1]
    width = tower.config.out_hidden_size
    heads = Heads(width, tokens, len(targets.regions), len(targets.findings))
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, len(batches)))
    with tqdm(batches, desc="vision", unit="batch", dynamic_ncols=True) as bar:
        for batch in bar:
            chosen = [pictures[index] for index in batch]
            features = _features(tower, processor, chosen)
            coverage = [targets.coverage(picture) for picture in chosen]
            shown = [targets.shown(*pair) for pair in zip(chosen, coverage, strict=True)]
            loss = heads.loss(features, torch.stack(coverage), torch.stack(shown))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            bar.set_postfix_str(f"loss {loss.item():.3f}")
    _rescale(tower, _features(tower, processor, pictures[:BATCH]).std().item(), scale)


def _rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _pixels(processor: Any, pictures: Sequence[Picture]) -> tuple[torch.Tensor, torch.Tensor]:
    images = []
    for picture in pictures:
        with Image.open(picture.image["image"]) as image:
            images.append(image.convert("RGB"))
    bounds = {name: pictures[0].image[name] for name in ("min_pixels", "max_pixels")}
    inputs = processor.image_processor(images=images, return_tensors="pt", **bounds)
    return inputs["pixel_values"], inputs["image_grid_thw"]


def _features(tower: Any, processor: Any, pictures: Sequence[Picture]) -> torch.Tensor:
    """Image tokens, (images, tokens, width)."""
    pixels, grids = _pixels(processor, pictures)
    tokens = tower(pixels, grids).pooler_output
    return tokens.view(len(pictures), -1, tokens.shape[-1])


def _rescale(tower: Any, now: float, wanted: float) -> None:
    last = tower.merger.mlp[2]
    with torch.no_grad():
        last.weight.mul_(wanted / now)
        last.bias.mul_(wanted / now)
