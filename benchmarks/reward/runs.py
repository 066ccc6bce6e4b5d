"""What each part of the reward did in training runs, as a table.

`python -m benchmarks.reward.runs NAME=RUN_DIR=EVALUATION_DIR ... --before EVALUATION_DIR [--docs]`
reads the metrics of GRPO runs that started from the same model, and evaluations of the models they
trained. Training figures are means over the rollouts of the first and of the last steps.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

from recipe.metrics_log import read_metrics

ROOT = Path(__file__).resolve().parents[2]
TRAINING = {
    "score": "score",
    "format": "format",
    "answer": "answer",
    "grounding": "grounding",
    "think_grounding": "think_grounding",
    "alignment": "alignment",
    "mean_iou": "mean IoU",
    "iou_75": "IoU above 0.75",
    "box_count_match": "right number of boxes",
    "response_chars": "characters",
}
EVALUATION = {
    "reward": "reward `dense`, greedy",
    "reward_sampled": "reward `dense`, sampled",
    "a_score": "A-score",
    "v_score": "V-score",
    "iou_75": "IoU above 0.75",
    "format": "format",
}


class Run(NamedTuple):
    """A training run and the evaluation of its model."""

    name: str
    metrics: Path
    evaluation: Path


def replace_section(text: str, name: str, content: str) -> str:
    """Return a text with `content` between the markers of a section.

    Raises:
        ValueError: the text has no such section.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if begin not in text or end not in text:
        raise ValueError(f"no section {name} in the text")
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{content}\n{end}{rest.split(end, 1)[1]}"


def training_table(runs: list[Run], steps: int) -> str:
    """Return components and diagnostics of rollouts: the first `steps` steps and the last."""
    header = " | ".join(f"`{run.name}`, first | last" for run in runs)
    rows = [f"| rollouts | {header} |", "|---" * (2 * len(runs) + 1) + "|"]
    tables = [read_metrics(run.metrics).table for run in runs]
    for key, title in TRAINING.items():
        cells = []
        for table in tables:
            means = table[f"reward/{key}/mean"]
            cells += [f"{means.head(steps).mean():.3f}", f"{means.tail(steps).mean():.3f}"]
        rows.append(f"| {title} | {' | '.join(cells)} |")
    signal = [
        f"`{run.name}` {table['reward/group_std/zero'].mean():.0%}"
        for run, table in zip(runs, tables, strict=True)
    ]
    note = (
        f"Groups whose rollouts all got the same score, and so no advantage: {', '.join(signal)}."
    )
    return "\n".join([*rows, "", note])


def evaluation_table(before: Path, runs: list[Run]) -> str:
    """Return the held-out scores of the model before and after each run."""
    columns = {"before": before} | {f"`{run.name}`": run.evaluation for run in runs}
    values = [_overall(folder) for folder in columns.values()]
    rows = [f"| held out | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for key, title in EVALUATION.items():
        rows.append(f"| {title} | {' | '.join(f'{value[key]:.3f}' for value in values)} |")
    return "\n".join(rows)


def _overall(folder: Path) -> dict[str, float]:
    metrics: dict[str, float] = json.loads((folder / "metrics.json").read_text())["overall"]
    return metrics


def main() -> None:
    """Print the tables, and with --docs write them into docs/reward.md."""
    options = _parser().parse_args()
    runs = []
    for text in options.runs:
        name, folder, evaluation = text.split("=")
        runs.append(Run(name, Path(folder) / "metrics.jsonl", Path(evaluation)))
    training = training_table(runs, options.steps)
    content = f"{training}\n\n{evaluation_table(options.before, runs)}"
    print(content)
    if options.docs:
        page = ROOT / "docs" / "reward.md"
        page.write_text(replace_section(page.read_text(encoding="utf-8"), "runs", content))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reward.runs",
        description="Compare runs under different rewards.",
    )
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN_DIR=EVALUATION_DIR")
    parser.add_argument("--before", type=Path, required=True, help="evaluation of the first model")
    parser.add_argument("--steps", type=int, default=5, help="at either end (%(default)s)")
    parser.add_argument("--docs", action="store_true", help="update docs/reward.md as well")
    return parser


if __name__ == "__main__":
    main()
