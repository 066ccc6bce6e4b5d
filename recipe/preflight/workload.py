"""What a run puts on each GPU, read from the configuration of either program."""

from dataclasses import dataclass
from typing import Any

import psutil
from omegaconf import DictConfig, OmegaConf

BYTES = {"fp32": 4, "float32": 4, "bf16": 2, "bfloat16": 2, "fp16": 2, "float16": 2, "half": 2}
GIB = 1 << 30


@dataclass(frozen=True)
class Rollout:
    """The vLLM engine beside the actor; `share` is of the GPU's memory, -1 where it is on a CPU."""

    tensor_parallel: int
    share: float
    bytes_per_value: int
    sequences: int
    batched_tokens: int
    sleeps: bool
    cuda_graphs: bool
    cpu_cache: float


@dataclass(frozen=True)
class Workload:
    """One run; memory in bytes, lengths in tokens."""

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

    @property
    def gpus(self) -> int:
        """All of the run, without those of a judge that verl serves."""
        return self.nodes * self.gpus_per_node


def read_workload(config: DictConfig, program: str, max_pixels: int = 0) -> Workload:
    """Read a composed configuration of ``train`` or ``sft``.

    `max_pixels` bounds an image, as `data_prep.thinkvg` wrote it; 0 where that is not known.
    """
    training = program == "train"
    engine = config.actor_rollout_ref.actor.fsdp_config if training else config.engine
    nodes, per_node = int(config.trainer.nnodes), int(config.trainer.n_gpus_per_node)
    size = int(engine.fsdp_size)
    on_cpu = config.cluster.platform == "cpu"
    model = config.actor_rollout_ref.model if training else config.model
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
        gpu_memory=_gpu_memory(config, per_node, on_cpu),
        on_cpu=on_cpu,
        stored_bytes=BYTES[engine.model_dtype or "fp32"],
        compute_bytes=BYTES[config.cluster.param_dtype],
        offload_parameters=bool(engine.param_offload or engine.offload_policy),
        offload_optimizer=bool(engine.optimizer_offload or engine.offload_policy),
        checkpointing=bool(model.enable_gradient_checkpointing),
        tokens=_tokens(config, sequence) if training else _sft_tokens(config),
        sequence=int(sequence),
        prompts=int(config.data.train_batch_size),
        group=int(config.actor_rollout_ref.rollout.n) if training else 1,
        reference=training
        and bool(config.actor_rollout_ref.actor.use_kl_loss or config.algorithm.use_kl_in_reward),
        max_pixels=max_pixels,
        rollout=_rollout(config, on_cpu) if training else None,
        lora_rank=int(model.get("lora_rank") or 0),
    )


def _gpu_memory(config: DictConfig, per_node: int, on_cpu: bool) -> float:
    if on_cpu:
        return psutil.virtual_memory().total / per_node
    return float(config.cluster.gpu_memory_gib) * GIB


def _tokens(config: DictConfig, sequence: int) -> int:
    """Tokens in one micro-batch of the actor."""
    actor = config.actor_rollout_ref.actor
    if actor.use_dynamic_bsz:
        return int(actor.ppo_max_token_len_per_gpu)
    return int(actor.ppo_micro_batch_size_per_gpu * sequence)


def _sft_tokens(config: DictConfig) -> int:
    if config.data.use_dynamic_bsz:
        return int(config.data.max_token_len_per_gpu)
    return int(config.data.micro_batch_size_per_gpu * config.data.max_length)


def _rollout(config: DictConfig, on_cpu: bool) -> Rollout:
    rollout = config.actor_rollout_ref.rollout
    environment: Any = OmegaConf.to_container(config.cluster.env)
    return Rollout(
        tensor_parallel=int(rollout.tensor_model_parallel_size),
        share=-1.0 if on_cpu else float(rollout.gpu_memory_utilization),
        bytes_per_value=BYTES[rollout.dtype],
        sequences=int(rollout.max_num_seqs),
        batched_tokens=int(rollout.max_num_batched_tokens),
        sleeps=bool(rollout.free_cache_engine),
        cuda_graphs=not rollout.enforce_eager,
        cpu_cache=float(environment.get("VLLM_CPU_KVCACHE_SPACE", 4)) * GIB if on_cpu else 0.0,
    )
