"""Rollouts by group beside verl's own loop: processor time, bytes to the engine and to storage.

`python -m benchmarks.rollout MODEL [--sides 112 504 1008] [--prompts N] [--group N] [--tokens N]`
runs the agent loop of verl 0.9.1 and that of `recipe.train.agent_loops` on the same prompts, one
after the other, each in a process of its own. Each prompt has another picture, of noise. Ray and
TransferQueue are real; the engine's server answers at once, and so does the reward.

Processor time is that of the process with the agent loop, all its threads, for each rollout. Bytes
to the engine are those of its pickled requests, bytes to storage those that TransferQueue encodes.
`--profile LOOP` shows where the time of one loop goes, which Python's profiler itself makes longer.
"""

import argparse
import asyncio
import contextlib
import cProfile
import json
import os
import pickle
import pstats
import random
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from benchmarks import run_again
from recipe import program

LOOPS = ("verl", "by group")
SIDES = (112, 504, 1008)
AT_ONCE = 16
"""Prompts of a step; what they store is then removed."""

PARTS = {
    "everything in Python": ("events.py", "_run"),
    "processor: picture, text, features": ("tokenizer.py", "build_multimodal_processor_inputs"),
    "a loop object, made by Hydra": ("_instantiate2.py", "instantiate"),
    "requests through Ray": ("actor.py", "remote"),
    "position ids": ("agent_loop.py", "_compute_position_ids"),
    "storage": ("interface.py", "async_kv_batch_put"),
}
"""Functions of the event loop's thread, with what they call, by the part that they stand for."""

PATCH = 28
"""Side in pixels of an image token."""
QUESTION = (
    "Is there an opacity?\nReason in <think></think>, citing regions as name [x1, y1, x2, y2] in "
    "pixels. Then answer with Yes or No in <answer></answer>, and list the regions that show it in "
    "<location><ref>name</ref><box>[x1, y1, x2, y2]</box></location>."
)


class Engine:
    """A server that answers at once; it counts the bytes of its requests."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._bytes = 0

    def generate(self, **request: Any) -> Any:
        """Answer once, as verl's server."""
        return self._answers(1, request)[0]

    def generate_group(self, answers: int, **request: Any) -> list[Any]:
        """Answer `answers` times, as `recipe.verl_fixes.rollout_server`."""
        return self._answers(answers, request)

    def received(self) -> int:
        """Return the bytes of all requests."""
        return self._bytes

    def _answers(self, count: int, request: dict[str, Any]) -> list[Any]:
        from verl.workers.rollout.replica import TokenOutput

        self._bytes += len(pickle.dumps(request, protocol=5))
        return [
            TokenOutput(
                token_ids=[random.randrange(10, 300) for _ in range(self._tokens)],
                log_probs=[-1.0] * self._tokens,
                stop_reason="completed",
                extra_fields={"global_steps": 1, "num_cached_tokens": 0},
            )
            for _ in range(count)
        ]


class Reward:
    """A reward worker that answers at once."""

    def compute_score(self, data: Any) -> dict[str, Any]:
        """Return a score of 0."""
        del data
        return {"reward_score": 0.0, "reward_extra_info": {"score": 0.0}}

    def compute_score_batch(self, data: Any) -> list[dict[str, Any]]:
        """Return a score of 0 for each rollout."""
        return [self.compute_score(data) for _ in range(len(data))]


def make_prompts(folder: Path, side: int, count: int) -> list[Any]:
    """Return `count` prompts, each with a different square picture of noise."""
    pixels = {"min_pixels": side * side, "max_pixels": side * side}
    prompts = []
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (side, side), dtype=np.uint8)
        picture = folder / f"{number}.png"
        Image.fromarray(noise).convert("RGB").save(picture)
        image = {"type": "image", "image": str(picture), **pixels}
        content = [image, {"type": "text", "text": QUESTION}]
        prompts.append([{"role": "user", "content": content}])
    return prompts


def batch_of(prompts: list[Any]) -> Any:
    """Return prompts in the form of verl's trainer."""
    from verl.utils import tensordict_utils

    columns = {
        "raw_prompt": np.empty(len(prompts), dtype=object),
        "uid": np.array([str(uuid.uuid4()) for _ in prompts], dtype=object),
        "index": np.arange(len(prompts)),
    }
    columns["raw_prompt"][:] = prompts
    batch = tensordict_utils.get_tensordict(columns)
    tensordict_utils.assign_non_tensor_data(batch, "global_steps", 1)
    return batch


def worker_of(loop: str, config: Any, tokens: int) -> tuple[Any, Any]:
    """Return the agent loop's worker, as an object of this process, and its engine."""
    import ray
    from verl.workers.rollout.llm_server import LLMServerClient

    from recipe.train import agent_loops

    engine = ray.remote(Engine).remote(tokens)

    class Client(LLMServerClient):
        """verl's client with one server."""

        async def _acquire_server(self, request_id: str, **extra: Any) -> tuple[str, Any]:
            return "0", engine

        def _release_server(self, server_id: str, request_id: str | None = None) -> None:
            pass

    kind = agent_loops._Plain if loop == "verl" else agent_loops.AgentLoopWorkerByGroup
    return kind(config, Client(config), None, [ray.remote(Reward).remote()]), engine


def run_loop(
    loop: str, side: int, options: argparse.Namespace, profile: cProfile.Profile | None = None
) -> dict[str, float]:
    """Run one loop on pictures of one size, and return what it took for each rollout."""
    overrides = [
        *("cluster=cpu", "model=tiny", f"model.path={options.model}", "data.dir=none"),
        *("run_dir=none", f"actor_rollout_ref.rollout.n={options.group}"),
        f"data.max_prompt_length={(side // PATCH) ** 2 + 512}",
        f"data.max_response_length={options.tokens}",
    ]
    config = program.compose_config("train", overrides)
    program.set_environment(config)
    OmegaConf.resolve(config)
    import ray
    import transfer_queue as tq
    from transfer_queue.utils import serial_utils

    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    tq.init(config.transfer_queue)
    stored = 0
    encode = serial_utils.MsgpackEncoder.encode

    def counted(self: Any, message: Any) -> Any:
        nonlocal stored
        buffers = encode(self, message)
        stored += sum(memoryview(buffer).nbytes for buffer in buffers)
        return buffers

    serial_utils.MsgpackEncoder.encode = counted

    async def generate() -> dict[str, float]:
        worker, engine = worker_of(loop, config, options.tokens)
        with tempfile.TemporaryDirectory() as folder:
            prompts = make_prompts(Path(folder), side, options.prompts + 1)
            # The first pays for imports and first calls.
            await _finish(worker, batch_of(prompts[:1]), options.group)
            before, first_stored = time.process_time(), stored
            first_bytes = await engine.received.remote()
            with profile or contextlib.nullcontext():
                for start in range(1, len(prompts), AT_ONCE):
                    batch = batch_of(prompts[start : start + AT_ONCE])
                    await _finish(worker, batch, options.group)
            seconds = time.process_time() - before
            sent = await engine.received.remote() - first_bytes
        rollouts = options.prompts * options.group
        return {
            "ms": 1000 * seconds / rollouts,
            "engine": sent / rollouts,
            "storage": (stored - first_stored) / rollouts,
        }

    return asyncio.run(generate())


async def _finish(worker: Any, batch: Any, group: int) -> None:
    import transfer_queue as tq

    uids = set(batch["uid"])
    await worker.generate_sequences(batch)
    while worker.background_tasks:
        await asyncio.gather(*worker.background_tasks)
    keys = (await tq.async_kv_list("train"))["train"]
    stored = [key for key in keys if key.partition("_")[0] in uids and "_" in key]
    if len(stored) != group * len(uids):
        sys.exit(f"{len(stored)} of {group * len(uids)} rollouts were stored")
    await tq.async_kv_clear(keys=list(keys), partition_id="train")


def main() -> None:
    """Compare both loops, or run only the one in `--loop`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollout", description=__doc__)
    parser.add_argument("model", type=Path, help="Hugging Face folder of the tiny model")
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES, help=f"pixels {SIDES}")
    parser.add_argument("--prompts", type=int, default=128, help="(128)")
    parser.add_argument("--group", type=int, default=8, help="rollouts of a prompt (8)")
    parser.add_argument("--tokens", type=int, default=128, help="of an answer (128)")
    parser.add_argument("--loop", choices=LOOPS, help=argparse.SUPPRESS)
    parser.add_argument("--profile", choices=LOOPS, help="where the time of this loop goes")
    options = parser.parse_args()
    if options.profile:
        print_profile(options)
        return
    if options.loop:
        print(json.dumps(run_loop(options.loop, options.sides[0], options)))
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    print("| picture | loop | ms a rollout | KB to the engine | KB to storage |")
    print("|---|---|---|---|---|")
    for side in options.sides:
        results = {
            loop: run_again("benchmarks.rollout", "--loop", loop, "--sides", str(side))
            for loop in LOOPS
        }
        for loop, result in results.items():
            kilobytes = " | ".join(f"{result[part] / 1000:,.0f}" for part in ("engine", "storage"))
            print(f"| {side} | {loop} | {result['ms']:.1f} | {kilobytes} |", flush=True)
        ratios = " | ".join(
            f"{results['by group'][part] / results['verl'][part]:.2f}"
            for part in ("ms", "engine", "storage")
        )
        print(f"| {side} | ratio | {ratios} |", flush=True)


def print_profile(options: argparse.Namespace) -> None:
    """Print the milliseconds of a rollout by `PARTS`, on pictures of the first size."""
    profile = cProfile.Profile()
    run_loop(options.profile, options.sides[0], options, profile)
    rollouts = options.prompts * options.group
    seconds = {
        (Path(file).name, name): cumulative
        for (file, _, name), (_, _, _, cumulative, _) in pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
    }
    for part, function in PARTS.items():
        print(f"| {part} | {1000 * seconds.get(function, 0.0) / rollouts:.2f} |")


if __name__ == "__main__":
    main()
