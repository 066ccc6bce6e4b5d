"""``python -m benchmarks.busy``: the stages of a small demo, quiet and beside one busy process.

Runs each stage of `phantom.demo` twice on an otherwise idle machine: alone, and beside a process
that computes without a pause. Prints the seconds of both and their ratio, start-up included, and
for training also those of a step.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

from phantom.demo import Plan
from phantom.stages import Stage
from recipe.run.host import run_child

IMAGES = 600
HEADER = (
    "| stage | quiet, s | busy, s | ratio | a step: quiet, s | busy, s | ratio |\n"
    + "|---" * 7
    + "|"
)


def run(stage: Stage, log: Path) -> list[float]:
    """Run a stage into an empty folder.

    Returns:
        The seconds in all and, if it logged steps, the mean seconds of a step after the first.

    Raises:
        SystemExit: the stage failed.
    """
    shutil.rmtree(stage.output, ignore_errors=True)
    steps: list[float] = []
    start = time.monotonic()

    def note_steps() -> None:
        if stage.metrics is not None and stage.metrics.is_file():
            new = stage.metrics.read_bytes().count(b"\n") - len(steps)
            steps.extend([time.monotonic() - start] * new)

    with log.open("ab") as output:
        command = [sys.executable, "-m", *stage.arguments]
        code = run_child(command, note_steps, 0.05, stdout=output, stderr=subprocess.STDOUT)
    if code:
        raise SystemExit(f"error: stage {stage.name} ended with code {code}: see {log}")
    total = time.monotonic() - start
    return [total, (steps[-1] - steps[0]) / (len(steps) - 1)] if len(steps) > 1 else [total]


def run_beside_a_busy_process(stage: Stage, log: Path) -> list[float]:
    """Do `run` beside a process that computes without a pause."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            return run(stage, log)
        finally:
            process.kill()


def main() -> None:
    """Measure the stages and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.busy", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs/busy"), help="(outputs/busy)")
    parser.add_argument("--sft-steps", type=int, default=60, help="(60)")
    parser.add_argument("--grpo-steps", type=int, default=6, help="(6)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    print(HEADER, flush=True)
    for stage in Plan(options.out, 0, IMAGES, options.sft_steps, options.grpo_steps).stages():
        log = options.out / f"{stage.name}.log"
        cells = [stage.name]
        for quiet, busy in zip(run(stage, log), run_beside_a_busy_process(stage, log), strict=True):
            cells += [f"{quiet:.2f}", f"{busy:.2f}", f"{busy / quiet:.2f}"]
        print(f"| {' | '.join(cells)} |" + " |" * (7 - len(cells)), flush=True)


if __name__ == "__main__":
    main()
