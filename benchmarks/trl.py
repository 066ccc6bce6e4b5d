"""This recipe's GRPO beside TRL's: same tiny model, data, steps, reward and machine.

`python -m benchmarks.trl MODEL DATA [--steps N] [--prompts P] [--group G] [--out DIR]` trains the
SFT model for a few steps with each, one after the other, and prints the reward, the wall time per
step and its parts. Both use float32 on the CPU, the preset `dense`, one learning rate for all
weights (unlike the demo's GRPO), no KL, temperature 1, advantages over the group's standard
deviation, and one update per step with the loss averaged over tokens (TRL: over those of a
micro-batch).

Differences remain. TRL generates with transformers in the training process. This recipe generates
with vLLM in a separate process under Ray, with one thread, and trains with one FSDP2 process on all
cores. It takes the engine's log-probabilities as old ones and computes those of a few rows again,
for the gap; TRL needs none if a rollout is used once. Each draws prompts from the same rows in its
own order, so rewards can be compared only within their standard errors.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RATE = 1e-4
RESPONSE_LENGTH = 176
MICRO_BATCH = 32
PARTS = {
    "generation": "timing_s/gen",
    "old log-probabilities": "timing_s/old_log_prob",
    "reward": "timing_s/reward",
    "update": "timing_s/update_actor",
    "weights to the engine": "timing_s/update_weights",
}


def train_with_ours(options: argparse.Namespace) -> list[dict[str, float]]:
    """Train with `recipe.train`, and return the metrics of each step."""
    run_dir = options.out / "ours"
    command = [
        *(sys.executable, "-m", "recipe.train", "cluster=cpu", "model=tiny"),
        *("experiment=demo_grpo", f"model.path={options.model}", f"data.dir={options.data}"),
        *(f"run_dir={run_dir}", f"seed={options.seed}", "trainer.logger=[console,file]"),
        *(f"trainer.total_training_steps={options.steps}", "trainer.save_freq=-1"),
        f"data.train_batch_size={options.prompts}",
        f"actor_rollout_ref.rollout.n={options.group}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={options.prompts}",
        f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={options.micro_batch}",
        f"actor_rollout_ref.actor.optim.lr={RATE}",
        "actor_rollout_ref.actor.optim.lr_scheduler_type=constant",
        "actor_rollout_ref.actor.optim.lr_warmup_steps=0",
        # one rate for all weights, as TRL has it
        "actor_rollout_ref.actor.optim.override_optimizer_config=null",
    ]
    run_logged("recipe.train", command, options.out / "ours.log")
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["data"] for line in lines]


def train_with_trl(options: argparse.Namespace) -> list[dict[str, float]]:
    """Train with TRL in a separate process, and return the metrics of each step."""
    path = options.out / "trl.json"
    command = [sys.executable, "-m", "benchmarks.trl", *sys.argv[1:], "--trl-only", str(path)]
    # One thread would be unfair: TRL generates and trains in turns in one process.
    env = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count())}
    run_logged("TRL", command, options.out / "trl.log", env)
    steps: list[dict[str, float]] = json.loads(path.read_text())
    return steps


def run_logged(name: str, command: list[str], log: Path, env: dict[str, str] | None = None) -> None:
    """Run a command with its output in a log; end this program if the command fails."""
    with log.open("w") as output:
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=env).returncode
    if code:
        sys.exit(f"{name} ended with code {code}; its log is {log}")


def rows(options: argparse.Namespace, patch_size: int) -> Any:
    """Return as many training rows as the steps need, drawn by the seed, in TRL's form.

    Pictures have the size for which the boxes were written; the processor does not resize them.
    """
    import datasets

    from recipe.evaluate.generation import load_image, read_prompts

    prompts = read_prompts(options.data / "train.parquet")
    sampled = random.Random(options.seed).sample(prompts, options.steps * options.prompts)
    return datasets.Dataset.from_list(
        [
            {
                "prompt": [
                    message | {"content": message["content"].replace("<image>", "")}
                    for message in prompt.messages
                ],
                "image": load_image(prompt, patch_size),
                "ground_truth": prompt.ground_truth,
            }
            for prompt in sampled
        ]
    )


def settings_of_trl(options: argparse.Namespace) -> Any:
    """Return the settings that both share, as TRL names them."""
    from trl.trainer.grpo_config import GRPOConfig

    return GRPOConfig(
        output_dir=str(options.out / "trl"),
        max_steps=options.steps,
        per_device_train_batch_size=options.micro_batch,
        gradient_accumulation_steps=options.rollouts // options.micro_batch,
        num_generations=options.group,
        max_completion_length=RESPONSE_LENGTH,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        beta=0.0,
        temperature=1.0,
        loss_type="bnpo",
        seed=options.seed,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        dataloader_pin_memory=False,
    )


def score(completions: Any, ground_truth: Any, **_: Any) -> list[float]:
    """Return the scores by the preset `dense`, with the arguments that TRL passes."""
    from reward.settings import load_preset
    from reward.thinkvg import compute_score

    kwargs = load_preset("dense")
    texts = [text if isinstance(text, str) else text[0]["content"] for text in completions]
    return [
        compute_score("thinkvg", text, truth, **kwargs)["score"]
        for text, truth in zip(texts, ground_truth, strict=True)
    ]


def run_trl(options: argparse.Namespace) -> None:
    """Train with TRL and write its metrics of each step."""
    from recipe import program

    program.set_environment(program.compose_config("evaluate", ["cluster=cpu", "data.dir=D"]))
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
    from trl.trainer.grpo_trainer import GRPOTrainer

    begins: list[float] = []
    inputs = [0.0]

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            begins.append(time.perf_counter())
            inputs.append(0.0)

    class TimedTrainer(GRPOTrainer):
        def _prepare_inputs(self, generation_batch: Any) -> Any:
            """Time this call, which generates and scores at a step's first micro-batch."""
            start = time.perf_counter()
            prepared = super()._prepare_inputs(generation_batch)
            inputs[-1] += time.perf_counter() - start
            return prepared

    torch.set_num_threads(os.cpu_count() or 1)
    processor = AutoProcessor.from_pretrained(options.model, padding_side="left")
    trainer = TimedTrainer(
        model=AutoModelForImageTextToText.from_pretrained(options.model, dtype="float32"),
        processing_class=processor,
        reward_funcs=score,
        args=settings_of_trl(options),
        train_dataset=rows(options, processor.image_processor.patch_size),
        callbacks=[Clock()],
    )
    trainer.train()
    ends = [*begins[1:], time.perf_counter()]
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    steps = [
        {"reward": reward, "seconds": end - begin, "inputs": spent}
        for reward, begin, end, spent in zip(rewards, begins, ends, inputs[1:], strict=True)
    ]
    Path(options.trl_only).write_text(json.dumps(steps))


def first_and_last(values: list[float]) -> str:
    """Return the means over the first and the last fifth of the steps, with standard errors."""
    count = max(2, len(values) // 5)
    first, last = (
        f"{statistics.fmean(part):.3f} +- {statistics.stdev(part) / count**0.5:.3f}"
        for part in (values[:count], values[-count:])
    )
    return f"{first} in the first {count} steps, {last} in the last (+- standard error over steps)"


def main() -> None:
    """Train with both and print the comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trl", description=__doc__)
    parser.add_argument("model", type=Path, help="Hugging Face folder of the SFT model")
    parser.add_argument("data", type=Path, help="folder of data_prep.thinkvg")
    parser.add_argument("--steps", type=int, default=40, help="(40)")
    parser.add_argument("--prompts", type=int, default=16, help="a step (16)")
    parser.add_argument("--group", type=int, default=8, help="rollouts of a prompt (8)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark-trl"))
    parser.add_argument("--trl-only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps < 4:
        parser.error("--steps: 4 or more, for means and their errors")
    options.rollouts = options.prompts * options.group
    options.micro_batch = min(MICRO_BATCH, options.rollouts)  # rollouts in a forward pass
    if options.rollouts % options.micro_batch:
        parser.error(f"--prompts times --group: choose a multiple of {MICRO_BATCH}, or less")
    if options.trl_only:
        run_trl(options)
        return
    if options.out.exists():  # a run there would be resumed, not repeated
        sys.exit(f"error: --out {options.out}: exists; remove it or give another")
    options.out.mkdir(parents=True)
    begin = time.perf_counter()
    theirs = train_with_trl(options)
    middle = time.perf_counter()
    ours = train_with_ours(options)
    totals = {"TRL": middle - begin, "this recipe": time.perf_counter() - middle}
    print(f"{options.steps} steps of {options.prompts} prompts x {options.group} rollouts")
    print_comparison(theirs, ours, totals)


def print_comparison(
    theirs: list[dict[str, float]], ours: list[dict[str, float]], totals: dict[str, float]
) -> None:
    """Print rewards and times from the metrics of each step and the seconds in all."""
    # Both make some preparations in their first step.
    seconds = {
        "TRL": [step["seconds"] for step in theirs][1:],
        "this recipe": [step["timing_s/step"] for step in ours][1:],
    }
    rewards = {
        "TRL": [step["reward"] for step in theirs],
        "this recipe": [step["critic/score/mean"] for step in ours],
    }
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"{name}: {median:.2f} s a step (median), {totals[name]:.0f} s with start-up; reward")
        print(f"  {first_and_last(rewards[name])}")
    print(f"a step of this recipe takes {medians['this recipe'] / medians['TRL']:.2f} times TRL's")
    inputs = statistics.median(step["inputs"] for step in theirs[1:])
    update = statistics.median(step["seconds"] - step["inputs"] for step in theirs[1:])
    print(
        f"of TRL's step, seconds (median): generation and reward {inputs:.2f}, update {update:.2f}"
    )
    print("of this recipe's step, seconds (median):")
    for title, key in PARTS.items():
        if values := [step[key] for step in ours[1:] if key in step]:
            print(f"  {title}: {statistics.median(values):.2f}")


if __name__ == "__main__":
    main()
