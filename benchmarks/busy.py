"""``python -m benchmarks.busy``: the stages of a small demo, quiet and beside one busy process.

Runs each stage of `phantom.demo` twice on an otherwise idle machine: alone, and beside a process
that computes without a pause. Prints the seconds of both and their ratio, start-up included, and
for training also those of a step. With `--stages`, only these are measured; stages that they need
run first.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from phantom.demo import Plan
from phantom.stages import Stage
from recipe.run.host import run_child

POLL = 0.05
HEADER = (
    "| stage | quiet, s | busy, s | ratio | a step: quiet, s | busy, s | ratio |\n"
    + "|---" * 7
    + "|"
)


@dataclass
class Times:
    """Seconds of a stage's run: the total, and the time of each logged step since the start."""

    total: float = 0.0
    steps: list[float] = field(default_factory=list)

    @property
    def step(self) -> float:
        """Mean seconds of a step after the first."""
        return (self.steps[-1] - self.steps[0]) / (len(self.steps) - 1)


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    """Start a process that computes without a pause, and end it with the context."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def run(stage: Stage, log: Path) -> Times:
    """Run a stage into an empty folder.

    Raises:
        SystemExit: the stage failed.
    """
    shutil.rmtree(stage.output, ignore_errors=True)
    times, start = Times(), time.monotonic()

    def note_steps() -> None:
        if stage.metrics is not None and stage.metrics.is_file():
            new = stage.metrics.read_bytes().count(b"\n") - len(times.steps)
            times.steps += [time.monotonic() - start] * new

    with log.open("ab") as output:
        command = [sys.executable, "-m", *stage.arguments]
        code = run_child(command, note_steps, POLL, stdout=output, stderr=subprocess.STDOUT)
    if code:
        raise SystemExit(f"error: stage {stage.name} ended with code {code}: see {log}")
    times.total = time.monotonic() - start
    return times


def row(name: str, quiet: Times, busy: Times) -> str:
    """Return a line of the table."""
    cells = [name, f"{quiet.total:.1f}", f"{busy.total:.1f}", f"{busy.total / quiet.total:.2f}"]
    if len(quiet.steps) > 1:
        cells += [f"{quiet.step:.2f}", f"{busy.step:.2f}", f"{busy.step / quiet.step:.2f}"]
    return f"| {' | '.join(cells)} |" + " |" * (7 - len(cells))


def main() -> None:
    """Measure the stages and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.busy", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs/busy"), help="(outputs/busy)")
    parser.add_argument("--images", type=int, default=600, help="of the synthetic set (600)")
    parser.add_argument("--sft-steps", type=int, default=60, help="(60)")
    parser.add_argument("--grpo-steps", type=int, default=6, help="(6)")
    parser.add_argument("--stages", nargs="+", help="measure these only, by name")
    options = parser.parse_args()
    plan = Plan(options.out, 0, options.images, options.sft_steps, options.grpo_steps)
    names = [stage.name for stage in plan.stages()]
    chosen_stages = options.stages or names
    if set(chosen_stages) - set(names):
        parser.error(f"--stages: choose among {', '.join(names)}")
    options.out.mkdir(parents=True, exist_ok=True)
    print(HEADER, flush=True)
    for stage in plan.stages()[: 1 + max(map(names.index, chosen_stages))]:
        log = options.out / f"{stage.name}.log"
        if stage.name in chosen_stages:
            quiet = run(stage, log)
            with busy_process():
                busy = run(stage, log)
            print(row(stage.name, quiet, busy), flush=True)
        elif not stage.output.is_dir():
            run(stage, log)


if __name__ == "__main__":
    main()
