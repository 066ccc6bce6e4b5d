"""Settings and numbers: the load of a run on each GPU, and whether values fit each other."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_prep.program import InputError
from recipe.preflight.model import ModelShape
from recipe.program import require

BYTES = {"fp32": 4, "float32": 4, "bf16": 2, "bfloat16": 2, "fp16": 2, "float16": 2, "half": 2}
GIB = 1 << 30


@dataclass(frozen=True)
class Rollout:
    """The vLLM engine beside the actor; `share` is that of the GPU's memory, -1 on a CPU."""

    tensor_parallel: int
    share: float
    bytes_per_value: int
    sequences: int
    batched_tokens: int
    sleeps: bool
    cuda_graphs: bool
    cpu_cache: float
    bucket: float  # bytes of weights that the actor sends at once


@dataclass(frozen=True)
class Workload:
    """Load of a run, with memory in bytes and lengths in tokens.

    `processes` are those of a node. `offload_all` is FSDP2's `offload_policy`. `moment_bits` are
    those of the optimizer's moments if they are fewer than a parameter's, else 0.
    """

    program: str
    nodes: int
    gpus_per_node: int
    shards: int
    gpu_memory: float
    on_cpu: bool
    stored_bytes: int
    compute_bytes: int
    offload_parameters: bool
    offload_optimizer: bool
    checkpointing: bool
    tokens: int
    sequence: int
    prompts: int
    group: int
    reference: bool
    max_pixels: int
    rollout: Rollout | None
    lora_rank: int = 0
    vision_adapters: bool = False
    offload_all: bool = False
    moment_bits: int = 0
    fused_optimizer: bool = False
    processes: int = 0

    @property
    def trained_bytes(self) -> int:
        """Bytes of a trained parameter: adapters are float32, also on a base in bfloat16."""
        return 4 if self.lora_rank else self.stored_bytes

    @property
    def gpus(self) -> int:
        """Number of GPUs of the run, without those of a judge that verl serves."""
        return self.nodes * self.gpus_per_node


def read_workload(config: DictConfig, program: str, max_pixels: int = 0) -> Workload:
    """Read the load of ``train`` or ``sft`` from its composed configuration.

    The data's metadata gives `max_pixels`, its largest image in pixels; 0 if it is not known.

    Raises:
        InputError: a precision is unknown.
    """
    training = program == "train"
    engine = config.actor_rollout_ref.actor.fsdp_config if training else config.engine
    nodes, per_node = int(config.trainer.nnodes), int(config.trainer.n_gpus_per_node)
    size = int(engine.fsdp_size)
    on_cpu = config.cluster.platform == "cpu"
    model = config.actor_rollout_ref.model if training else config.model
    optim = config.actor_rollout_ref.actor.optim if training else config.optim
    sequence = (
        config.data.max_prompt_length + config.data.max_response_length
        if training
        else config.data.max_length
    )
    return Workload(
        program=program,
        nodes=nodes,
        gpus_per_node=per_node,
        shards=nodes * per_node if size < 1 else size,
        gpu_memory=(
            psutil.virtual_memory().total / per_node
            if on_cpu
            else float(config.cluster.gpu_memory_gib) * GIB
        ),
        on_cpu=on_cpu,
        stored_bytes=_bytes(engine.model_dtype or "fp32"),
        compute_bytes=_bytes(config.cluster.param_dtype),
        offload_parameters=bool(engine.param_offload or engine.offload_policy),
        offload_optimizer=bool(engine.optimizer_offload or engine.offload_policy),
        checkpointing=bool(model.enable_gradient_checkpointing),
        tokens=_tokens(config, program, sequence),
        sequence=int(sequence),
        prompts=int(config.data.train_batch_size),
        group=int(config.actor_rollout_ref.rollout.n) if training else 1,
        reference=training
        and bool(config.actor_rollout_ref.actor.use_kl_loss or config.algorithm.use_kl_in_reward),
        max_pixels=max_pixels,
        rollout=_rollout(config, on_cpu) if training else None,
        lora_rank=int(model.get("lora_rank") or 0),
        vision_adapters=not re.search("vis", str(model.get("exclude_modules"))),
        offload_all=bool(engine.offload_policy),
        moment_bits=_moment_bits(optim.optimizer),
        fused_optimizer=bool((optim.override_optimizer_config or {}).get("fused")),
        processes=processes_of(config, program),
    )


def processes_of(config: DictConfig, program: str) -> int:
    """Return the processes of a run on one node, without those of Ray itself."""
    cluster = config.cluster
    gpus = int(cluster.gpus_per_node)
    if program == "evaluate":
        return 2 + int(cluster.tensor_parallel)
    if program == "sft":
        return 1 + gpus * (1 + int(cluster.dataloader_workers))
    # a run has a runner and a controller; each GPU an actor, a vLLM server and a vLLM worker
    return 2 + 3 * gpus + 2 * int(cluster.workers) + int(cluster.transfer_queue_units)


def _moment_bits(optimizer: str) -> int:
    """Return the bits of AdamW's moments from the name of its class, 0 for those of parameters."""
    match = re.search(r"(\d)bit|fp(8)", optimizer, re.IGNORECASE)
    return int(match[1] or match[2]) if match else 0


def _bytes(precision: str) -> int:
    if precision not in BYTES:
        raise InputError(
            f"unknown precision {precision}: choose fp32, bf16 or fp16 for "
            "cluster.param_dtype, cluster.dtype and the engine's model_dtype"
        )
    return BYTES[precision]


def _tokens(config: DictConfig, program: str, sequence: int) -> int:
    """Return the tokens in one micro-batch."""
    switch, tokens, rows = DYNAMIC[program]
    if OmegaConf.select(config, switch):
        return int(OmegaConf.select(config, tokens))
    return int(OmegaConf.select(config, rows) * sequence)


def _rollout(config: DictConfig, on_cpu: bool) -> Rollout:
    rollout = config.actor_rollout_ref.rollout
    cpu_cache = config.cluster.env.get("VLLM_CPU_KVCACHE_SPACE", 4)
    return Rollout(
        tensor_parallel=int(rollout.tensor_model_parallel_size),
        share=-1.0 if on_cpu else float(rollout.gpu_memory_utilization),
        bytes_per_value=_bytes(rollout.dtype),
        sequences=int(rollout.max_num_seqs),
        batched_tokens=int(rollout.max_num_batched_tokens),
        sleeps=bool(rollout.free_cache_engine),
        cuda_graphs=not rollout.enforce_eager,
        cpu_cache=float(cpu_cache) * GIB if on_cpu else 0.0,
        bucket=float(int(config.cluster.weight_bucket_megabytes) << 20),
    )


ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
# keys of integers: the smallest value, and whether null is allowed
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
OF_PROGRAM = {
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
        "trainer.v1.thinkvg.max_drawn_batches": (1, False),
    },
    "sft": {
        "data.max_length": (1, False),
        "stuck_s": (1, False),
        "engine.fsdp_size": (-1, False),
        "trainer.max_ckpt_to_keep": (1, True),
    },
}
EPOCHS = ("trainer.save_freq", "trainer.test_freq")
AFTER_EACH_EPOCH = "after_each_epoch"
"""Value of verl's SFT trainer in place of a number of steps."""

# the switch of dynamic batches, and the keys that apply with and without them
DYNAMIC = {
    "train": (
        f"{ACTOR}.use_dynamic_bsz",
        f"{ACTOR}.ppo_max_token_len_per_gpu",
        f"{ACTOR}.ppo_micro_batch_size_per_gpu",
    ),
    "sft": ("data.use_dynamic_bsz", "data.max_token_len_per_gpu", "data.micro_batch_size_per_gpu"),
}


def check_settings(config: DictConfig) -> None:
    """Refuse a run without model or data, or with a setting of the data that has no value."""
    require(config, "model.path", "data.dir")
    try:
        OmegaConf.to_container(config.data, resolve=True)
    except OmegaConfBaseException as error:
        raise InputError(f"data: {error}") from error


def value_faults(config: DictConfig, program: str) -> Iterator[str]:
    """Yield values that are no number, or out of their range."""
    for key, (minimum, optional) in {**COMMON, **OF_PROGRAM[program]}.items():
        if program == "sft" and key in EPOCHS and _value(config, key) == AFTER_EACH_EPOCH:
            continue
        yield from _integer(config, key, minimum, optional)
    switch, tokens, rows = DYNAMIC[program]
    yield from _integer(config, tokens if _value(config, switch) is True else rows, 1)
    if program == "train":
        yield from _positive(config, f"{ROLLOUT}.temperature")
        for name in ("start", "least", "factor"):
            yield from _positive(config, f"trainer.v1.thinkvg.stuck.{name}")
        if OmegaConf.select(config, "cluster.platform") == "cuda":
            yield from _positive(config, f"{ROLLOUT}.gpu_memory_utilization", 1.0)
    if OmegaConf.select(config, "cluster.platform") == "cuda":
        yield from _positive(config, "cluster.gpu_memory_gib")


def saves(config: DictConfig) -> bool:
    """Return whether a run saves checkpoints without a request."""
    frequency = config.trainer.save_freq
    return bool(frequency == AFTER_EACH_EPOCH or frequency > 0)


def _value(config: DictConfig, key: str) -> Any:
    """Return a value, or as a text the reason why it does not resolve."""
    try:
        return OmegaConf.select(config, key, throw_on_missing=True)
    except OmegaConfBaseException as error:
        return f"({' '.join(str(error).split())})"


def _integer(config: DictConfig, key: str, minimum: int, optional: bool = False) -> Iterator[str]:
    value = _value(config, key)
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        null = " or null" if optional else ""
        text = "null" if value is None else value
        yield f"{key}={text}: give a whole number from {minimum}{null}"


def _positive(config: DictConfig, key: str, maximum: float = math.inf) -> Iterator[str]:
    value = _value(config, key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= maximum:
        upper = "" if maximum == math.inf else f", {maximum:g} at most"
        yield f"{key}={'null' if value is None else value}: give a number above 0{upper}"


def batch_faults(config: DictConfig, work: Workload) -> Iterator[str]:
    """Yield faults of batch sizes, lengths and group size."""
    if work.program == "train":
        yield from _rollout_faults(config, work)
    elif not config.data.use_dynamic_bsz:
        yield from _micro_batch_faults(config, "sft", work.prompts // work.gpus, "batch")
    rows, key = work.prompts * work.group, "data.train_batch_size"
    group = f" x {ROLLOUT}.n={work.group}" if work.group > 1 else ""
    if rows % work.gpus:
        yield (
            f"{key}={work.prompts}{group} make {rows} sequences, which cannot be split evenly over "
            f"{work.gpus} GPUs: set {key}={_next_multiple(work.prompts, work.group, work.gpus)}"
        )
    if work.tokens < work.sequence:
        yield (
            f"{DYNAMIC[work.program][1]}={work.tokens} is less than one sequence of "
            f"{work.sequence} tokens: set it to {2 * work.sequence} or shorten "
            "data.max_response_length or data.max_length"
        )


def _rollout_faults(config: DictConfig, work: Workload) -> Iterator[str]:
    actor = config.actor_rollout_ref.actor
    mini = int(actor.ppo_mini_batch_size)
    if mini > work.prompts or work.prompts % mini:
        yield (
            f"{ACTOR}.ppo_mini_batch_size={mini} does not divide "
            f"data.train_batch_size={work.prompts}: set it to {_divisor(work.prompts, mini)}"
        )
    elif mini * work.group % work.gpus and not work.prompts * work.group % work.gpus:
        yield (
            f"{ACTOR}.ppo_mini_batch_size={mini} x {ROLLOUT}.n={work.group} make "
            f"{mini * work.group} sequences, which cannot be split evenly over {work.gpus} GPUs: "
            f"set {ACTOR}.ppo_mini_batch_size={_shared(work, mini)}"
        )
    share = mini * work.group // work.gpus
    if not actor.use_dynamic_bsz:
        yield from _micro_batch_faults(config, "train", share, "mini-batch")
    if work.group < 2 and config.algorithm.adv_estimator != "reinforce_plus_plus":
        yield (
            f"{ROLLOUT}.n={work.group}: an advantage relative to the group needs at least two "
            f"rollouts of a prompt: set {ROLLOUT}.n=8"
        )


def _micro_batch_faults(config: DictConfig, program: str, share: int, whole: str) -> Iterator[str]:
    """Yield a fault if the micro-batch does not divide a GPU's `share` of the `whole` batch."""
    key = DYNAMIC[program][2]
    micro = int(OmegaConf.select(config, key) or 1)
    if share and share % micro:
        yield (
            f"{key}={micro} does not divide the {share} sequences that a GPU has in a {whole}: set "
            f"it to {_divisor(share, micro)}"
        )


def layout_faults(shape: ModelShape, work: Workload) -> Iterator[str]:
    """Yield faults of the model's layout over GPUs, and of its longest sequence."""
    if work.rollout:
        parallel, key = work.rollout.tensor_parallel, "cluster.tensor_parallel"
        if work.gpus_per_node % parallel:
            yield (
                f"{key}={parallel} does not divide cluster.gpus_per_node={work.gpus_per_node}: set "
                f"{key}={_divisor(work.gpus_per_node, parallel)}"
            )
        elif not shape.splits_over(parallel):
            smaller = max(
                count
                for count in range(1, parallel)
                if shape.splits_over(count) and not work.gpus_per_node % count
            )
            yield (
                f"{key}={parallel} does not divide the {shape.heads} attention heads of "
                f"{shape.name}, or in its vision tower the {shape.vision_heads} heads and "
                f"{shape.vision_inner} inner channels: set {key}={smaller}"
            )
    if work.rollout and work.on_cpu and not work.lora_rank:
        largest = shape.largest * work.stored_bytes
        if largest > work.rollout.bucket:
            yield (
                f"cluster.weight_bucket_megabytes={int(work.rollout.bucket) >> 20}: on a CPU the "
                f"largest weight of {shape.name} has to fit in it: set it to "
                f"{math.ceil(largest / (1 << 20))}"
            )
    if work.sequence > shape.positions:
        yield (
            f"a sequence of {work.sequence} tokens is longer than the {shape.positions} that "
            f"{shape.name} allows: lower data.max_prompt_length, data.max_response_length or "
            "data.max_length"
        )


def _shared(work: Workload, wish: int) -> int:
    """Return the divisor of a batch's prompts next to `wish` that splits evenly over the GPUs."""
    divisors = (n for n in range(1, work.prompts + 1) if not work.prompts % n)
    even = (n for n in divisors if not n * work.group % work.gpus)
    return min(even, key=lambda n: abs(n - wish))


def _next_multiple(prompts: int, group: int, gpus: int) -> int:
    """Return the smallest number of prompts, from `prompts` on, that splits evenly over GPUs."""
    return next(n for n in range(prompts, prompts + gpus + 1) if not n * group % gpus)


def _divisor(number: int, wish: int) -> int:
    """Return the largest divisor of `number` up to `wish`."""
    return next(n for n in range(min(number, max(wish, 1)), 0, -1) if not number % n)
