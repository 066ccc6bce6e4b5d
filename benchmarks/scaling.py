"""``python -m benchmarks.scaling``: the tables of docs/scaling.md, calculated by preflight's code.

For each model and number of 80 GB GPUs it takes the first setting, from fast to slow, that fits
according to `recipe.preflight.memory`: no offloading before offloading, small tensor parallelism
before large, long micro-batches before short ones. Nothing here was run on a GPU.
"""

import itertools
from dataclasses import replace

from benchmarks import write_section
from recipe.preflight.memory import Estimate, estimate, traffic
from recipe.preflight.model import ModelShape, read_shape
from recipe.preflight.values import GIB, Workload, read_workload
from recipe.program import compose_config

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


def choose(shape: ModelShape, base: Workload, gpus: int) -> tuple[Workload, Estimate] | None:
    """Return the first setting that fits, from fast to slow; None if there is none."""
    for offload, tokens, parallel, share in itertools.product(
        (False, True), LENGTHS, PARALLEL, SHARES
    ):
        if parallel > min(gpus, 8) or shape.heads % parallel:
            continue
        work = replace(on(base, gpus, parallel, offload, share), tokens=tokens)
        memory = estimate(shape, work)
        if fits(memory, work):
            return work, memory
    return None


def memory_table(shapes: dict[str, ModelShape]) -> str:
    """Return the table of what to set, and how much memory that takes."""
    lines = [
        "| model | GPUs | tensor parallel | optimizer offloaded | vLLM's share | tokens a "
        "micro-batch | backward, GiB | update | rollout | full sequences in a cache | host, GiB a "
        "node | traffic a step, GB a GPU | at 50 GB/s, s |",
        "|" + "---|" * 13,
    ]
    for size, shape in shapes.items():
        base = shipped(size)
        for gpus in GPUS:
            choice = choose(shape, base, gpus)
            cells = cells_of(shape, *choice) if choice else ["does not fit"]
            lines.append(f"| {size} | {gpus} | {' | '.join(cells)} |" + " |" * (11 - len(cells)))
    return "\n".join(lines)


def cells_of(shape: ModelShape, work: Workload, memory: Estimate) -> list[str]:
    """Return the columns of a setting: what to set, GiB of memory, traffic."""
    assert work.rollout is not None
    assert memory.serving is not None
    moved_bytes = traffic(shape, work, TOKENS).total
    return [
        f"{work.rollout.tensor_parallel}",
        "yes" if work.offload_optimizer else "no",
        f"{work.rollout.share}",
        f"{work.tokens}",
        *(f"{memory.moments[name] / GIB:.0f}" for name in ("backward", "update", "rollout")),
        f"{memory.serving.cache_tokens // work.sequence}",
        f"{memory.host / GIB:.0f}",
        f"{moved_bytes / 1e9:.0f}",
        f"{moved_bytes / NETWORK:.0f}",
    ]


def main() -> None:
    """Write the table into the document."""
    shapes = {size: read_shape(f"Qwen/Qwen2.5-VL-{size}-Instruct") for size in MODELS}
    write_section("scaling.md", "memory", memory_table(shapes))


if __name__ == "__main__":
    main()
