"""A model's folder, configuration, processor and shape, read without its weights."""

import functools
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_prep.coordinates import MODEL_FAMILIES
from data_prep.program import InputError
from recipe.program import CONFIG_FOLDER

SHAPES = CONFIG_FOLDER / "shape"
TIMEOUT = 3.0
"""Seconds that the hub has to answer."""

_QWEN = re.compile(r"qwen-?(?P<version>\d(?:[._]\d)?)[-_]?(?P<vl>vl)?", re.IGNORECASE)
# whose processors verl 0.9.1 loads (verl.utils.tokenizer.hf_processor); of any other it only warns
_WITH_PROCESSOR = {"qwen2_vl", "glm4v", "glm4v_moe", "glm46v", "mllama", "gemma4", *MODEL_FAMILIES}


def check_model_folder(path: str, key: str) -> dict[str, Any]:
    """Check a local model folder and return its ``config.json``.

    A path that is no local folder is read as a hub name, see `hub_config`.

    Raises:
        InputError: the folder has no configuration, weights, tokenizer or image processor.
    """
    folder = Path(path)
    if not folder.exists():
        if path.startswith((".", "/", "~")) or path.count("/") != 1:
            raise InputError(f"{key}={path}: no such folder")
        return hub_config(path)
    if not (folder / "config.json").is_file():
        raise InputError(f"{key}={path}: no config.json; give a Hugging Face model folder")
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"{key}={path}: no *.safetensors weights in this folder")
    if not (folder / "tokenizer_config.json").is_file():
        raise InputError(f"{key}={path}: no tokenizer_config.json; copy that of the base model")
    names = ("preprocessor_config.json", "processor_config.json")
    if not any((folder / name).is_file() for name in names):
        raise InputError(
            f"{key}={path}: no preprocessor_config.json; copy the processor of the base model, or "
            "save it with AutoProcessor.save_pretrained"
        )
    try:
        return json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise InputError(
            f"{key}={path}: its config.json is not JSON ({error}): copy that of the base model"
        ) from error


def family_fault(model: Mapping[str, Any], path: str) -> str:
    """Return why models of this ``config.json`` cannot be trained here; empty if they can.

    verl would train a family whose processor it does not know without its pictures.
    """
    family = model.get("model_type")
    if not family or family in MODEL_FAMILIES:
        return ""
    if not model.get("vision_config") and family not in _WITH_PROCESSOR:
        reason = "a text model, which takes no pictures"
    elif family in _WITH_PROCESSOR:
        reason = "it is not known here in which coordinates its boxes are"
    else:
        reason = "verl 0.9.1 does not load its image processor, and would train without pictures"
    return (
        f"model.path={path}: the family {family} cannot be trained here: {reason}: choose a model "
        f"of {', '.join(MODEL_FAMILIES)}"
    )


def load_processor(path: str) -> Any:
    """Load the processor of a model; None for a hub name whose files cannot be fetched.

    Raises:
        InputError: the processor of a folder does not load, or has no chat template.
    """
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(path, local_files_only=not is_on_hub(path))
    except Exception as error:  # broken files may raise anything
        if not Path(path).is_dir():
            print(
                f"note: model.path={path}: its tokenizer is not here and cannot be fetched, so "
                "it is not checked whether rows are too long",
                file=sys.stderr,
            )
            return None
        raise InputError(
            f"model.path={path}: its processor does not load ({type(error).__name__}: {error}): "
            "copy tokenizer and processor of the base model"
        ) from error
    if not getattr(processor, "chat_template", None):
        raise InputError(
            f"model.path={path}: no chat template: copy chat_template.jinja of the base model"
        )
    return processor


def known_shapes() -> dict[str, dict[str, Any]]:
    """Load the configurations of ``configs/shape``, by hub name."""
    loaded = [yaml.safe_load(file.read_text("utf-8")) for file in sorted(SHAPES.glob("*.yaml"))]
    return {shape["name"]: shape["config"] for shape in loaded}


@functools.cache
def hub_config(name: str) -> dict[str, Any]:
    """Return ``config.json`` of a hub name, or only its ``model_type``.

    Look for it in the hub's cache on this machine, in ``configs/shape`` and on the hub. Otherwise
    take the type from the name; if that fails, return nothing, and print that the data is not
    compared with the model.
    """
    config = _cached(name) or known_shapes().get(name) or _fetched(name)
    if config:
        return config
    match = _QWEN.search(name)
    if match and (match["vl"] or match["version"] in ("3.5", "3_5")):
        suffix = "_vl" if match["vl"] else ""
        return {"model_type": f"qwen{match['version'].replace('.', '_')}{suffix}"}
    print(
        f"note: model.path={name}: its family is unknown (the hub does not answer), so it is "
        "not checked whether the data was prepared for it",
        file=sys.stderr,
    )
    return {}


def is_on_hub(path: str) -> bool:
    """Return whether a model has to be fetched and the hub has it.

    Without an answer the hub's own client would retry for half a minute.
    """
    return not Path(path).is_dir() and not _cached(path) and bool(_fetched(path))


def _cached(name: str) -> dict[str, Any]:
    from huggingface_hub import try_to_load_from_cache

    try:
        file = try_to_load_from_cache(name, "config.json")
        return dict(json.loads(Path(str(file)).read_text("utf-8")))
    except (OSError, ValueError):  # not in the cache, or no valid hub name
        return {}


@functools.cache
def _fetched(name: str) -> dict[str, Any]:
    """Ask the hub once, unless ``HF_HUB_OFFLINE`` is set."""
    from huggingface_hub import get_session, get_token, hf_hub_url

    token = get_token()
    try:
        answer = get_session().get(
            hf_hub_url(name, "config.json"),
            headers={"authorization": f"Bearer {token}"} if token else {},
            timeout=TIMEOUT,
            follow_redirects=True,
        )
        return dict(answer.raise_for_status().json())
    except Exception:  # no network, no such model or no access: may raise anything
        return {}


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model that memory depends on; widths are in channels.

    `root` counts the parameters outside of all blocks (embeddings, output layer, the vision
    tower's ends), `block` those of the largest block. `factor` is the side of an image token in
    pixels; None if the model takes no images.
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
    vision_heads: int
    merge: int
    factor: int | None
    tied: bool

    def splits_over(self, count: int) -> bool:
        """Return whether vLLM can split both parts of the model over so many GPUs."""
        return not any(each % count for each in (self.heads, self.vision_heads, self.vision_inner))


def read_shape(path: str) -> ModelShape:
    """Read the shape of a model folder or of a hub name.

    The parameters are those of a model on torch's meta device, which takes no memory.

    Raises:
        InputError: the model is neither local nor known, or transformers does not know its type.
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
            f"model.path={path}: transformers cannot build a model from its config.json ({error})"
        ) from error
    return _measure(path, config, model)


def _config_of(path: str) -> dict[str, Any]:
    """Return the ``config.json`` of a folder or of a hub name."""
    file = Path(path) / "config.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    config = hub_config(path)
    if not config.keys() - {"model_type"}:
        raise InputError(
            f"model.path={path}: its shape is not known here, so memory is not calculated: "
            "download the model and give its folder, or add an entry to configs/shape (there are "
            f"{', '.join(known_shapes())})"
        )
    return config


def _measure(path: str, config: Any, model: Any) -> ModelShape:
    blocks = set(model._no_split_modules or ())
    sizes = {
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
        vision_heads=getattr(vision, "num_heads", 0) or 0,
        merge=vision.spatial_merge_size if vision else 1,
        factor=vision.patch_size * vision.spatial_merge_size if vision else None,
        tied=bool(config.tie_word_embeddings),
    )
