"""A batch of sequences with pictures, and models of random weights, without any data set."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from phantom.base import BASE
from recipe.preflight.model import known_shapes

TEXT_IDS = (100, 150_000)
"""Ids of random text; the special tokens of Qwen-VL and of the tiny model are outside of them."""


@dataclass(frozen=True)
class Sample:
    """One sequence of L tokens: text, a picture of `grid` patches, text, response.

    `ids` are (L,), `positions` (4, L) as verl keeps them (text, time, height, width), `pixels`
    (patches, values of a patch), `grid` (1, 3).
    """

    ids: torch.Tensor
    positions: torch.Tensor
    pixels: torch.Tensor
    grid: torch.Tensor
    response: int

    @property
    def features(self) -> dict[str, torch.Tensor]:
        """The inputs of the vision tower, under the names of transformers."""
        return {"pixel_values": self.pixels, "image_grid_thw": self.grid}


def read_config(model: str) -> Any:
    """Return the configuration of a model folder or of a hub name in ``configs/shape``."""
    shapes = known_shapes()
    if model in shapes:
        return AutoConfig.for_model(**shapes[model])
    return AutoConfig.from_pretrained(model)


def shortened(config: Any, layers: int) -> Any:
    """Keep the first layers of the language model and of the vision tower, in place."""
    text, vision = config.text_config, config.vision_config
    text.num_hidden_layers = min(layers, text.num_hidden_layers)
    text.layer_types = text.layer_types[: text.num_hidden_layers]
    vision.depth = min(layers, vision.depth)
    if getattr(vision, "fullatt_block_indexes", None):
        vision.fullatt_block_indexes = [vision.depth - 1]
    return config


def make_samples(
    config: Any, grids: Sequence[tuple[int, int]], text: int, response: int, seed: int = 0
) -> list[Sample]:
    """Return a sample for each picture.

    Args:
        config: of a Qwen-VL model.
        grids: height and width of each picture in tokens.
        text: tokens of text on each side of a picture, one more with each sample.
        response: tokens of each response.
        seed: of ids and pixels.
    """
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config).model
    draw = torch.Generator().manual_seed(seed)
    vision = config.vision_config
    merge, temporal = vision.spatial_merge_size, vision.temporal_patch_size
    values = getattr(vision, "in_channels", 3) * temporal * vision.patch_size**2
    samples = []
    for number, (height, width) in enumerate(grids):
        largest = min(TEXT_IDS[1], config.text_config.vocab_size)
        count = 2 * (text + number) + response + 2
        words = torch.randint(TEXT_IDS[0], largest, (count,), generator=draw)
        picture = torch.full((height * width + 2,), config.image_token_id)
        picture[0], picture[-1] = words[-2:]
        ids = torch.cat([words[: text + number], picture, words[text + number : -2]])
        grid = torch.tensor([[1, height * merge, width * merge]])
        rope, _ = model.get_rope_index(
            ids[None],
            mm_token_type_ids=(ids == config.image_token_id).int()[None],
            image_grid_thw=grid,
            attention_mask=torch.ones_like(ids)[None],
        )
        positions = torch.cat([torch.arange(len(ids))[None], rope[:, 0]])
        pixels = torch.randn(int(grid.prod()), values, generator=draw)
        samples.append(Sample(ids, positions, pixels, grid, response))
    return samples


def padded(samples: list[Sample]) -> dict[str, torch.Tensor]:
    """Return model inputs with a row for each sample, padded on the right."""

    def pad(rows: list[torch.Tensor]) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    positions = pad([sample.positions.T for sample in samples])  # (B, L, 4)
    return {
        "input_ids": pad([sample.ids for sample in samples]),
        "attention_mask": pad([torch.ones_like(sample.ids) for sample in samples]),
        "position_ids": positions.permute(2, 0, 1),
        **_pictures(samples),
    }


def packed(samples: list[Sample]) -> dict[str, torch.Tensor]:
    """Return model inputs with all samples in one row; positions begin anew with each of them."""
    return {
        "input_ids": torch.cat([sample.ids for sample in samples])[None],
        "position_ids": torch.cat([sample.positions for sample in samples], dim=1)[:, None],
        **_pictures(samples),
    }


def _pictures(samples: list[Sample]) -> dict[str, torch.Tensor]:
    parts = [sample.features for sample in samples]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def save_random(model: str, folder: Path, device: str) -> Path:
    """Write a model of random weights in bfloat16, with the tiny model's tokenizer and processor.

    A model folder is used as it is.
    """
    if Path(model).is_dir():
        return Path(model)
    torch.manual_seed(0)
    with torch.device(device):
        module = AutoModelForImageTextToText.from_config(read_config(model), dtype=torch.bfloat16)
    module.save_pretrained(folder)
    del module
    if device == "cuda":
        torch.cuda.empty_cache()
    for file in BASE.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            shutil.copy(file, folder)
    return folder
