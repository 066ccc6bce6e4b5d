"""``python -m recipe.compare BEFORE AFTER``: two models on the same questions, paired.

Both are predictions files of recipe.evaluate, scored; differences are AFTER less BEFORE, with 95 %
intervals over patients.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recipe.errors import InputError
from recipe.evaluation.clusters import paired
from recipe.evaluation.files import write_text_atomically
from recipe.evaluation.markdown import estimate, lines
from recipe.evaluation.metrics import OVERALL, QUESTION_TYPES, question_values
from recipe.evaluation.predictions import read_predictions
from recipe.evaluation.results import intervals
from recipe.evaluation.tables import METRIC_TITLES


def compare(before: pd.DataFrame, after: pd.DataFrame, seed: int = 0) -> dict[str, Any]:
    """Both models and their difference, per question type and overall.

    Args:
        before, after: of `question_values`.

    Returns:
        `before`, `after` and `difference`: question type or `overall` -> metric -> estimate.

    Raises:
        InputError: the two did not answer the same questions.
    """
    kinds = {kind: before[before["question_type"] == kind].index for kind in QUESTION_TYPES}
    kinds[OVERALL] = before.index
    overall = paired(before, after, seed=seed)
    difference = {
        kind: paired(before.loc[ids], after.loc[ids], seed=seed) if kind != OVERALL else overall
        for kind, ids in kinds.items()
        if len(ids)
    }
    return {
        "before": intervals(before, seed),
        "after": intervals(after, seed),
        "difference": difference,
    }


def markdown(found: dict[str, Any], names: tuple[str, str]) -> str:
    """The comparison as Markdown."""
    parts = [
        f"# {names[1]} less {names[0]}\n",
        "In brackets: 95 % intervals, paired by question and bootstrapped over patients.\n",
    ]
    for kind in found["difference"]:
        before, after, gain = (found[side][kind] for side in ("before", "after", "difference"))
        rows = [
            [
                METRIC_TITLES[metric],
                estimate(before.get(metric), metric),
                estimate(after.get(metric), metric),
                estimate(gain[metric], signed=True),
            ]
            for metric in gain
        ]
        parts += [f"## {kind}\n", lines(["", names[0], names[1], "difference"], rows)]
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, write and print; 2 and one line on stderr where that cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m recipe.compare", description=__doc__)
    for name in ("before", "after"):
        parser.add_argument(name, type=Path, metavar=name.upper(), help="greedy or sampled .jsonl")
    parser.add_argument("--out", type=Path, help="folder for comparison.json and comparison.md")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (0)")
    options = parser.parse_args(arguments)
    try:
        values = [
            question_values(read_predictions(path)) for path in (options.before, options.after)
        ]
        found = compare(values[0], values[1], options.seed)
        text = markdown(found, (str(options.before), str(options.after)))
        if options.out:
            write_text_atomically(options.out / "comparison.json", json.dumps(found, indent=2))
            write_text_atomically(options.out / "comparison.md", text)
    except (InputError, OSError) as error:
        print(f"recipe.compare: error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
