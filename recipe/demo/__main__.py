"""``python -m recipe.demo``: the whole path on synthetic data; goes on where it was interrupted."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from recipe.child import leave_on_sigterm
from recipe.demo import plan
from recipe.demo.plan import Plan
from recipe.demo.stage import Ledger, StageFailed, announce, run_stage
from recipe.evaluation.predictions import Prediction, read_predictions
from recipe.evaluation.summary import build_summary, write_summary
from recipe.versions import versions


def _models(demo: Plan, model: str) -> tuple[list[Prediction], list[Prediction]]:
    folder = demo.predictions(model)
    return read_predictions(folder / "greedy.jsonl"), read_predictions(folder / "sampled.jsonl")


def _summarise(demo: Plan, ledger: Ledger) -> Path:
    """Write ``summary.json``: both models on the test split beside the baselines."""
    run = {
        "seed": demo.seed,
        "versions": versions(),
        "wall_seconds": {stage.name: ledger.seconds(stage) for stage in demo.stages()},
        "grpo_steps": plan.GRPO_STEPS,
        "rollouts": plan.GRPO_STEPS * plan.GRPO_PROMPTS * plan.GRPO_GROUP,
    }
    summary = build_summary(
        _models(demo, "sft"),
        _models(demo, "grpo"),
        demo.data / "train.parquet",
        demo.data / "test.parquet",
        run,
    )
    path = demo.root / "summary.json"
    write_summary(path, summary)
    return path


def _run_stages(demo: Plan) -> Ledger:
    """Run what is missing; a stage that runs again has all later ones run again."""
    ledger = Ledger(demo.root / "stages")
    stages = demo.stages()
    for number, stage in enumerate(stages, 1):
        if ledger.is_done(stage):
            announce(stage, number, len(stages), " (done)")
            continue
        ledger.forget(stages[number:])
        announce(stage, number, len(stages), "")
        run_stage(stage, ledger, demo.root / "logs")
    return ledger


def _finish(demo: Plan, ledger: Ledger) -> None:
    summary = _summarise(demo, ledger)
    subprocess.run([sys.executable, "-m", "recipe.report", str(demo.root)], check=True)
    print(f"\nsummary: {summary}\nreport:  {demo.root / 'report.html'}")
    for folder in sorted(demo.root.glob("*/wandb/offline-run-*")):
        print(f"W&B:     {folder}\n         to upload it: wandb sync {folder}")


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="python -m recipe.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs/demo"), help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (default 0)")
    options = parser.parse_args()
    os.environ.setdefault("WANDB_MODE", "offline")
    leave_on_sigterm()
    demo = Plan(options.out, options.seed)
    try:
        _finish(demo, _run_stages(demo))
    except StageFailed as error:
        sys.exit(f"{error}\nrun the same command again to go on from here")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; run the same command again to go on from here")


if __name__ == "__main__":
    main()
