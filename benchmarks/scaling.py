"""``python -m benchmarks.scaling``: the tables of docs/scaling.md, calculated by preflight's code.

For each model and number of 80 GB GPUs it takes the first setting, from fast to slow, that fits
according to `recipe.preflight.memory`: no offloading before offloading, small tensor parallelism
before large, long micro-batches before short ones. Nothing here was run on a GPU.
"""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.docs import replace_section
from recipe.preflight.memory import Estimate, estimate, traffic
from recipe.preflight.model import ModelShape, read_shape
from recipe.preflight.values import GIB, Workload, read_workload
from recipe.program import compose_config

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "scaling.md"
MODELS = ("3B", "7B", "32B", "72B")
GPUS = (1, 2, 4, 8, 16, 32, 64)
PIXELS = 1280 * 28 * 28
LENGTHS = (16384, 8192, 4096)
SHARES = (0.6, 0.5, 0.4, 0.3)
PARALLEL = (1, 2, 4, 8)
TOKENS = 1024
"""Assumed mean tokens of prompt and response together, for the traffic."""
NETWORK = 50e9
"""Assumed bytes a second into one GPU: 400 Gbit/s; NVLink within a node is faster."""


@dataclass(frozen=True)
class Choice:
    """The first setting that fits."""

    parallel: int
    offload: bool
    share: float
    tokens: int
    work: Workload
    memory: Estimate


def shipped(size: str) -> Workload:
    """Return the shipped configuration of GRPO on eight GPUs."""
    model = f"model.path=Qwen/Qwen2.5-VL-{size}-Instruct"
    return read_workload(compose_config("train", [model, "data.dir=DATA"]), "train", PIXELS)


def on(work: Workload, gpus: int, parallel: int, offload: bool, share: float) -> Workload:
    """Return the same run on so many GPUs, with these settings of state and rollout."""
    assert work.rollout is not None
    return replace(
        work,
        nodes=max(1, gpus // 8),
        gpus_per_node=min(gpus, 8),
        shards=gpus,
        offload_optimizer=offload,
        rollout=replace(work.rollout, tensor_parallel=parallel, share=share),
    )


def fits(memory: Estimate, work: Workload) -> bool:
    """Return whether all moments fit, and the cache holds 32 sequences of full length."""
    enough = memory.serving is not None and memory.serving.cache_tokens >= 32 * work.sequence
    return enough and max(memory.moments.values()) <= memory.available


def choose(shape: ModelShape, base: Workload, gpus: int) -> Choice | None:
    """Return the first setting that fits, from fast to slow; None if there is none."""
    for offload, tokens, parallel, share in itertools.product(
        (False, True), LENGTHS, PARALLEL, SHARES
    ):
        if parallel > min(gpus, 8) or shape.heads % parallel:
            continue
        work = replace(on(base, gpus, parallel, offload, share), tokens=tokens)
        memory = estimate(shape, work)
        if fits(memory, work):
            return Choice(parallel, offload, share, tokens, work, memory)
    return None


def memory_table(shapes: dict[str, ModelShape]) -> str:
    """Return the table of what to set, and how much memory that takes."""
    lines = [
        "| model | GPUs | tensor parallel | optimizer offloaded | vLLM's share | tokens a "
        "micro-batch | backward, GiB | update | rollout | full sequences in a cache | host, GiB a "
        "node | traffic a step, GB a GPU | at 50 GB/s, s |",
        "|" + "---|" * 13,
    ]
    bases = {size: shipped(size) for size in MODELS}
    for size, gpus in itertools.product(MODELS, GPUS):
        choice = choose(shapes[size], bases[size], gpus)
        if choice is None:
            lines.append(f"| {size} | {gpus} | does not fit |" + " |" * 10)
            continue
        moments = choice.memory.moments
        moved_bytes = traffic(shapes[size], choice.work, TOKENS).total
        assert choice.memory.serving is not None
        lines.append(
            f"| {size} | {gpus} | {choice.parallel} | {'yes' if choice.offload else 'no'} | "
            f"{choice.share} | {choice.tokens} | {moments['backward'] / GIB:.0f} | "
            f"{moments['update'] / GIB:.0f} | {moments['rollout'] / GIB:.0f} | "
            f"{choice.memory.serving.cache_tokens // choice.work.sequence} | "
            f"{choice.memory.host / GIB:.0f} | {moved_bytes / 1e9:.0f} | "
            f"{moved_bytes / NETWORK:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Write the table into the document."""
    shapes = {size: read_shape(f"Qwen/Qwen2.5-VL-{size}-Instruct") for size in MODELS}
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(replace_section(text, "memory", memory_table(shapes)), encoding="utf-8")
    print(DOCUMENT)


if __name__ == "__main__":
    main()
