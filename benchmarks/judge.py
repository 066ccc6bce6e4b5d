"""How long 512 judged responses take with a local server that takes 50 ms for each.

`python -m benchmarks.judge [--responses N] [--delay S] [--repeat R]` starts the tests' judge server
on this machine and scores distinct responses to open questions concurrently, as a reward worker
does.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.reward_formulas import closed_truth
from reward.judge.judge import close_judges
from reward.settings import load_preset
from reward.thinkvg import compute_score_judged

SERVER = Path(__file__).resolve().parent.parent / "tests" / "fault_server.py"
REGION = {"ref": "left lung", "box": [63, 20, 98, 80]}
TRUTH = json.dumps(
    closed_truth("There is a small left effusion.", [REGION]) | {"question_type": "open"}
)


def response(number: int) -> str:
    """Return a typical response, different for each number."""
    think = f"Reading {number}. " + "The left lung [63, 20, 98, 80] shows blunting below. " * 12
    return (
        f"<think>{think}</think>\n<answer>Finding number {number} in the left lung</answer>\n"
        "<location><ref>left lung</ref><box>[63, 20, 98, 80]</box></location>"
    )


async def judge_all(kwargs: dict[str, Any], numbers: range) -> float:
    """Return the seconds for the concurrent responses of these numbers, with new connections.

    Raises:
        SystemExit: the judge failed for some of them.
    """
    info = {"question": "What does the left lung show?"}
    texts = map(response, numbers)
    start = time.perf_counter()
    scores = await asyncio.gather(
        *(compute_score_judged("thinkvg", text, TRUTH, info, **kwargs) for text in texts)
    )
    seconds = time.perf_counter() - start
    await close_judges()
    used = sum(score["judge_used"] for score in scores)
    if used != len(numbers):
        raise SystemExit(f"only {used:.0f} of {len(numbers)} responses were judged")
    return seconds


def main() -> None:
    """Start the server and print the time of each repetition."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--responses", type=int, default=512)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds a response")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    control = json.dumps({"delay_s": options.delay})
    command = [sys.executable, str(SERVER), "--control", control]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
            kwargs = load_preset("paper_judge")
            kwargs["judge"] = kwargs["judge"] | {"base_url": address}
            limit = kwargs["judge"]["max_concurrency"]
            for turn in range(options.repeat):
                numbers = range(turn * options.responses, (turn + 1) * options.responses)
                seconds = asyncio.run(judge_all(kwargs, numbers))
                print(
                    f"{options.responses} responses at {options.delay * 1000:g} ms each, at most "
                    f"{limit} at a time: {seconds:.2f} s"
                )
        finally:
            server.kill()


if __name__ == "__main__":
    main()
