"""``python -m recipe.compare BEFORE AFTER``: compare two models on the same questions, paired.

Both are folders of recipe.evaluate, of which the greedy answers are compared, or a file of
predictions in one. Differences are AFTER minus BEFORE, with 95 % intervals over patients.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data_prep.program import InputError, write_whole
from recipe.evaluate.metrics import (
    METHOD,
    check_same_questions,
    paired,
    question_values,
    split_by_type,
)
from recipe.evaluate.predictions import read_predictions
from recipe.evaluate.results import check_presets, intervals, read_results
from recipe.evaluate.tables import METRIC_TITLES, estimate, markdown_table


def compare(before: pd.DataFrame, after: pd.DataFrame, seed: int = 0) -> dict[str, Any]:
    """Estimate two tables of `question_values` and their difference, by question type and overall.

    Raises:
        InputError: the two did not answer the same questions.
    """
    check_same_questions(before.index, after.index)
    return {
        "before": intervals(before, seed),
        "after": intervals(after, seed),
        "difference": {
            kind: paired(rows, after.loc[rows.index], seed=seed)
            for kind, rows in split_by_type(before).items()
        },
    }


def markdown(comparison: dict[str, Any], names: tuple[str, str]) -> str:
    parts = [f"# {names[1]} less {names[0]}\n", f"In brackets: {METHOD}.\n"]
    for kind, gains in comparison["difference"].items():
        before, after = comparison["before"][kind], comparison["after"][kind]
        rows = [
            [
                METRIC_TITLES[metric],
                estimate(before.get(metric), metric),
                estimate(after.get(metric), metric),
                estimate(gain, signed=True),
            ]
            for metric, gain in gains.items()
        ]
        parts += [f"## {kind}\n", markdown_table(["", *names, "difference"], rows)]
    return "\n".join(parts)


def predictions_file(path: str) -> Path:
    """Return the file of predictions that a user names, by itself or by its folder."""
    return Path(path) / "greedy.jsonl" if Path(path).is_dir() else Path(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, write and print; on failure print one line to stderr and return 2."""
    parser = argparse.ArgumentParser(prog="python -m recipe.compare", description=__doc__)
    what = "folder of an evaluation, or its greedy.jsonl or sampled.jsonl"
    for name in ("before", "after"):
        parser.add_argument(name, type=predictions_file, metavar=name.upper(), help=what)
    parser.add_argument("--out", type=Path, help="folder for comparison.json and comparison.md")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (0)")
    options = parser.parse_args(arguments)
    try:
        folders = (options.before.parent, options.after.parent)
        check_presets({folder: read_results(folder) for folder in folders})
        before, after = (
            question_values(read_predictions(path)) for path in (options.before, options.after)
        )
        comparison = compare(before, after, options.seed)
        text = markdown(comparison, (str(options.before), str(options.after)))
        if options.out:
            write_whole(options.out / "comparison.json", json.dumps(comparison, indent=2))
            write_whole(options.out / "comparison.md", text)
    except (InputError, OSError) as error:
        print(f"recipe.compare: error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
