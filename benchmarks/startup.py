"""``python -m benchmarks.startup OVERRIDES``: the time to the first step, by stage.

Starts ``python -m recipe.train`` with the overrides, records when each stage's last line appears,
and ends the run after its first step. The stages have the names used in docs/scaling.md.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator

# Each stage and the pattern of its last log line. Lines of Ray's workers begin with their name.
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
    ("agent loop, first step", r"step +1/"),
)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def ends(lines: Iterable[tuple[float, str]]) -> dict[str, float]:
    """Return when each stage ended, in seconds since the start.

    Args:
        lines: (seconds since the start, text) of each log line; reading stops at the first step.

    Returns:
        The seconds by stage; a stage without its line is missing.
    """
    seconds_of: dict[str, float] = {}
    for seconds, line in lines:
        text = COLOUR.sub("", line)
        for name, pattern in STAGES:
            if name not in seconds_of and re.search(pattern, text):
                seconds_of[name] = seconds
        if STAGES[-1][0] in seconds_of:
            break
    return seconds_of


def table(seconds_of: dict[str, float]) -> str:
    """Return a table with the duration and the end of each stage.

    A stage whose line came before that of an earlier stage is taken to end with that stage.
    """
    rows = ["| stage | s | since the start |", "|---|---|---|"]
    previous_end = 0.0
    for name, _ in STAGES:
        if name in seconds_of:
            end = max(previous_end, seconds_of[name])
            rows.append(f"| {name} | {end - previous_end:.1f} | {end:.1f} |")
            previous_end = end
    return "\n".join(rows)


def run(overrides: list[str], timeout: float) -> dict[str, float]:
    """Start a run and end it after its first step.

    Raises:
        SystemExit: there is no step; the end of the run's output is then on standard error.
    """
    command = [sys.executable, "-m", "recipe.train", *overrides]
    begin, output = time.monotonic(), []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "THINKVG_CONSOLE": "all"},
        start_new_session=True,
    ) as process:

        def stamped() -> Iterator[tuple[float, str]]:
            assert process.stdout is not None
            for line in process.stdout:
                output.append(line)
                yield time.monotonic() - begin, line
                if time.monotonic() - begin > timeout:
                    return

        try:
            seconds_of = ends(stamped())
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(timeout=60)
    if STAGES[-1][0] not in seconds_of:
        sys.stderr.writelines(output[-40:])
        raise SystemExit("error: the run made no first step")
    return seconds_of


def main() -> None:
    """Measure a start and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("overrides", nargs="+", metavar="OVERRIDES", help="of recipe.train")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for the first step")
    options = parser.parse_intermixed_args()
    print(table(run(options.overrides, options.timeout)))


if __name__ == "__main__":
    main()
