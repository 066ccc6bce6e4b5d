"""``python -m benchmarks.startup OVERRIDES``: the time to the first step, by stage.

Starts ``python -m recipe.train`` (or, with ``--program``, ``recipe.sft`` or ``recipe.evaluate``)
with the overrides, records when each stage's last line appears, and ends the run after its first
step, an evaluation when it begins to answer. docs/measurements.md has the same names of stages.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator

# Each stage and the pattern of its last log line. Lines of Ray's workers begin with their name.
Stages = tuple[tuple[str, str], ...]
STAGES: dict[str, Stages] = {
    "train": (
        ("driver: imports, checks of the input", r"Platform override|ray init kwargs"),
        ("Ray: private cluster", r"Started a local Ray instance"),
        ("task runner: imports", r"TaskRunner.*Platform override"),
        ("task runner: tokenizer, data, TransferQueue", r"dataloader initialized"),
        ("actor: process and imports", r"WorkerDict.*Platform override"),
        ("actor: model and optimizer", r"actor and ref model engine initialized"),
        ("reward workers", r"reward loop manager initialized"),
        ("vLLM: server, engine and its worker", r"checkpoint engine manager initialized"),
        ("checkpoint, weight sync", r"ready to fit"),
        ("agent loop, first step", r"step:1 |step +1/"),
    ),
    "sft": (
        ("imports, checks of the input", r"starting a process for each GPU"),
        ("training process, first step", r"step:1 |step +1/"),
    ),
    "evaluate": (
        ("imports, checks of the input", r"questions of the"),
        ("vLLM: imports, engine and its worker", r"answering, greedy"),
    ),
}
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def ends(lines: Iterable[tuple[float, str]], stages: Stages) -> dict[str, float]:
    """Return when each stage ended, in seconds since the start.

    Args:
        lines: (seconds since the start, text) of each log line; reading stops at the last stage's.
        stages: of the program, one of `STAGES`.

    Returns:
        The seconds by stage; a stage without its line is missing.
    """
    seconds_of: dict[str, float] = {}
    for seconds, line in lines:
        text = COLOUR.sub("", line)
        for name, pattern in stages:
            if name not in seconds_of and re.search(pattern, text):
                seconds_of[name] = seconds
        if stages[-1][0] in seconds_of:
            break
    return seconds_of


def table(seconds_of: dict[str, float], stages: Stages) -> str:
    """Return a table with the duration and the end of each stage.

    A stage whose line came before that of an earlier stage is taken to end with that stage.
    """
    rows = ["| stage | s | since the start |", "|---|---|---|"]
    previous_end = 0.0
    for name, _ in stages:
        if name in seconds_of:
            end = max(previous_end, seconds_of[name])
            rows.append(f"| {name} | {end - previous_end:.1f} | {end:.1f} |")
            previous_end = end
    return "\n".join(rows)


def run(program: str, overrides: list[str], timeout: float) -> dict[str, float]:
    """Start a program and end it when its last stage has ended.

    Raises:
        SystemExit: there is no step; the end of the run's output is then on standard error.
    """
    command = [sys.executable, "-m", f"recipe.{program}", *overrides]
    begin, output = time.monotonic(), []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "THINKVG_CONSOLE": "all"},
        start_new_session=True,
    ) as process:

        def end() -> None:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)

        def stamped() -> Iterator[tuple[float, str]]:
            assert process.stdout is not None
            for line in process.stdout:
                output.append(line)
                yield time.monotonic() - begin, line

        limit = threading.Timer(timeout, end)  # a run may hang without another line
        limit.start()
        try:
            seconds_of = ends(stamped(), STAGES[program])
        finally:
            limit.cancel()
            end()
            process.wait(timeout=60)
    if STAGES[program][-1][0] not in seconds_of:
        sys.stderr.writelines(output[-40:])
        raise SystemExit("error: the run made no first step")
    return seconds_of


def main() -> None:
    """Measure a start and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("overrides", nargs="+", metavar="OVERRIDES", help="of the program")
    parser.add_argument("--program", choices=STAGES, default="train")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for the first step")
    options = parser.parse_intermixed_args()
    seconds_of = run(options.program, options.overrides, options.timeout)
    print(table(seconds_of, STAGES[options.program]))


if __name__ == "__main__":
    main()
