"""``python -m benchmarks.scaling``: the tables of README.md and docs/scaling.md, calculated.

Two tables have, for each machine of ``configs/cluster``, runs that fit as they are by
`recipe.preflight.memory`: a short one in the README, and one with memory and all models in
docs/scaling.md. The third takes for each model and number of 80 GB GPUs the first setting, from
fast to slow, that fits: no offloading before offloading, small tensor parallelism before large,
long micro-batches before short ones. Nothing here was run on a GPU.
"""

import argparse
import functools
import itertools
import re
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from benchmarks import write_section
from recipe.preflight.memory import Estimate, estimate, traffic
from recipe.preflight.model import ModelShape, read_shape
from recipe.preflight.values import GIB, Workload, read_workload
from recipe.program import CONFIG_FOLDER, compose_config

MODELS = ("3B", "7B", "32B", "72B")
GPUS = (1, 2, 4, 8, 16, 32, 64)
IMAGE_TOKENS = 1280
PIXELS = IMAGE_TOKENS * 28 * 28
LENGTHS = (16384, 8192, 4096)
SHARES = (0.6, 0.5, 0.4, 0.3)
PARALLEL = (1, 2, 4, 8)
SIZE = re.compile(r"/(.+?)-(\d[\d.]*B(?:-A\d+B)?)")
"""Family and size in a hub name."""

TOKENS = 1024
"""Assumed mean tokens of prompt and response together, for the traffic."""
NETWORK = 50e9
"""Assumed bytes a second into one GPU: 400 Gbit/s; NVLink within a node is faster."""


@dataclass(frozen=True)
class Machine:
    """What somebody has, and a run for it: overrides of the cluster, and of the model."""

    title: str
    cluster: str
    run: str

    @property
    def overrides(self) -> list[str]:
        return [*self.run.split(), *self.cluster.split()]

    @property
    def first_cells(self) -> list[str]:
        """The machine and the command's overrides, as both tables of machines have them."""
        return [self.title, f"`{self.run} {self.cluster}`"]


MACHINES = (
    Machine("one card of 24 GB", "cluster=gpu24x1", "model=qwen2_5_vl_3b lora=r16"),
    Machine("one card of 48 GB", "cluster=gpu48x1", "model=qwen2_5_vl_7b lora=r16"),
    Machine("one GPU of 80 GB", "cluster=gpu80x1", "model=qwen2_5_vl_3b"),
    Machine("the same", "cluster=gpu80x1", "model=qwen2_5_vl_7b lora=r16"),
    Machine("four GPUs of 80 GB", "cluster=gpu80x4", "model=qwen2_5_vl_7b"),
    Machine("eight GPUs of 40 GB", "cluster=gpu40x8", "model=qwen2_5_vl_7b"),
    Machine("eight GPUs of 80 GB", "cluster=h100x8", "model=qwen2_5_vl_7b"),
    Machine(
        "the same", "cluster=h100x8 cluster.tensor_parallel=4", "model=qwen2_5_vl_32b lora=r16"
    ),
    Machine(
        "eight GPUs of 141 GB",
        "cluster=h200x8 cluster.tensor_parallel=4 cluster.optimizer_offload=true "
        "cluster.micro_batch_tokens=16384",
        "model=qwen2_5_vl_32b",
    ),
    Machine(
        "two nodes of eight GPUs of 80 GB",
        "cluster=h100x8 cluster.nodes=2 cluster.tensor_parallel=4 cluster.optimizer_offload=true "
        "cluster.micro_batch_tokens=8192",
        "model=qwen2_5_vl_32b",
    ),
    Machine(
        "four nodes of eight GPUs of 80 GB",
        "cluster=h100x8 cluster.nodes=4 cluster.tensor_parallel=8 cluster.optimizer_offload=true "
        "cluster.micro_batch_tokens=4096",
        "model=qwen2_5_vl_72b",
    ),
)


read_shape_once = functools.cache(read_shape)


@functools.cache
def model_paths() -> dict[str, str]:
    """Return the hub name of each entry of ``configs/model`` that has one."""
    files = sorted((CONFIG_FOLDER / "model").glob("*.yaml"))
    loaded = {file.stem: yaml.safe_load(Path(file).read_text("utf-8")) for file in files}
    return {name: values["path"] for name, values in loaded.items() if values.get("path")}


@functools.cache
def workload(overrides: tuple[str, ...]) -> Workload:
    """Return the load of GRPO with these overrides, for pictures of the largest size."""
    return read_workload(compose_config("train", ["data.dir=DATA", *overrides]), "train", PIXELS)


def calculated(model: str, overrides: tuple[str, ...]) -> tuple[Workload, Estimate]:
    """Return the load and the memory of a run of an entry of ``configs/model``."""
    shape = read_shape_once(model_paths()[model])
    pixels = IMAGE_TOKENS * (shape.factor or 1) ** 2
    work = replace(workload(overrides), max_pixels=pixels)
    return work, estimate(shape, work)


@functools.cache
def fitting_models(cluster: str, *lora: str) -> dict[str, list[str]]:
    """Return the sizes of each family in ``configs/model`` that fit on a machine, in order."""
    sizes: dict[str, list[str]] = {}
    for name, path in model_paths().items():
        work, memory = calculated(name, (*cluster.split(), *lora))
        shape = read_shape_once(path)
        assert work.rollout is not None
        match = SIZE.search(path)
        if match and fits(memory, work) and shape.splits_over(work.rollout.tensor_parallel):
            sizes.setdefault(match[1], []).append(match[2])
    return {family: sorted(of_family, key=_number) for family, of_family in sizes.items()}


def all_models(sizes: dict[str, list[str]]) -> str:
    return "; ".join(f"{family} {', '.join(of)}" for family, of in sizes.items()) or "none"


def largest_models(sizes: dict[str, list[str]]) -> str:
    return ", ".join(f"{family} {of[-1]}" for family, of in sizes.items()) or "none"


def _number(size: str) -> float:
    """Return the parameters that a name such as 30B-A3B states, in 10^9."""
    return float(size.partition("B")[0])


def machine_table() -> str:
    """Return the README's table of machines: what to run, and the largest models that fit."""
    lines = ["| I have | what I run | largest models that fit |", "|" + "---|" * 3]
    for machine in MACHINES:
        trained = {"all weights": (), "LoRA": ("lora=r16",)}
        largest = [
            f"{title}: {largest_models(fitting_models(machine.cluster, *lora))}"
            for title, lora in trained.items()
        ]
        lines.append(f"| {' | '.join([*machine.first_cells, '<br>'.join(largest)])} |")
    return "\n".join(lines)


def machine_memory_table() -> str:
    """Return the table of machines with the memory of each run, and all models that fit."""
    lines = [
        "| I have | what I run | GiB that a GPU needs: backward, update, rollout | GiB that it has "
        "| GiB of the host that a node needs | full sequences in a cache | models that fit: all "
        "weights | with LoRA |",
        "|" + "---|" * 8,
    ]
    for machine in MACHINES:
        name = machine.run.split()[0].removeprefix("model=")
        work, memory = calculated(name, (*machine.cluster.split(), *machine.run.split()[1:]))
        assert memory.serving is not None
        moments = (f"{memory.moments[m] / GIB:.0f}" for m in ("backward", "update", "rollout"))
        cells = [
            *machine.first_cells,
            ", ".join(moments),
            f"{memory.available / GIB:.1f}",
            f"{memory.host / GIB:.0f}",
            f"{memory.serving.cache_tokens // work.sequence}",
            all_models(fitting_models(machine.cluster)),
            all_models(fitting_models(machine.cluster, "lora=r16")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


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
        offload_parameters=offload,
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
        if parallel > min(gpus, 8) or not shape.splits_over(parallel):
            continue
        work = replace(on(base, gpus, parallel, offload, share), tokens=tokens)
        memory = estimate(shape, work)
        if fits(memory, work):
            return work, memory
    return None


def memory_table(shapes: dict[str, ModelShape]) -> str:
    """Return the table of what to set, and how much memory that takes."""
    lines = [
        "| model | GPUs | tensor parallel | offloaded | vLLM's share | tokens a "
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
    """Write the tables into the documents."""
    argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__).parse_args()
    write_section("../README.md", "machines", machine_table())
    write_section("scaling.md", "machines", machine_memory_table())
    shapes = {size: read_shape(f"Qwen/Qwen2.5-VL-{size}-Instruct") for size in MODELS}
    write_section("scaling.md", "memory", memory_table(shapes))


if __name__ == "__main__":
    main()
