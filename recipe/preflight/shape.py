"""A model's shape and parameter counts, without its weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recipe.errors import InputError
from recipe.settings import CONFIG_FOLDER

SHAPES = CONFIG_FOLDER / "shape"


@dataclass(frozen=True)
class ModelShape:
    """What memory depends on; counts are of parameters, widths of channels.

    `root` counts the parameters outside of all blocks (embeddings, output layer, the vision
    tower's ends), `block` those of the largest block. `factor` is the side in pixels of an image
    token, None where the model sees no images.
    """

    name: str
    parameters: int
    root: int
    block: int
    largest: int
    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    positions: int
    vision_layers: int
    vision_width: int
    vision_inner: int
    merge: int
    factor: int | None
    tied: bool


def read_shape(path: str) -> ModelShape:
    """The shape of a model folder, or of a hub name that `configs/shape` has an entry for.

    The model is built on torch's meta device, which takes no memory, and its parameters counted.

    Raises:
        InputError: the model is neither here nor known, or transformers does not know its type.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    loaded = _config_of(path)
    try:
        config = AutoConfig.for_model(**loaded)
        with torch.device("meta"):
            if getattr(config, "vision_config", None) is None:
                model = AutoModelForCausalLM.from_config(config)
            else:
                model = AutoModelForImageTextToText.from_config(config)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"model.path={path}: transformers builds no model from its config.json ({error})"
        ) from error
    return _measure(path, config, model)


def _config_of(path: str) -> dict[str, Any]:
    """The ``config.json`` of a folder, or the entry for a hub name."""
    file = Path(path) / "config.json"
    if file.is_file():
        loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return loaded
    known = {}
    for entry in sorted(SHAPES.glob("*.yaml")):
        shape = yaml.safe_load(entry.read_text(encoding="utf-8"))
        known[shape["name"]] = shape["config"]
    if path not in known:
        raise InputError(
            f"model.path={path}: its shape is not known here: download the model and give its "
            f"folder, or add an entry to configs/shape (there are {', '.join(known)})"
        )
    return dict(known[path])


def _measure(path: str, config: Any, model: Any) -> ModelShape:
    blocks = set(model._no_split_modules or ())
    sizes: Mapping[str, int] = {
        name: sum(p.numel() for p in module.parameters())
        for name, module in model.named_modules()
        if type(module).__name__ in blocks
    }
    total = sum(parameter.numel() for parameter in model.parameters())
    text = getattr(config, "text_config", config)
    vision = getattr(config, "vision_config", None)
    heads = text.num_attention_heads
    return ModelShape(
        name=path,
        parameters=total,
        root=total - sum(sizes.values()),
        block=max(sizes.values(), default=total),
        largest=max(parameter.numel() for parameter in model.parameters()),
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        inner=text.intermediate_size,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", heads),
        head_width=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocabulary=text.vocab_size,
        positions=text.max_position_embeddings,
        vision_layers=vision.depth if vision else 0,
        vision_width=vision.hidden_size if vision else 0,
        vision_inner=getattr(vision, "intermediate_size", 0) or 0,
        merge=vision.spatial_merge_size if vision else 1,
        factor=vision.patch_size * vision.spatial_merge_size if vision else None,
        tied=bool(config.tie_word_embeddings),
    )
