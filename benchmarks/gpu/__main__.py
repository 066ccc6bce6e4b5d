"""``python -m benchmarks.gpu``: the first minutes on a GPU, in one command.

Five parts, each in a process of its own with a limit, so that one that fails hides no other:

environment  versions against the lock, what preflight finds on this machine, a matrix product
attention    logits of one batch: flash attention against SDPA, packed against padded rows
grpo         GRPO of the tiny model that comes with the project, five steps: engine, weight sync,
             gap between engine and actor
evaluate     20 questions to the tiny model, with an engine without Ray
step         an update of the actor with random weights of a 3B model and pictures of 1,280 tokens:
             tokens a second, MFU against a matrix product, memory beside preflight's estimate

It prints a table, and writes it with all numbers to ``--out`` (table.md, gpu.json, a log of each
part). Exit code 1 if a part fails or a number is not as it should be. Without a GPU (cluster=cpu)
the same parts run with the tiny model in float32.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from data_prep.program import InputError, write_whole
from recipe.preflight.machine import gpu_memory
from recipe.program import CONFIG_FOLDER, compose_config, one_line_at_the_end, set_environment

LIMITS = {"environment": 60, "attention": 60, "grpo": 240, "evaluate": 90, "step": 150}
"""Seconds that each part may take on a GPU: ten minutes in all."""

SLOWER = 3
"""How many times as long each may take without a GPU."""

CPU, SHAPE = "cpu", "Qwen/Qwen2.5-VL-3B-Instruct"


def detect_cluster() -> str:
    """Return the entry of ``configs/cluster`` for one card of this machine, or the CPU's."""
    available = gpu_memory()
    if available is None:
        return CPU
    entries = sorted((CONFIG_FOLDER / "cluster").glob("*x1.yaml"))
    needed = {
        path.stem: compose_config("train", ["data.dir=DATA", f"cluster={path.stem}"]).cluster
        for path in entries
    }
    fitting = {
        name: c.gpu_memory_gib for name, c in needed.items() if c.gpu_memory_gib <= available
    }
    if not fitting:
        raise InputError(
            f"this GPU has {available:.1f} GiB, less than every entry of configs/cluster for one: "
            "name an entry with --cluster"
        )
    return max(fitting, key=lambda name: float(fitting[name]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"), help="(%(default)s)")
    parser.add_argument("--cluster", help="entry of configs/cluster; default: by the GPU's memory")
    parser.add_argument("--parts", nargs="+", choices=LIMITS, default=list(LIMITS))
    parser.add_argument("--model", help=f"folder or shape of the model; default: {SHAPE}")
    parser.add_argument("--steps", type=int, default=5, help="of GRPO (%(default)s)")
    parser.add_argument("--part", choices=LIMITS, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_part(name: str, arguments: list[str], out: Path, limit: int) -> dict[str, Any]:
    """Run a part in a process of its own, `limit` seconds at most.

    Returns:
        Its `lines`, those before a failure too, why it failed (`failure`, or None), and `seconds`.
    """
    result, log = out / f"{name}.json", out / f"{name}.log"
    result.unlink(missing_ok=True)
    started = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments, "--part", name]
    with (
        log.open("w", encoding="utf-8") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        failure = _wait(process, limit)
    if failure:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        failure = " ".join([f"{failure}, see {log}:", *last])[:300]
    lines = json.loads(result.read_text()) if result.is_file() else []
    return {"lines": lines, "failure": failure, "seconds": round(time.monotonic() - started, 1)}


def _wait(process: subprocess.Popen[bytes], limit: int) -> str | None:
    """Wait for a part, and end it with all that it started at the limit; return why it failed."""
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        return f"took more than {limit} s"
    return f"ended with code {code}" if code else None


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    rows = ["| part | what | value | | |", "|---|---|---|---|---|"]
    for name, result in results.items():
        for line in result["lines"]:
            value = line["value"]
            number = value if isinstance(value, str) else f"{value:.4g}"
            verdict = {True: "ok", False: "**not ok**", None: ""}[line["ok"]]
            unit = f" {line['unit']}" if line["unit"] else ""
            rows.append(
                f"| {name} | {line['what']} | {number}{unit} | {line['note']} | {verdict} |"
            )
        state = result["failure"] or "complete"
        verdict = "**failed**" if result["failure"] else ""
        rows.append(f"| {name} | {state} | {result['seconds']:.0f} s | | {verdict} |")
    return "\n".join(rows)


def is_well(results: dict[str, dict[str, Any]]) -> bool:
    """Return whether no part failed and no line is judged as wrong."""
    lines = [line for result in results.values() for line in result["lines"]]
    return not any(result["failure"] for result in results.values()) and not any(
        line["ok"] is False for line in lines
    )


def _run_this_part(options: argparse.Namespace, cluster: str, model: str) -> None:
    """Run one part and write its lines, those before a failure too."""
    # OpenMP and verl read variables of the cluster when they are loaded
    set_environment(compose_config("train", ["data.dir=DATA", f"cluster={cluster}"]))
    from benchmarks.gpu.parts import PARTS, Options

    lines: list[dict[str, Any]] = []
    try:
        for line in PARTS[options.part](Options(cluster, model, options.out, options.steps)):
            print(line, flush=True)
            lines.append(asdict(line))
    finally:
        write_whole(options.out / f"{options.part}.json", json.dumps(lines, indent=2))


def main() -> None:
    """Run the parts, print the table, and write it."""
    options = _options()
    with one_line_at_the_end():
        cluster = options.cluster or detect_cluster()
        from phantom.base import BASE

        model = options.model or (str(BASE) if cluster == CPU else SHAPE)
        options.out.mkdir(parents=True, exist_ok=True)
        if options.part:
            _run_this_part(options, cluster, model)
            return
        arguments = ["--cluster", cluster, "--model", model, "--out", str(options.out)]
        arguments += ["--steps", str(options.steps)]
        results = {}
        for name in options.parts:
            limit = LIMITS[name] * (SLOWER if cluster == CPU else 1)
            print(f"{name}: up to {limit} s", file=sys.stderr, flush=True)
            results[name] = run_part(name, arguments, options.out, limit)
        text = f"`python -m benchmarks.gpu --cluster {cluster}`\n\n{table(results)}\n"
        write_whole(options.out / "table.md", text)
        write_whole(
            options.out / "gpu.json",
            json.dumps({"cluster": cluster, "model": model, "parts": results}, indent=2) + "\n",
        )
        print(text)
        raise SystemExit(0 if is_well(results) else 1)


if __name__ == "__main__":
    main()
