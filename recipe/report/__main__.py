"""``python -m recipe.report RUN_DIR``: write a run as one HTML page."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.program import InputError, write_whole
from recipe.report.page import IMAGES, render_page
from recipe.report.run_folder import read_run


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and print its path; on failure print one line to stderr and return 2."""
    options = _parser().parse_args(arguments)
    output = options.output or options.run_dir / "report.html"
    try:
        run = read_run(options.run_dir, _evaluations(options.evaluation), options.data)
        write_whole(output, render_page(run, options.cases, options.images))
    except (InputError, OSError) as error:
        print(f"recipe.report: error: {error}", file=sys.stderr)
        return 2
    print(output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipe.report",
        description="Write curves, tables and single cases of a run as one HTML page that needs "
        "no network. Parts that the run does not have are named on the page.",
    )
    parser.add_argument(
        "run_dir",
        type=Path,
        metavar="RUN_DIR",
        help="folder of a demo, or of one training run (with metrics.jsonl in it)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="page to write (default: RUN_DIR/report.html)"
    )
    parser.add_argument(
        "--evaluation",
        action="append",
        metavar="TITLE=DIR",
        help="folder that recipe.evaluate wrote, and what the page calls its model; up to four, in "
        "place of RUN_DIR/eval/sft and RUN_DIR/eval/grpo",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder of test.parquet (images) and train.parquet (baselines); default RUN_DIR/data",
    )
    parser.add_argument(
        "--cases",
        type=_count,
        default=2000,
        metavar="N",
        help="most single questions to show, spread over the question types (default: 2000)",
    )
    parser.add_argument(
        "--images",
        choices=IMAGES,
        default="synthetic",
        help="images to put into the page: phantoms' only (the default), all, which makes the page "
        "as confidential as the data, or none",
    )
    return parser


def _evaluations(options: Sequence[str] | None) -> dict[str, Path] | None:
    if not options:
        return None
    folders: dict[str, Path] = {}
    for text in options:
        title, _, folder = text.partition("=")
        if not title.strip() or not folder or title in folders:
            raise InputError(f"--evaluation {text}: give TITLE=DIR, each title once")
        folders[title.strip()] = Path(folder)
    return folders


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
