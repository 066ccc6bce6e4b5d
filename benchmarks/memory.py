"""``python -m benchmarks.memory``: preflight's memory estimate against a real SFT process on a CPU.

Trains a randomly initialised Qwen2.5-VL of about 200 M parameters for two steps with
``python -m recipe.sft cluster=cpu`` on a phantom set, and samples the resident memory of the
training process. The same run with the tiny model gives the share of the libraries, which is
subtracted from both estimate and measurement. The exit code is 1 if they differ by more than 25 %.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from phantom.stages import MOST_TOKENS, Stage, draw_stage, prepare_stage, run_stages
from recipe.preflight.memory import estimate
from recipe.preflight.model import read_shape
from recipe.preflight.values import GIB, read_workload
from recipe.program import compose_config

TOLERANCE = 0.25
WIDTH, INNER, LAYERS = 1024, 2816, 17
ROWS = 8  # of a batch
TIMEOUT_S = 300  # of each run


def make_data(folder: Path) -> None:
    """Write a phantom set, and the tiny model with its tokenizer."""
    out = folder / "tiny"
    command = ("phantom.tiny", "--data", str(folder / "data"), "--out", str(out))
    tiny = Stage("model", "make a tiny model", command, out)
    run_stages([draw_stage(folder, 60, seed=3), prepare_stage(folder, 0, test=0.1), tiny], folder)


def make_model(tiny: Path, out: Path) -> None:
    """Write a wider and deeper model with the tiny model's tokenizer and vision tower."""
    config = AutoConfig.from_pretrained(tiny)
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = WIDTH, INNER, LAYERS
    text.num_attention_heads, text.num_key_value_heads, text.head_dim = 16, 4, 64
    text.layer_types = ["full_attention"] * LAYERS
    text.rope_parameters = {**text.rope_parameters, "mrope_section": [8, 12, 12]}
    config.vision_config.out_hidden_size = WIDTH
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).float().save_pretrained(out)
    AutoProcessor.from_pretrained(tiny).save_pretrained(out)


def peak(command: list[str], log: Path) -> float:
    """Return the largest resident memory, in bytes, of any process until a run logged two steps.

    Raises:
        SystemExit: the run ended, or took too long.
    """
    largest, deadline = 0, time.monotonic() + TIMEOUT_S
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        try:
            while not log.is_file() or len(log.read_text().splitlines()) < 2:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"error: {' '.join(command)}: no two steps")
                for child in psutil.Process(process.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        largest = max(largest, child.memory_info().rss)
                time.sleep(0.02)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(timeout=60)
    return float(largest)


def longest_tokens(folder: Path) -> float:
    """Return the tokens of the longest SFT sequence, to which verl pads a batch."""
    processor = AutoProcessor.from_pretrained(folder / "tiny")
    rows = pq.read_table(folder / "data" / "sft_train.parquet").to_pylist()
    texts = ["".join(str(message["content"]) for message in row["messages"]) for row in rows]
    return max(map(len, processor.tokenizer(texts)["input_ids"])) + MOST_TOKENS


def measure(folder: Path, checkpointing: bool) -> bool:
    """Run both models, print the comparison, and return whether it is within the tolerance."""
    measured, estimated = {}, {}
    length = longest_tokens(folder)
    for model in ("tiny", "wide"):
        run_dir = folder / "runs" / model
        overrides = [
            *("cluster=cpu", "model=tiny", f"model.path={folder / model}"),
            *(f"data.dir={folder / 'data'}", f"run_dir={run_dir}", "data.max_length=256"),
            f"cluster.gradient_checkpointing={str(checkpointing).lower()}",
            *(f"data.train_batch_size={ROWS}", f"data.micro_batch_size_per_gpu={ROWS}"),
            *("trainer.total_training_steps=3", "trainer.save_freq=-1", "trainer.test_freq=-1"),
            "trainer.logger=[console,file]",
        ]
        shape = read_shape(str(folder / model))
        config = compose_config("sft", [*overrides, f"data.max_length={round(length)}"])
        memory = estimate(shape, read_workload(config, "sft", MOST_TOKENS * 28**2))
        estimated[model] = max(memory.moments.values())
        command = [sys.executable, "-m", "recipe.sft", *overrides]
        measured[model] = peak(command, run_dir / "metrics.jsonl")
        print(f"{model}: {shape.parameters:,} parameters, {memory.as_gib()['training']}")
    growth = (measured["wide"] - measured["tiny"]) / GIB
    expected = (estimated["wide"] - estimated["tiny"]) / GIB
    error = expected / growth - 1
    print(
        f"{ROWS} rows of up to {length:.0f} tokens, checkpointing {checkpointing}: measured growth "
        f"{growth:.2f} GiB (libraries and tiny model {measured['tiny'] / GIB:.2f}), estimated "
        f"{expected:.2f} GiB, {error:+.1%}"
    )
    return abs(error) <= TOLERANCE


def main() -> None:
    """Make data and models, and compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--checkpointing", action="store_true", help="with checkpointing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_data(folder)
        make_model(folder / "tiny", folder / "wide")
        if not measure(folder, options.checkpointing):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
