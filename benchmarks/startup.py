"""``python -m benchmarks.startup OVERRIDES``: from the command to the first step, by stage.

Starts ``python -m recipe.train`` with the overrides, notes when each stage's last line comes,
and ends the run after its first step. Names of stages are those of docs/scaling.md.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator

# A stage, and what the log says at its end. Lines of Ray's workers begin with their name.
STAGES = (
    ("driver: imports, checks of the input", r"Platform override|ray init kwargs"),
    ("Ray: private cluster", r"Started a local Ray instance"),
    ("task runner: imports", r"TaskRunner.*Platform override"),
    ("task runner: tokenizer, data, TransferQueue", r"dataloader initialized"),
    ("actor: process and imports", r"WorkerDict.*Platform override"),
    ("actor: model and optimizer", r"actor and ref model engine initialized"),
    ("reward workers", r"reward loop manager initialized"),
    ("vLLM: server, engine and its worker", r"checkpoint engine manager initialized"),
    ("checkpoint, weight sync", r"ready to fit"),
    ("agent loop, first step", r"step:1 "),
)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def ends(lines: Iterable[tuple[float, str]]) -> dict[str, float]:
    """Seconds at which each stage ended; lines are (seconds since the start, text).

    A stage whose line comes before that of an earlier stage ended with it. One whose line does not
    come is left out.
    """
    found: dict[str, float] = {}
    for seconds, line in lines:
        text = COLOUR.sub("", line)
        for name, pattern in STAGES:
            if name not in found and re.search(pattern, text):
                found[name] = seconds
        if STAGES[-1][0] in found:
            break
    return found


def table(found: dict[str, float]) -> str:
    """A line for each stage: its own seconds, and those since the start."""
    rows = ["| stage | s | since the start |", "|---|---|---|"]
    before = 0.0
    for name, _ in STAGES:
        if name in found:
            reached = max(before, found[name])
            rows.append(f"| {name} | {reached - before:.1f} | {reached:.1f} |")
            before = reached
    return "\n".join(rows)


def run(overrides: list[str], timeout: float) -> dict[str, float]:
    """Start a run and end it after its first step.

    Raises SystemExit where no step comes; the run's output is then on standard error.
    """
    command = [sys.executable, "-m", "recipe.train", *overrides]
    begin, said = time.monotonic(), []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    ) as process:

        def stamped() -> Iterator[tuple[float, str]]:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line)
                yield time.monotonic() - begin, line
                if time.monotonic() - begin > timeout:
                    return

        try:
            found = ends(stamped())
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(timeout=60)
    if STAGES[-1][0] not in found:
        sys.stderr.writelines(said[-40:])
        raise SystemExit("error: the run came to no first step")
    return found


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("overrides", nargs="+", metavar="OVERRIDES", help="of recipe.train")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for the first step")
    options = parser.parse_intermixed_args()
    print(table(run(options.overrides, options.timeout)))


if __name__ == "__main__":
    main()
