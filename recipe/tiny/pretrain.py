"""Pre-training of the tiny model on pictures and grounded reports.

A real Qwen2.5-VL has seen the world and read about it; a tiny one with random weights would have to
learn to see and to name what it sees from a few thousand answers. Here the image tokens learn what
they show (`recipe.tiny.vision`) while the whole model learns to report it (`recipe.tiny.reports`).
The questions of the rows come later, in the supervised cold start.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tqdm import tqdm

from recipe.tiny.pictures import Picture, pixel_values
from recipe.tiny.reports import ReportLoss, write_report
from recipe.tiny.vision import Heads, Targets

BATCH = 16
LEARNING_RATE = 2e-3
WARM_UP = 20


def pretrain(
    model: Any, processor: Any, pictures: Sequence[Picture], seed: int, epochs: int = 2
) -> None:
    """Train `model` in place.

    Args:
        model: a Qwen2.5-VL.
        processor: the model's.
        pictures: all of one size in pixels after the processor's resize.
        seed: of the order of the pictures and of what is reported.
        epochs: how often each picture is seen; a last batch that is not full is left out.
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
    with tqdm(batches, desc="pre-training", unit="batch", dynamic_ncols=True) as bar:
        for batch in bar:
            pixels, grids = pixel_values(processor, batch)
            features = tower(pixels, grids).pooler_output
            features = features.view(len(batch), -1, features.shape[-1])
            size = (columns * patch, rows * patch)
            reports = [write_report(picture, size, draw) for picture in batch]
            reported = report_loss(features, grids, reports)
            optimizer.zero_grad()
            (reported + heads.loss(features, batch)).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            bar.set_postfix_str(f"loss {reported.item():.3f}")


def _batches(
    pictures: Sequence[Picture], epochs: int, draw: random.Random
) -> Iterator[list[Picture]]:
    for _ in range(epochs):
        order = draw.sample(pictures, len(pictures))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            yield order[start : start + BATCH]
