"""Grounding rewards side by side: what each pays for, and how long it takes.

`python -m benchmarks.reward [--out DIR] [--memory N] [--docs]` scores one file of responses with
the formulas of `benchmarks/peer_formulas.py` and with this project's, draws each against the IoU
and against the number of boxes, and measures throughput. With `--docs`, the table, the plot and the
figures go into `docs/reward.md`. One process, one core.
"""

import argparse
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __package__ in (None, ""):
    # Run as a file: its own folder, where this file hides the package `reward`, comes off the path.
    sys.path[0] = str(ROOT)

from benchmarks.peer_formulas import FORMULAS  # noqa: E402
from benchmarks.reward_cases import SIDE, cases  # noqa: E402
from benchmarks.reward_curves import draw_curves  # noqa: E402
from benchmarks.reward_speed import memory_table, speed_table  # noqa: E402
from benchmarks.sections import replace_section  # noqa: E402
from reward.ground_truth import GroundTruth, place  # noqa: E402
from reward.presets import load_preset  # noqa: E402
from reward.response import parse_response  # noqa: E402
from reward.thinkvg import compute_score  # noqa: E402

COLUMNS = (*FORMULAS, "paper", "dense")


def write_responses(path: Path) -> int:
    """Write the cases as input of the offline command; return their number."""
    lines = [json.dumps(case.row) + "\n" for case in cases()]
    path.write_text("".join(lines), encoding="utf-8")
    return len(lines)


def grounding_table(path: Path) -> str:
    """Score a file of responses under every formula, as a Markdown table."""
    presets = {name: load_preset(name) for name in ("paper", "dense")}
    rows = [f"| response | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        truth = GroundTruth.parse(row["ground_truth"])
        given = place(parse_response(row["response"]).regions, truth)
        predicted = [box for _, box in given if box]
        reference = [box for _, box in truth.placed_regions if box]
        values = [formula(predicted, reference) for formula in FORMULAS.values()]
        for kwargs in presets.values():
            scores = compute_score("bench", row["response"], row["ground_truth"], **kwargs)
            values.append(scores["grounding"])
        cells = " | ".join(f"{value:.2f}" for value in values)
        rows.append(f"| {row['id']} | {cells} |")
    return "\n".join(rows)


def main() -> None:
    """Entry point."""
    options = _parser().parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    responses = options.out / "responses.jsonl"
    count = write_responses(responses)
    table = grounding_table(responses)
    print(f"{count} responses on a {SIDE} x {SIDE} image\n\n{table}\n")
    draw_curves(options.out / "reward.svg")
    speed = f"{speed_table()}\n\n{memory_table(options.memory)}"
    print(speed)
    (options.out / "reward.md").write_text(f"{table}\n\n{speed}\n", encoding="utf-8")
    if options.docs:
        page = ROOT / "docs" / "reward.md"
        text = replace_section(page.read_text(encoding="utf-8"), "formulas", table)
        page.write_text(replace_section(text, "speed", speed), encoding="utf-8")
        draw_curves(ROOT / "docs" / "reward.svg")
    print(f"\n{options.out}: responses.jsonl, reward.md, reward.svg")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reward", description="Compare grounding rewards and their speed."
    )
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/benchmarks/reward"), help="folder (%(default)s)"
    )
    parser.add_argument(
        "--memory", type=int, default=100_000, help="responses scored for memory (%(default)s)"
    )
    parser.add_argument("--docs", action="store_true", help="update docs/reward.md as well")
    return parser


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
