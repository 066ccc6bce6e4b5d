"""Memory and traffic of each GPU, calculated before anything is started.

With P parameters in s bytes each (``model_dtype``), sharded over N ranks by FSDP2, computed in c
bytes, over t tokens in a micro-batch:

=============  ====================================================================================
parameters     P s / N; 0 between steps where they are offloaded
optimizer      2 P s / N (AdamW's two moments); where offloaded, verl brings it back for the whole
               update, forward and backward included. With 8 bits (``optim.optimizer=AdamW8bit``
               of torchao or bitsandbytes) each moment takes one byte and 4 / 256 for the scale of
               its block, with 4 bits half a byte and 4 / 128
gradients      P s / N
gathered       (root + 2 blocks) c whole parameters, the block computed and the one prefetched, and
               (root + 1 block) c of gradients before they are scattered; what lies outside of all
               blocks stays gathered. On one rank too, where FSDP2 gathers into a copy
activations    with checkpointing: L t h c + one block's inner ones, else those of all L blocks; a
               block's inner ones are t (8 h + 3 kv + 4 i) c: inputs, norms, queries, keys, values,
               attention's output, the three products of the gated MLP and its activation. The
               vision tower the same way over its patches. Without flash attention also
               2 t s heads c for the attention matrices of one block at sequence length s
logits         3 t V c: the logits, their softmax, their gradient
with LoRA      the base is frozen: P s / N of parameters, and of optimizer, gradients and update
               only the share of the adapters, rank (in + out) values for each linear layer, in
               float32. The reference is the base without adapters, and vLLM keeps its weights on
               the host while it sleeps
offload_policy parameters, gradients and optimizer stay on the host, where AdamW computes; a GPU has
               only what is gathered
update         P s / N for AdamW's temporaries on a GPU, none where it is fused; on a CPU and with
               fewer bits, one parameter at a time
reserve        a CUDA context, NCCL's buffers and fragments: 3 GiB and 5 %; none on a CPU
=============  ====================================================================================

These moments are compared with the GPU's memory M: loading (parameters, offloaded or not), backward
(parameters + optimizer + gradients + gathered + activations + logits), update (parameters +
optimizer + gradients + update), weight sync (what is not offloaded, with LoRA the offloaded
parameters, too, vLLM's weights, verl's bucket of weights to send and the largest weight whole), and
rollout (share M of vLLM, with the parameters and the optimizer
that stay). vLLM's share holds its weights 2 P / TP, its own activations, CUDA graphs (1 GiB), and
the rest is KV cache: 2 L kv_heads head_dim c / TP a token. vLLM that does not sleep keeps its share
in all moments; asleep it keeps 1.5 GiB.
The reference policy is offloaded to the host by verl (`forward_only`) and is gathered like the
actor, in turn with it: it adds no moment. On the host it takes 4 P / N for each GPU, and loading
takes P s once on each node (for each GPU where input and output embeddings are tied). What verl
and vLLM keep on the host is pinned, in blocks that torch rounds up to a power of two: it counts
twice. Each process of a run on GPUs takes 0.7 GiB, which is estimated.

Traffic: FSDP2 gathers every parameter once for a forward and once more for a backward pass (it is
freed in between) and scatters its gradient once in each micro-batch. On N ranks a gather moves
(N - 1) / N P c bytes to each GPU, a scatter (N - 1) / N P 4 (reduced in float32). A step of GRPO
has a pass for the old log-probabilities, one for the reference, and the update. A weight sync
gathers all parameters once for vLLM.

Sources: verl 0.9.1's FSDP engine, torch's FSDP2, and Korthikanti et al., Reducing Activation
Recomputation in Large Transformer Models (2022), for which activations are kept. Measured on a CPU
by ``python -m benchmarks.memory``; on GPUs the figures are calculated only.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import psutil

from recipe.preflight.model import ModelShape
from recipe.preflight.values import DYNAMIC, GIB, Rollout, Workload

CONTEXT = 3 * GIB
FRAGMENTS = 0.05
ASLEEP = 1.5 * GIB
GRAPHS = 1.0 * GIB
VLLM_CPU_PROCESS = 1.5 * GIB
PINNED = 2
PROCESS = 0.7 * GIB
SCALED = {8: 256, 4: 128}
"""Values of a moment that share a scale, by the bits of a value (torchao, bitsandbytes)."""


@dataclass(frozen=True)
class Training:
    """Bytes of the actor on one GPU, by part; `loaded` are its shards while they are loaded."""

    loaded: float
    parameters: float
    optimizer: float
    gradients: float
    gathered: float
    activations: float
    logits: float
    update: float
    reserve: float

    @property
    def backward(self) -> float:
        """Bytes at the end of the forward pass, where activations and logits are largest."""
        state = self.parameters + self.optimizer + self.gradients
        return state + self.gathered + self.activations + self.logits + self.reserve

    @property
    def step(self) -> float:
        """Bytes during the optimizer's step."""
        state = self.parameters + self.optimizer + self.gradients
        return state + self.update + self.reserve


@dataclass(frozen=True)
class Serving:
    """Bytes of vLLM on one GPU, and the tokens that fit into the cache of a replica."""

    budget: float
    weights: float
    activations: float
    cache: float
    cache_tokens: int
    asleep: float


@dataclass(frozen=True)
class Estimate:
    """Memory of one GPU and of one node's host, in bytes."""

    training: Training
    serving: Serving | None
    resident: float
    sent: float
    host: float
    available: float

    @property
    def moments(self) -> dict[str, float]:
        """Bytes in use at the moments that are compared with the GPU's memory."""
        asleep = self.serving.asleep if self.serving else 0.0
        moments = {
            "loading": self.training.loaded + self.training.reserve,
            "backward": self.training.backward + asleep,
            "update": self.training.step + asleep,
        }
        if self.serving:
            moments["weight sync"] = self.resident + self.sent + self.serving.weights
            moments["rollout"] = self.serving.budget + self.resident
        return moments

    def as_gib(self) -> dict[str, object]:
        """Return the estimate in GiB, by part."""

        def in_gib(parts: Mapping[str, float]) -> dict[str, float]:
            return {name: round(value / GIB, 2) for name, value in parts.items()}

        values: dict[str, object] = {
            "available": round(self.available / GIB, 1),
            "moments": in_gib(self.moments),
            "training": in_gib(asdict(self.training)),
            "host_per_node": round(self.host / GIB, 1),
        }
        if self.serving:
            serving = asdict(self.serving)
            tokens = serving.pop("cache_tokens")
            values["vllm"] = {**in_gib(serving), "cache_tokens": tokens}
        return values


def trained_parameters(shape: ModelShape, work: Workload) -> float:
    """Count the trained parameters: all, or those of adapters on the linear layers."""
    if not work.lora_rank:
        return float(shape.parameters)
    queries, key_values = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    attention = 2 * (shape.width + queries) + 2 * (shape.width + key_values)
    linear = shape.layers * (attention + 3 * (shape.width + shape.inner))
    if work.vision_adapters:
        tower = 3 * (shape.vision_width + shape.vision_inner) + 6 * shape.vision_width
        linear += shape.vision_layers * tower
    return float(work.lora_rank * linear)


def optimizer_bytes(shape: ModelShape, work: Workload) -> float:
    """Return the bytes of the optimizer's state, all shards together."""
    if work.moment_bits:
        moment = work.moment_bits / 8 + 4 / SCALED[work.moment_bits]
    else:
        moment = work.trained_bytes
    return 2 * moment * trained_parameters(shape, work)


def estimate(shape: ModelShape, work: Workload) -> Estimate:
    """Calculate the memory of a run by the formulas in the module's docstring."""
    training = _training(shape, work)
    serving = _serving(shape, work, work.rollout) if work.rollout else None
    parameters = 0.0 if work.offload_parameters else training.parameters
    resident = parameters + (0.0 if work.offload_optimizer else training.optimizer)
    return Estimate(
        training=training,
        serving=serving,
        resident=resident + training.reserve,
        sent=_sent(shape, work, training, work.rollout) if work.rollout else 0.0,
        host=_host(shape, work, serving),
        available=work.gpu_memory,
    )


def _training(shape: ModelShape, work: Workload) -> Training:
    trained = trained_parameters(shape, work)
    on_gpu = 0 if work.offload_all else 1 / work.shards
    stored = shape.parameters * work.stored_bytes * on_gpu
    gradients = trained * work.trained_bytes * on_gpu
    state = optimizer_bytes(shape, work) * on_gpu
    # the parameters of root and two blocks, and the gradients of root and one
    gathered = float((shape.root + 2 * shape.block) * work.compute_bytes)
    gathered += (shape.root + shape.block) * work.compute_bytes * trained / shape.parameters
    activations = _activations(shape, work)
    logits = 3.0 * work.tokens * shape.vocabulary * work.compute_bytes
    used = stored + 2 * gradients + state + gathered + activations + logits
    return Training(
        loaded=shape.parameters * work.stored_bytes / work.shards,
        parameters=stored,
        optimizer=state,
        gradients=gradients,
        gathered=gathered,
        activations=activations,
        logits=logits,
        update=_temporaries(shape, work, gradients),
        reserve=0.0 if work.on_cpu else CONTEXT + FRAGMENTS * used,
    )


def _sent(shape: ModelShape, work: Workload, training: Training, rollout: Rollout) -> float:
    """Return the bytes that a weight sync takes beside what stays on the GPU and vLLM's weights."""
    comes_back = bool(work.lora_rank) and work.offload_parameters and not work.offload_all
    shards = training.loaded if comes_back else 0.0
    return shards + rollout.bucket + float(shape.largest * work.stored_bytes)


def _temporaries(shape: ModelShape, work: Workload, gradients: float) -> float:
    """Return the bytes that the optimizer's step takes beside state and gradients."""
    if work.offload_all:
        return 0.0
    if work.on_cpu or work.moment_bits:
        largest = min(float(shape.largest), trained_parameters(shape, work))
        return 2 * largest * work.trained_bytes / work.shards
    return 0.0 if work.fused_optimizer else gradients


def _activations(shape: ModelShape, work: Workload) -> float:
    """Return the bytes that a micro-batch keeps for its backward pass."""
    key_values = shape.kv_heads * shape.head_width
    inner = work.tokens * (8 * shape.width + 3 * key_values + 4 * shape.inner)
    matrices = 2 * work.tokens * work.sequence * shape.heads if work.on_cpu else 0
    images = max(1, work.tokens // work.sequence)
    patches = images * work.max_pixels / ((shape.factor or 1) / shape.merge) ** 2
    vision_inner = patches * (11 * shape.vision_width + 4 * shape.vision_inner)
    if work.checkpointing:
        text = work.tokens * shape.width * shape.layers + inner + matrices
        vision = patches * shape.vision_width * shape.vision_layers + vision_inner
    else:
        text = (inner + matrices) * shape.layers
        vision = vision_inner * shape.vision_layers
    return float((text + vision) * work.compute_bytes)


def _serving(shape: ModelShape, work: Workload, rollout: Rollout) -> Serving:
    width = rollout.bytes_per_value
    adapters = trained_parameters(shape, work) if work.lora_rank else 0.0
    weights = (shape.parameters + adapters) * width / rollout.tensor_parallel
    inner = 2 * (shape.width + 2 * shape.inner / rollout.tensor_parallel)
    activations = rollout.batched_tokens * inner * width
    activations += 2 * 4 * rollout.sequences * shape.vocabulary
    heads = max(1, shape.kv_heads // rollout.tensor_parallel)
    token = 2 * shape.layers * heads * shape.head_width * width
    if work.on_cpu:
        cache = rollout.cpu_cache
        budget = weights + activations + cache + VLLM_CPU_PROCESS
    else:
        budget = rollout.share * work.gpu_memory
        cache = budget - weights - activations - (GRAPHS if rollout.cuda_graphs else 0.0)
    return Serving(
        budget=budget,
        weights=weights,
        activations=activations,
        cache=cache,
        cache_tokens=max(0, int(cache // token)),
        asleep=ASLEEP if rollout.sleeps else budget,
    )


def _host(shape: ModelShape, work: Workload, serving: Serving | None) -> float:
    """Return the memory of a node's host for loading, the reference and what is offloaded."""
    stored = shape.parameters * work.stored_bytes
    shards = 4.0 * shape.parameters if work.reference and not work.lora_rank else 0.0
    shards += optimizer_bytes(shape, work) * work.offload_optimizer
    shards += stored * work.offload_parameters
    if work.offload_all:
        shards += trained_parameters(shape, work) * work.trained_bytes
    per_gpu = shards / work.shards
    if serving and work.rollout and work.rollout.sleeps and work.lora_rank:
        per_gpu += serving.weights
    copies = work.gpus_per_node if shape.tied else 1
    if work.on_cpu:
        return work.gpus_per_node * per_gpu + copies * stored
    pinned = PINNED * work.gpus_per_node * per_gpu
    return pinned + copies * stored + work.processes * PROCESS


def memory_warnings(memory: Estimate, work: Workload) -> Iterator[str]:
    """Yield a line for each moment that does not fit, and for a cache of less than a sequence."""
    for moment, needed in memory.moments.items():
        if needed > memory.available:
            yield (
                f"memory: {moment} takes {needed / GIB:.1f} GiB, of the "
                f"{memory.available / GIB:.1f} that a GPU has: {_remedy(moment, work)}"
            )
    if memory.serving and memory.serving.cache_tokens < work.sequence:
        yield (
            f"memory: vLLM's cache holds {memory.serving.cache_tokens} tokens, a sequence has "
            f"{work.sequence}: raise cluster.gpu_memory_utilization or cluster.tensor_parallel"
        )


def host_warnings(memory: Estimate, work: Workload) -> Iterator[str]:
    """Yield a line if this machine has less memory than a node of the run takes."""
    has = psutil.virtual_memory().total
    if not work.on_cpu and memory.host > has:
        yield (
            f"memory: the host of a node takes about {memory.host / GIB:.0f} GiB, and this machine "
            f"has {has / GIB:.0f}: take more nodes, train adapters only (lora=r16), or set "
            "cluster.param_offload=false cluster.optimizer_offload=false where the GPU has room"
        )


def _remedy(moment: str, work: Workload) -> str:
    """Return what to change first."""
    _, tokens, rows = DYNAMIC[work.program]
    changes = {
        "backward": [f"lower {tokens} (or {rows} without dynamic batches)"],
        "weight sync": ["raise cluster.tensor_parallel"],
        "rollout": ["lower cluster.gpu_memory_utilization"],
    }.get(moment, [])
    if moment in ("weight sync", "rollout") and not work.offload_optimizer:
        changes.append("set cluster.optimizer_offload=true")
    if moment in ("weight sync", "rollout") and not work.offload_parameters:
        changes.append("set cluster.param_offload=true")
    if not work.lora_rank:
        changes.append("train adapters only (lora=r16)")
    more = f"take more nodes (cluster.nodes={2 * work.nodes})"
    return f"{', '.join(changes)} or {more}" if changes else more


@dataclass(frozen=True)
class Traffic:
    """Bytes that one GPU receives in a step, and the step's micro-batches."""

    micro_batches: int
    gathers: float
    scatters: float
    weight_sync: float

    @property
    def total(self) -> float:
        """All bytes of a step."""
        return self.gathers + self.scatters + self.weight_sync


def traffic(shape: ModelShape, work: Workload, mean_tokens: float | None = None) -> Traffic:
    """Calculate the traffic of a step with sequences of `mean_tokens`, or as long as allowed."""
    share = (work.shards - 1) / work.shards
    sequences = work.prompts * work.group / work.gpus
    micro = max(1, math.ceil(sequences * (mean_tokens or work.sequence) / work.tokens))
    # forward and backward of the update; log-probabilities of the actor, and of the reference
    passes = 2 + (1 if work.program == "train" else 0) + work.reference
    gather = share * shape.parameters * work.compute_bytes
    return Traffic(
        micro_batches=micro,
        gathers=gather * micro * passes,
        scatters=share * shape.parameters * 4 * micro,
        weight_sync=gather if work.program == "train" else 0.0,
    )
