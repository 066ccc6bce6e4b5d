"""What makes a run another one: each setting that changes what a resumed run learns."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from data_prep.program import InputError
from recipe.program import CONFIG_FOLDER, compose_config
from recipe.run.folder import (
    COMMON,
    FILE,
    OF_PROGRAM,
    check_same_run,
    is_within,
    note_settings,
    settings,
)

ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
ABLATIONS = sorted((CONFIG_FOLDER / "ablation").glob("*.yaml"))
ELSEWHERE = {
    "base_model": "stored as actor_rollout_ref.model.path",
    "data.gen_batch_size": "verl sets it where algorithm.filter_groups.enable is set",
    "data.val_max_samples": "of validation only",
    "trainer.val_before_train": "of validation only",
    "trainer.val_only": "of validation only",
}
"""Keys of ablations that the identity need not have, and why."""


def run(folder: Path, *overrides: str, program: str = "train") -> DictConfig:
    """The configuration of a run in `folder`."""
    fixed = ["data.dir=DIR", "cluster=cpu", "model.path=MODEL", f"run_dir={folder}"]
    return compose_config(program, [*fixed, *overrides])


def leaves(values: dict[str, Any], above: str = "") -> Iterator[str]:
    """The keys of nested values."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{above}{name}.")
        elif name != "defaults":
            yield f"{above}{name}"


@pytest.mark.parametrize("file", ABLATIONS, ids=lambda file: file.stem)
def test_each_key_of_an_ablation_is_part_of_the_identity(file: Path) -> None:
    values: Any = OmegaConf.to_container(OmegaConf.load(file))
    keys = (*COMMON, *OF_PROGRAM["train"])
    missing = [name for name in leaves(values) if not any(is_within(name, key) for key in keys)]
    assert set(missing) <= set(ELSEWHERE)


@pytest.mark.parametrize(
    ("program", "change", "told"),
    [
        ("train", f"{ROLLOUT}.temperature=0.7", "temperature=1.0, here 0.7"),
        ("train", f"{ROLLOUT}.top_k=20", "top_k"),
        ("train", f"{ACTOR}.clip_ratio_high=0.28", "clip_ratio_high"),
        ("train", f"{ACTOR}.entropy_coeff=0.01", "entropy_coeff"),
        ("train", f"{ACTOR}.loss_scale_factor=100", "loss_scale_factor"),
        ("train", f"{ACTOR}.optim.weight_decay=0.1", "weight_decay"),
        ("train", f"+{ACTOR}.optim.override_optimizer_config.rates=[{{match: a, lr: 0}}]", "rates"),
        ("train", "+data.apply_chat_template_kwargs.enable_thinking=false", "enable_thinking"),
        ("train", "lora.alpha=7", "lora_alpha"),
        ("sft", "lora.alpha=7", "lora_alpha"),
        ("sft", "lora.excluded=visual", "exclude_modules"),
        ("sft", "+data.apply_chat_template_kwargs.enable_thinking=false", "enable_thinking"),
    ],
)
def test_a_change_of_what_is_learned_is_refused(
    program: str, change: str, told: str, tmp_path: Path
) -> None:
    first = ["lora=r16"] if change.startswith("lora.") else []
    note_settings(run(tmp_path, *first, program=program), program)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    check_same_run(run(tmp_path, *first, program=program), program)
    with pytest.raises(InputError, match=told):
        check_same_run(run(tmp_path, *first, change, program=program), program)


def test_the_machine_may_change(tmp_path: Path) -> None:
    note_settings(run(tmp_path), "train")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    fixed = ["data.dir=DIR", "model.path=MODEL", f"run_dir={tmp_path}"]
    check_same_run(compose_config("train", [*fixed, "cluster=h100x8"]), "train")


def test_a_setting_that_an_earlier_version_did_not_store_is_no_difference(tmp_path: Path) -> None:
    stored = settings(run(tmp_path), "train")
    for name in ("actor_rollout_ref.model.lora_alpha", f"{ACTOR}.clip_ratio_low"):
        del stored[name]
    (tmp_path / FILE).write_text(json.dumps(stored))
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    check_same_run(run(tmp_path), "train")
    weight = "reward.custom_reward_function.reward_kwargs.weights.another"
    with pytest.raises(InputError, match="another=None, here 1"):
        check_same_run(run(tmp_path, f"+{weight}=1"), "train")
