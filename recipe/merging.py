"""Weights out of the shards that verl's FSDP ranks write, in the precision they were trained in.

verl's own merger turns every weight into bfloat16, which changes what a float32 model answers, and
leaves LoRA adapters beside their base. Its two functions that put shards together are used here.
"""

import re
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from recipe.checkpoints import Source, load_json
from recipe.errors import InputError

_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<side>A|B)(?:\.default)?\.weight")


def merge(source: Source, base: Path | None, out: Path, dtype: torch.dtype | None) -> None:
    """Write a Hugging Face folder with the merged weights; `out` must be empty or new.

    Args:
        source: with shards.
        base: the model that adapters were trained on, for shards that hold nothing else.
        out: folder to write.
        dtype: of the weights; None keeps that of the shards.

    Raises:
        InputError: shards are missing, or adapters have no base or are of a kind unknown here.
    """
    from accelerate import init_empty_weights  # type: ignore[import-untyped]
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
    from verl.utils.transformers_compat import drop_tied_target_keys

    assert source.shards is not None
    state = read_shards(source.shards)
    if source.lora:
        meta = load_json(source.shards / "lora_train_meta.json")
        state = merge_adapters(state, meta, _base_weights(base) if base else {})
    if dtype:
        state = {name: weight.to(dtype) for name, weight in state.items()}
    config = AutoConfig.from_pretrained(source.folder)
    kind = next(weight.dtype for weight in state.values() if weight.is_floating_point())
    with init_empty_weights():
        model = AutoModelForImageTextToText.from_config(config, dtype=kind)
    model.to_empty(device="cpu")
    drop_tied_target_keys(state, model, config)
    if (source.folder / "generation_config.json").is_file():
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig.from_pretrained(source.folder)
    model.save_pretrained(out, state_dict=state)
    AutoProcessor.from_pretrained(source.folder).save_pretrained(out)


def read_shards(folder: Path) -> dict[str, torch.Tensor]:
    """All weights by name, whole.

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
    whole = {}
    for name in ranks[0]:
        parts = [rank.pop(name) if rank is not ranks[0] else rank[name] for rank in ranks]
        if isinstance(parts[0], DTensor):
            # With replicas ("ddp", "fsdp"), the last axis is the sharded one and comes first.
            local = [part._local_tensor for part in parts][: parts[0].device_mesh.mesh.shape[-1]]
            placement = parts[0].placements[-1]
            whole[name] = FSDPModelMerger._merge_by_placement(None, local, placement)
        else:
            whole[name] = merge_non_dtensor_shards(name, parts)
    return whole


def merge_adapters(
    state: dict[str, torch.Tensor], meta: dict[str, Any], base: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Weights with LoRA adapters added: W + alpha / r * B A (Hu et al., LoRA, 2021).

    Args:
        state: of a PEFT model; without base weights, `base` holds them.
        meta: verl's `lora_train_meta.json`, with `r` and `lora_alpha`.
        base: weights by the base model's own names.

    Raises:
        InputError: no rank or scale, an adapter without its weight or its other half, or a
            parameter of an adapter that is not LoRA's.
    """
    if not meta.get("r") or not meta.get("lora_alpha"):
        raise InputError("lora_train_meta.json: no r or lora_alpha, so the scale is not known")
    scale = float(meta["lora_alpha"]) / float(meta["r"])
    adapters: dict[str, dict[str, torch.Tensor]] = {}
    merged = dict(base)
    for name, weight in state.items():
        plain = name.removeprefix("base_model.model.")
        if found := _LORA.fullmatch(plain):
            adapters.setdefault(found["module"], {})[found["side"]] = weight
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


def _base_weights(folder: Path) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
    weights: dict[str, torch.Tensor] = model.state_dict()
    return weights


def _world_size(folder: Path) -> int:
    names = (path.name for path in folder.glob("model_world_size_*_rank_*.pt"))
    return max(int(name.split("_")[3]) for name in names)
