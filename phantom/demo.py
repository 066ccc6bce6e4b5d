"""``python -m phantom.demo``: the whole path on synthetic data; resumes where it stopped."""

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from data_prep.coordinates import MODEL_FAMILIES
from data_prep.program import STOPPED, InputError
from phantom.base import BASE
from phantom.stages import (
    Ledger,
    Stage,
    draw_stage,
    prepare_stage,
    program,
    run_stages,
    tiny_stage,
    training_stage,
)
from recipe import console
from recipe.evaluate.predictions import Prediction, read_predictions
from recipe.evaluate.results import build_summary, write_summary
from recipe.model_card import versions
from recipe.program import one_line_at_the_end
from recipe.run.host import check_output, leave_on_sigterm

IMAGES = 4000
TEST_SHARE = 0.1  # with seed 0, 1,567 questions of 277 patients
SFT_STEPS = 400
GRPO_STEPS = 128
VALIDATE_EVERY = 32  # steps of GRPO
GRPO_PROMPTS = 16
GRPO_GROUP = 8
# The family of the base model in phantom/tiny_base. The demo of another family begins with
# pre-training of its twin, on the demo's own pictures.
BASE_FAMILY = "qwen2_5_vl"
LETTERS, EPOCHS = 400, 4
SMOOTHING = 18  # of coordinates from 0 to 1000: 2 pixels of 112


@dataclass(frozen=True)
class Plan:
    """Settings of one demo, and its paths and stages below `root`."""

    root: Path
    seed: int
    images: int = IMAGES
    sft_steps: int = SFT_STEPS
    grpo_steps: int = GRPO_STEPS
    family: str = BASE_FAMILY

    @property
    def data(self) -> Path:
        """Folder of the rollout and SFT parquet."""
        return self.root / "data"

    @property
    def base(self) -> Path:
        """Folder of the model that the cold start begins with."""
        return BASE if self.family == BASE_FAMILY else self.root / "model"

    def checkpoint(self, model: str) -> Path:
        """Return the Hugging Face folder of the trained model, ``sft`` or ``grpo``."""
        steps, actor = {"sft": (self.sft_steps, ""), "grpo": (self.grpo_steps, "actor")}[model]
        return self.root / model / "checkpoints" / f"global_step_{steps}" / actor / "huggingface"

    def predictions(self, model: str) -> Path:
        """Return the folder with a model's greedy.jsonl and sampled.jsonl."""
        return self.root / "eval" / model

    def stages(self) -> list[Stage]:
        """Return all stages, in order."""
        model = tiny_stage(self.root, self.base, self.seed, LETTERS, EPOCHS)
        return [
            draw_stage(self.root, self.images, self.seed),
            prepare_stage(self.root, self.seed, TEST_SHARE, self.family),
            *([model] if self.base != BASE else []),
            self._sft(),
            self._evaluate("sft"),
            self._grpo(),
            self._evaluate("grpo"),
        ]

    def _sft(self) -> Stage:
        is_relative = MODEL_FAMILIES[self.family].coordinates == "norm1000"
        smoothing = [f"coordinate_smoothing={SMOOTHING}"] if is_relative else []
        command = program("sft", self.data, self.seed, "experiment=demo_sft", *smoothing)
        title = f"supervised cold start, {self.sft_steps} steps"
        return training_stage("sft", title, command, self.base, self.root / "sft", self.sft_steps)

    def _grpo(self) -> Stage:
        command = program(
            "train",
            self.data,
            self.seed,
            "experiment=demo_grpo",
            f"data.train_batch_size={GRPO_PROMPTS}",
            f"actor_rollout_ref.rollout.n={GRPO_GROUP}",
            f"trainer.test_freq={VALIDATE_EVERY}",
            "trainer.val_before_train=true",
        )
        title = f"GRPO with Ray, vLLM and FSDP, {self.grpo_steps} steps"
        model, run = self.checkpoint("sft"), self.root / "grpo"
        return training_stage("grpo", title, command, model, run, self.grpo_steps)

    def _evaluate(self, model: str) -> Stage:
        arguments = program(
            "evaluate",
            self.data,
            self.seed,
            "experiment=demo_evaluate",
            f"model.path={self.checkpoint(model)}",
            f"out={self.predictions(model)}",
            *([f"+beside.SFT={self.predictions('sft')}"] if model == "grpo" else []),
        )
        model_title = {"sft": "the supervised model", "grpo": "the model after GRPO"}[model]
        title = f"answer the test split with {model_title}"
        return Stage(f"eval-{model}", title, arguments, self.predictions(model))


def _predictions(demo: Plan, model: str) -> tuple[list[Prediction], list[Prediction]]:
    folder = demo.predictions(model)
    return read_predictions(folder / "greedy.jsonl"), read_predictions(folder / "sampled.jsonl")


def _summarise(demo: Plan, ledger: Ledger) -> Path:
    """Write ``summary.json``: both models on the test split beside the baselines."""
    run = {
        "seed": demo.seed,
        "versions": versions(),
        "wall_seconds": {stage.name: ledger.seconds(stage) for stage in demo.stages()},
        "grpo_steps": demo.grpo_steps,
        "rollouts": demo.grpo_steps * GRPO_PROMPTS * GRPO_GROUP,
    }
    summary = build_summary(
        _predictions(demo, "sft"),
        _predictions(demo, "grpo"),
        demo.data / "train.parquet",
        demo.data / "test.parquet",
        run,
    )
    path = demo.root / "summary.json"
    write_summary(path, summary)
    return path


def _finish(demo: Plan, ledger: Ledger) -> None:
    summary = _summarise(demo, ledger)
    subprocess.run([sys.executable, "-m", "recipe.report", str(demo.root)], check=True)
    print(f"\nsummary: {summary}\nreport:  {demo.root / 'report.html'}")
    for run in sorted({path.parents[1] for path in demo.root.glob("*/wandb/offline-run-*")}):
        print(f"W&B:     {run / 'wandb'}\n         to upload it: python -m recipe.sync {run}")
    sft, grpo = demo.root / "sft", demo.root / "grpo"
    print(f"to try the models: python -m recipe.ask SFT={sft} GRPO={grpo} --page")


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="python -m phantom.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs/demo"), help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (default 0)")
    parser.add_argument(
        "--family", default=BASE_FAMILY, help="qwen3_vl: with a tiny Qwen3-VL, pre-trained first"
    )
    options = parser.parse_args()
    os.environ.setdefault("WANDB_MODE", "offline")
    console.slow_bars()
    leave_on_sigterm()
    demo = Plan(options.out, options.seed, family=options.family)
    with one_line_at_the_end(STOPPED):
        check_output("--out", options.out)
        if options.family not in MODEL_FAMILIES:
            raise InputError(f"--family: choose one of {', '.join(MODEL_FAMILIES)}")
        _finish(demo, run_stages(demo.stages(), demo.root))


if __name__ == "__main__":
    main()
