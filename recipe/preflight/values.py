"""Whether the numbers of a configuration are numbers in their ranges: what other checks rely on."""

import math
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
# whole numbers, by key: the smallest, and whether null has a meaning
COMMON = {
    "cluster.nodes": (1, False),
    "cluster.gpus_per_node": (1, False),
    "cluster.tensor_parallel": (1, False),
    "data.train_batch_size": (1, False),
    "trainer.nnodes": (1, False),
    "trainer.n_gpus_per_node": (1, False),
    "trainer.save_freq": (-1, False),
    "trainer.test_freq": (-1, False),
    "trainer.total_epochs": (1, False),
    "trainer.total_training_steps": (1, True),
    "seed": (0, False),
}
OWN = {
    "train": {
        "data.max_prompt_length": (1, False),
        "data.max_response_length": (1, False),
        f"{ACTOR}.ppo_mini_batch_size": (1, False),
        f"{ACTOR}.fsdp_config.fsdp_size": (-1, False),
        f"{ROLLOUT}.n": (1, False),
        f"{ROLLOUT}.tensor_model_parallel_size": (1, False),
        f"{ROLLOUT}.limit_images": (1, False),
        f"{ROLLOUT}.max_num_seqs": (1, False),
        f"{ROLLOUT}.max_num_batched_tokens": (1, False),
        f"{ROLLOUT}.max_model_len": (1, True),
        "trainer.max_actor_ckpt_to_keep": (1, True),
    },
    "sft": {
        "data.max_length": (1, False),
        "engine.fsdp_size": (-1, False),
        "trainer.max_ckpt_to_keep": (1, True),
    },
}
EPOCHS = ("trainer.save_freq", "trainer.test_freq")
AFTER_EACH_EPOCH = "after_each_epoch"
"""What verl's SFT trainer takes in the place of a number of steps."""

# either the tokens or the rows of a micro-batch count
DYNAMIC = {
    "train": (
        f"{ACTOR}.use_dynamic_bsz",
        f"{ACTOR}.ppo_max_token_len_per_gpu",
        f"{ACTOR}.ppo_micro_batch_size_per_gpu",
    ),
    "sft": ("data.use_dynamic_bsz", "data.max_token_len_per_gpu", "data.micro_batch_size_per_gpu"),
}


def value_faults(config: DictConfig, program: str) -> Iterator[str]:
    """Numbers that are none, or out of their range, one line each."""
    for key, (least, optional) in {**COMMON, **OWN[program]}.items():
        if program == "sft" and key in EPOCHS and _value(config, key) == AFTER_EACH_EPOCH:
            continue
        yield from _whole(config, key, least, optional)
    switch, tokens, rows = DYNAMIC[program]
    yield from _whole(config, tokens if _value(config, switch) is True else rows, 1)
    if program == "train":
        yield from _real(config, f"{ROLLOUT}.temperature", math.inf)
        if OmegaConf.select(config, "cluster.platform") == "cuda":
            yield from _real(config, f"{ROLLOUT}.gpu_memory_utilization", 1.0)
    if OmegaConf.select(config, "cluster.platform") == "cuda":
        yield from _real(config, "cluster.gpu_memory_gib", math.inf)


def saves(config: DictConfig) -> bool:
    """Whether a run saves checkpoints by itself."""
    frequency = config.trainer.save_freq
    return bool(frequency == AFTER_EACH_EPOCH or frequency > 0)


def _value(config: DictConfig, key: str) -> Any:
    """A value; the fault as a text where it cannot be had."""
    try:
        return OmegaConf.select(config, key, throw_on_missing=True)
    except OmegaConfBaseException as error:
        return f"({' '.join(str(error).split())})"


def _whole(config: DictConfig, key: str, least: int, optional: bool = False) -> Iterator[str]:
    value = _value(config, key)
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        null = " or null" if optional else ""
        shown = "null" if value is None else value
        yield f"{key}={shown}: give a whole number from {least}{null}"


def _real(config: DictConfig, key: str, most: float) -> Iterator[str]:
    value = _value(config, key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        upper = "" if most == math.inf else f", {most:g} at most"
        yield f"{key}={'null' if value is None else value}: give a number above 0{upper}"
