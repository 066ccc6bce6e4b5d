"""``python -m recipe.export``: export a checkpoint to a Hugging Face folder.

The folder has weights (shards and LoRA adapters merged), processor, chat template and a model card
filled in from the run. It loads in transformers 4.57 and 5, and in the vLLM versions of their time.
"""

import argparse
import json
import math
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors import safe_open
from tqdm import tqdm

from data_prep.program import InputError, whole_folder, write_whole
from recipe.evaluate.results import read_results
from recipe.model_card import base_model, card
from recipe.run.checkpoints import Source, find_model, load_json, run_folder
from recipe.run.folder import read_run_config

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_PROCESSORS = {
    "image_processor": "preprocessor_config.json",
    "video_processor": "video_preprocessor_config.json",
}
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<side>A|B)(?:\.default)?\.weight")


def loadable(path: str, work: Path) -> str:
    """Return a folder or hub name that transformers and vLLM can load.

    Shards are merged into a folder in `work`.

    Raises:
        InputError: there is no model at `path`.
    """
    if not Path(path).is_dir():
        return path
    source = find_model(path, "model.path")
    if source.shards is None:
        return str(source.folder)
    merged = work / "model"
    write_model(source, merged, base=None, dtype="keep")
    return str(merged)


def write_model(source: Source, out: Path, base: Path | None, dtype: str) -> None:
    """Write weights, configuration, tokenizer, processor and chat template.

    The folder replaces `out` only when it is complete. `base` is the model that LoRA adapters were
    trained on; None for the one that the run names. `dtype` is one of `DTYPES`.

    Raises:
        InputError: the weights cannot be merged, or the processor has no chat template.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()
    precision = None if dtype == "keep" else getattr(torch, dtype)
    with whole_folder(out) as unfinished:
        if source.shards is not None:
            merge(source, base or _named_base(source), unfinished, precision)
        elif precision is None:
            for file in source.folder.iterdir():
                if file.is_file():
                    shutil.copy2(file, unfinished)
        else:
            model = AutoModelForImageTextToText.from_pretrained(source.folder, dtype=precision)
            model.save_pretrained(unfinished)
            AutoProcessor.from_pretrained(source.folder).save_pretrained(unfinished)
        add_older_forms(unfinished)
        if not getattr(AutoProcessor.from_pretrained(unfinished), "chat_template", None):
            raise InputError(f"{source.folder}: the processor has no chat template to export")


def _named_base(source: Source) -> Path | None:
    """Return the local model that the run of the adapters names, if there is one."""
    run = run_folder(source) if source.lora else None
    named = base_model(OmegaConf.create(read_run_config(run))) if run else None
    return Path(named) if named and Path(named).is_dir() else None


def merge(source: Source, base: Path | None, out: Path, dtype: torch.dtype | None) -> None:
    """Merge a checkpoint's shards into the Hugging Face folder `out`, which is empty or new.

    `base` is needed for shards that hold only adapters. Without a `dtype` that of the shards is
    kept.

    Raises:
        InputError: shards are missing, or adapters have no base or are of an unknown kind.
    """
    from accelerate import init_empty_weights  # type: ignore[import-untyped]
    from transformers import (
        AutoConfig,
        AutoModelForImageTextToText,
        AutoProcessor,
        GenerationConfig,
    )
    from verl.utils.transformers_compat import drop_tied_target_keys

    assert source.shards is not None
    state = read_shards(source.shards)
    if source.lora:
        meta = load_json(source.shards / "lora_train_meta.json")
        weights = {}
        if base:
            weights = AutoModelForImageTextToText.from_pretrained(base, dtype="auto").state_dict()
        state = merge_adapters(state, meta, weights)
    if dtype:
        state = {name: weight.to(dtype) for name, weight in state.items()}
    config = AutoConfig.from_pretrained(source.folder)
    kind = next(weight.dtype for weight in state.values() if weight.is_floating_point())
    with init_empty_weights():
        model = AutoModelForImageTextToText.from_config(config, dtype=kind)
    model.to_empty(device="cpu")
    drop_tied_target_keys(state, model, config)
    if (source.folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(source.folder)
    model.save_pretrained(out, state_dict=state)
    AutoProcessor.from_pretrained(source.folder).save_pretrained(out)


def read_shards(folder: Path) -> dict[str, torch.Tensor]:
    """Read the shards of all ranks in a folder and merge them into complete weights, by name.

    Raises:
        InputError: the shard of a rank is missing.
    """
    from torch.distributed.tensor import DTensor
    from verl.model_merger.fsdp_model_merger import FSDPModelMerger, merge_non_dtensor_shards

    world = int(load_json(folder / "fsdp_config.json").get("world_size", 0)) or _world_size(folder)
    ranks = []
    for rank in tqdm(range(world), desc="reading shards", unit="shard", delay=2):
        file = folder / f"model_world_size_{world}_rank_{rank}.pt"
        if not file.is_file():
            raise InputError(f"{file}: no such shard; all {world} ranks' are needed")
        ranks.append(torch.load(file, map_location="cpu", weights_only=False))
    weights = {}
    for name in ranks[0]:
        parts = [rank.pop(name) if rank is not ranks[0] else rank[name] for rank in ranks]
        if isinstance(parts[0], DTensor):
            # With replicas ("ddp", "fsdp") only the last axis is sharded, and its ranks come first.
            local = [part._local_tensor for part in parts][: parts[0].device_mesh.mesh.shape[-1]]
            placement = parts[0].placements[-1]
            weights[name] = FSDPModelMerger._merge_by_placement(None, local, placement)
        else:
            weights[name] = merge_non_dtensor_shards(name, parts)
    return weights


def merge_adapters(
    state: dict[str, torch.Tensor], meta: dict[str, Any], base: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Add LoRA adapters to their weights: W + alpha / r * B A (Hu et al., LoRA, 2021).

    `state` is that of a PEFT model, and `base` holds the weights that it lacks. `meta` is verl's
    `lora_train_meta.json`, with `r` and `lora_alpha`.

    Raises:
        InputError: no rank or scale, an adapter without its weight or other half, or not LoRA's.
    """
    if not meta.get("r") or not meta.get("lora_alpha"):
        raise InputError("lora_train_meta.json: no r or lora_alpha, so the scale is not known")
    scale = float(meta["lora_alpha"]) / float(meta["r"])
    adapters: dict[str, dict[str, torch.Tensor]] = {}
    merged = dict(base)
    for name, weight in state.items():
        plain = name.removeprefix("base_model.model.")
        if match := _LORA.fullmatch(plain):
            adapters.setdefault(match["module"], {})[match["side"]] = weight
        elif "lora_" in plain or "modules_to_save" in plain:
            raise InputError(f"adapter parameter {name}: of a kind that cannot be merged here")
        else:
            merged[plain.replace(".base_layer.", ".")] = weight
    for module, sides in adapters.items():
        target = f"{module}.weight"
        if target not in merged or len(sides) != 2:
            raise InputError(
                f"adapter of {module}: its weight or its other half is missing; name the model it "
                "was trained on with --base"
            )
        change = scale * (sides["B"].float() @ sides["A"].float())
        merged[target] = (merged[target].float() + change).to(merged[target].dtype)
    return merged


def _world_size(folder: Path) -> int:
    names = (path.name for path in folder.glob("model_world_size_*_rank_*.pt"))
    return max(int(name.split("_")[3]) for name in names)


def add_older_forms(folder: Path) -> None:
    """Add the forms of transformers 4 to a Hugging Face folder; a second call changes nothing.

    A folder that does not exist, as on another node's disk, is not created. If the folder has
    weights, the configuration also gets their precision: verl and transformers state it wrongly
    if a model was loaded in another precision than it was trained in.
    """
    _rewrite(folder / "config.json", lambda config: _with_dtype(_with_rope(config), folder))
    _rewrite(folder / "tokenizer_config.json", _with_older_names)
    processors = load_json(folder / "processor_config.json")
    for part, file in _PROCESSORS.items():
        if part in processors:
            processor_class = {"processor_class": processors.get("processor_class")}
            _write(folder / file, _with_pixels(processors[part]) | processor_class)


def _with_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Add `rope_theta` and `rope_scaling` to each `rope_parameters`, at all depths."""
    extended = {
        key: _with_rope(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key != "rope_parameters"
    }
    if rope := config.get("rope_parameters"):
        extended["rope_parameters"] = rope
        if "rope_theta" in rope:  # absent if each kind of layer has its parameters
            scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
            extended["rope_theta"] = rope["rope_theta"]
            extended["rope_scaling"] = None if scaling == {"rope_type": "default"} else scaling
    return extended


def _with_dtype(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Set the precision of most of the weights, under its old and its new name."""
    kind = _weights_dtype(folder) or config.get("dtype")
    if kind is None:
        return config
    parts = {
        key: value | {"dtype": kind}
        for key, value in config.items()
        if isinstance(value, dict) and "dtype" in value
    }
    return config | parts | {"dtype": kind, "torch_dtype": kind}


def _weights_dtype(folder: Path) -> str | None:
    """Return the precision of most weights in the safetensors files, None without any."""
    sizes: Counter[str] = Counter()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no mapping)
                tensor = tensors.get_slice(name)
                sizes[tensor.get_dtype()] += math.prod(tensor.get_shape())
    known = [_DTYPES[kind] for kind, _ in sizes.most_common() if kind in _DTYPES]
    return known[0] if known else None


def _with_older_names(config: dict[str, Any]) -> dict[str, Any]:
    """Use the names of special tokens and of the tokenizer's class that both versions read."""
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    return config


def _with_pixels(processor: dict[str, Any]) -> dict[str, Any]:
    """Add Qwen's pixel limits under the names that they had before `size`."""
    size = processor.get("size") or {}
    old = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}
    if not set(old.values()) <= set(size):
        return processor
    return processor | {name: size[new] for name, new in old.items()}


def _rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    if path.is_file():
        _write(path, change(load_json(path)))


def _write(path: Path, content: dict[str, Any]) -> None:
    if load_json(path) != content:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        write_whole(path, text)


def _check_evaluated(source: Source, evaluation: Path) -> None:
    """Warn if an evaluation is of another checkpoint; an older one does not say of which."""
    evaluated = read_results(evaluation).get("checkpoint")
    folder = (source.shards or source.folder).resolve()
    if evaluated and Path(evaluated) != folder:
        print(
            f"warning: --evaluation {evaluation} is of {evaluated}, not of {folder}: the model "
            "card has its numbers",
            file=sys.stderr,
        )


DTYPES = ("keep", "float32", "bfloat16", "float16")


def main(arguments: Sequence[str] | None = None) -> int:
    """Export and print the folder; on failure print one line to stderr and return 2."""
    parser = argparse.ArgumentParser(prog="python -m recipe.export", description=__doc__)
    add = parser.add_argument
    add(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="global_step_N of recipe.sft or recipe.train, their run folder (the last step is "
        "taken), or a Hugging Face folder",
    )
    add("out", type=Path, metavar="OUT", help="folder to write; new or empty")
    add("--dtype", choices=DTYPES, default="keep", help="of the weights (keep: as trained)")
    add(
        "--base",
        type=Path,
        metavar="FOLDER",
        help="model that LoRA adapters were trained on (default: the one that the run names)",
    )
    add(
        "--evaluation",
        type=Path,
        metavar="FOLDER",
        help="folder of recipe.evaluate, whose numbers go into the model card",
    )
    options = parser.parse_args(arguments)
    try:
        if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
            raise InputError(f"{options.out}: exists and is not empty; name another folder")
        source = find_model(options.checkpoint, "CHECKPOINT")
        text = card(options.out.name, source, options.evaluation)
        if options.evaluation:
            _check_evaluated(source, options.evaluation)
        write_model(source, options.out, options.base, options.dtype)
        (options.out / "README.md").write_text(text, encoding="utf-8")
    except (InputError, OSError) as error:
        print(f"recipe.export: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
