"""Command line of the phantom set: `python -m data_prep.phantom`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data_prep.phantom.dataset import NOTICE, PARQUET, write_dataset


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.phantom",
        description="Writes a synthetic chest X-ray dataset in the published ThinkVG layout.",
        epilog=NOTICE,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--images", type=int, default=1000, help="number of pictures (1000)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes (0)")
    parser.add_argument("--workers", type=int, default=2, help="processes to draw with (2)")
    parser.add_argument(
        "--dirty", type=float, default=0.0, help="faulty rows to add, as a share of the good (0)"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(argv)
    for name, low in (("images", 1), ("seed", 0), ("workers", 1), ("dirty", 0)):
        value = getattr(options, name)
        if value < low:
            print(f"--{name} is {value}: give {low} or more", file=sys.stderr)
            return 2
    if options.out.exists() and not options.out.is_dir():
        print(f"--out {options.out} is a file: name a folder", file=sys.stderr)
        return 2
    try:
        rows = write_dataset(
            options.out, options.images, options.seed, options.workers, options.dirty
        )
    except OSError as error:
        print(f"{error.filename or options.out}: {error.strerror or error}", file=sys.stderr)
        return 2
    print(f"{options.images} synthetic images, {rows} rows: {options.out / PARQUET}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
