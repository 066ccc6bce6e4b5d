"""The golden configurations: `configs.json`, every shipped composition fully resolved.

The base of each program is written whole, as a flat object of dotted keys, and each other
composition as what it sets and removes. A composition is named by its overrides.
"""

import json
import os
import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

from omegaconf import OmegaConf

from recipe.program import compose_config

CONFIGS = Path(__file__).with_name("configs.json")
FOLDER = Path(__file__).parents[2] / "configs"
FRACTIONS = ("1of2", "1of4", "1of8", "1of16")
BASE = "data.dir=DIR"
TINY = "cluster=cpu model=tiny model.path=MODEL"
JUDGE = "reward=paper_judge reward.custom_reward_function.reward_kwargs.judge.base_url=URL"
SERVED_JUDGE = (
    "reward=paper_judge reward.reward_model.enable=true reward.reward_model.model_path=MODEL "
    "reward.reward_model.enable_resource_pool=true reward.reward_model.nnodes=1 "
    "reward.reward_model.n_gpus_per_node=8 reward.reward_model.rollout.name=vllm "
    "reward.reward_model.rollout.tensor_model_parallel_size=8 "
    "reward.reward_model.rollout.free_cache_engine=false"
)
STUDY = (
    "data.fraction=1of8 run_dir=RUN trainer.total_training_steps=400 trainer.total_epochs=10000 "
    "trainer.save_freq=400 trainer.logger=[console,file]"
)
SEVEN_B = "model=qwen2_5_vl_7b cluster=h100x8"

COMBINATIONS = {
    "train": (
        f"{SEVEN_B} reward=dense data.fraction=1of8 model.path=MODEL",
        f"{SEVEN_B} cluster.nodes=2 reward=paper data.fraction=1of8 model.path=MODEL",
        "model=qwen2_5_vl_3b cluster=h100x8 reward=paper",
        "run_dir=RUN reward=paper cluster.nodes=2",
        JUDGE,
        SERVED_JUDGE,
        TINY,
        f"{TINY} seed=0 experiment=demo_grpo run_dir=RUN trainer.total_training_steps=34 "
        "data.train_batch_size=16 actor_rollout_ref.rollout.n=8",
        f"{TINY} seed=1 experiment=demo_grpo reward=paper {STUDY} data.train_batch_size=16 "
        "actor_rollout_ref.actor.ppo_mini_batch_size=16 actor_rollout_ref.rollout.n=8",
        f"{TINY} experiment=demo_grpo ablation=dapo",
        "reward=paper ablation=gdpo",
        "actor_rollout_ref.rollout.n=16",
        "actor_rollout_ref.actor.kl_loss_coef=0.001",
        "reward.custom_reward_function.reward_kwargs.weights.alignment=0",
        "trainer.logger=[console]",
        "data.reasoning=false",
        "+data.apply_chat_template_kwargs.enable_thinking=false",
        "actor_rollout_ref.model.lora_rank=16",
    ),
    "sft": (
        SEVEN_B,
        f"{SEVEN_B} cluster.nodes=2",
        f"{TINY} seed=0 experiment=demo_sft run_dir=RUN trainer.total_training_steps=400",
        f"{TINY} seed=1 experiment=demo_sft {STUDY} trainer.test_freq=-1",
        "data.reasoning=false",
        "data.filter_overlong_rows=true",
        "coordinate_smoothing=2",
    ),
    "evaluate": (
        f"{SEVEN_B} model.path=outputs/grpo",
        f"{TINY} seed=0 experiment=demo_evaluate out=OUT +beside.SFT=SFT",
        f"{TINY} experiment=demo_evaluate sampling.samples=0 +beside.SFT=SFT",
        "server.base_url=URL",
        "predictions=FOLDER",
        "preset=paper_judge judge.base_url=URL",
        "ar_score=true judge.base_url=URL",
        "+data.apply_chat_template_kwargs.enable_thinking=false",
        "data.split=val seed=3",
    ),
}
"""Beside every entry of every group, what README, docs, demo and study run."""

# An entry may need a value that a user has to give, and an experiment belongs to one program.
_NEEDED = {
    "model=tiny": "model.path=MODEL",
    "model=any": "model.path=MODEL",
    "ablation=rl_only": "base_model=BASE",
}
_EXPERIMENTS = {"train": "demo_grpo", "sft": "demo_sft", "evaluate": "demo_evaluate"}
_GROUPS = {
    "train": ("model", "lora", "cluster", "reward", "ablation"),
    "sft": ("model", "lora", "cluster"),
    "evaluate": ("model", "cluster"),
}
# Where a class or module of the recipe lies may change, what it is called there may not.
_RECIPE_CODE = re.compile(r"(?<=recipe\.)\w+(\.\w+)*?(?=(\.[A-Z]\w*)?$)")

Flat = dict[str, Any]


def compositions(program: str) -> list[str]:
    """Return the overrides of every composition of a program, each as one text."""
    overrides = [""]
    for group in _GROUPS[program]:
        overrides += [f"{group}={path.stem}" for path in sorted((FOLDER / group).glob("*.yaml"))]
    if program == "evaluate":
        overrides += [f"preset={path.stem}" for path in sorted((FOLDER / "reward").glob("*.yaml"))]
    else:
        overrides += [f"data.fraction={fraction}" for fraction in FRACTIONS]
    overrides.append(f"experiment={_EXPERIMENTS[program]}")
    overrides += COMBINATIONS[program]
    return list(dict.fromkeys(overrides))


def compose(program: str, overrides: str) -> Flat:
    """Compose and resolve a configuration; keys are dotted, lists are values."""
    needed = [_NEEDED[word] for word in overrides.split() if word in _NEEDED]
    missing = [word for word in needed if word.partition("=")[0] + "=" not in overrides]
    with patch.dict(os.environ):
        os.environ.pop("THINKVG_STOP_FILE", None)
        config = compose_config(program, [BASE, *overrides.split(), *missing])
        container = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    flat: Flat = json.loads(json.dumps(dict(_flatten(container, ""))))
    return flat


def _flatten(value: Any, key: str) -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [
            item
            for name, inner in value.items()
            for item in _flatten(inner, f"{key}.{name}" if key else str(name))
        ]
    if isinstance(value, str) and value.removeprefix("pkg://").startswith("recipe."):
        value = _RECIPE_CODE.sub("*", value)
    return [(key, value)]


def change(base: Flat, flat: Flat) -> dict[str, Any]:
    """Return what a configuration sets and removes, seen from the base."""
    missing = object()
    changed = {key: value for key, value in flat.items() if base.get(key, missing) != value}
    removed = [key for key in base if key not in flat]
    return ({"set": changed} if changed else {}) | ({"removed": removed} if removed else {})


def restore(base: Flat, changed: dict[str, Any]) -> Flat:
    """Return the configuration that `change` was made of."""
    unchanged = {key: value for key, value in base.items() if key not in changed.get("removed", ())}
    return unchanged | changed.get("set", {})


def make_configs() -> dict[str, Any]:
    """Compose everything, in the form of `configs.json`."""
    programs: dict[str, Any] = {}
    for program in COMBINATIONS:
        base = compose(program, "")
        names = [overrides for overrides in compositions(program) if overrides]
        programs[program] = {
            "base": base,
            "changes": {name: change(base, compose(program, name)) for name in names},
        }
    return programs


def read_configs() -> dict[str, Any]:
    """Read `configs.json`."""
    content: dict[str, Any] = json.loads(CONFIGS.read_text(encoding="utf-8"))
    return content


def compare_flat(golden: Flat, actual: Flat) -> list[str]:
    """Return a line for each key that differs."""
    absent = "absent"
    keys = sorted(golden.keys() | actual.keys())
    return [
        f"{key}: golden {json.dumps(golden[key]) if key in golden else absent}, "
        f"now {json.dumps(actual[key]) if key in actual else absent}"
        for key in keys
        if key not in golden or key not in actual or actual[key] != golden[key]
    ]
