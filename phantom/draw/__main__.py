"""``python -m phantom.draw``: a synthetic chest X-ray dataset in the published ThinkVG layout."""

import argparse
import sys
from pathlib import Path

from data_prep.coordinates import parse_frame
from data_prep.program import InputError, run
from phantom.draw.dataset import FULL_IMAGES, FULL_ROWS, FULL_WORDS, Variant, write_dataset
from phantom.draw.rows import FILES, NOTICE, Dirt


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m phantom.draw",
        description="Writes a synthetic chest X-ray dataset in the published ThinkVG layout.",
        epilog=NOTICE,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder to write; an earlier set there is replaced")
    add("--images", type=int, help="number of pictures (1000)")
    add("--seed", type=int, default=0, help="same seed, same bytes (0)")
    add("--workers", type=int, default=2, help="processes to draw with (2)")
    add("--dirty", type=float, default=0.0, help="faulty rows to add, as a share of the good (0)")
    add("--faults", choices=("basic", "all"), default="basic", help="kinds of faulty rows (basic)")
    add("--odd", type=float, default=0.0, help="share of rows written in odd but good ways (0)")
    add(
        "--beyond",
        type=float,
        default=0.0,
        help="share of rows whose answer compares with an earlier examination or hedges (0)",
    )
    add("--frame", default="336", metavar="336|224|WxH|original", help="space of the boxes (336)")
    add(
        "--fit",
        choices=("stretch", "pad"),
        default="stretch",
        help="how pictures are brought into the frame (stretch)",
    )
    add(
        "--shapes",
        choices=("square", "mixed"),
        default="square",
        help="only about square pictures, or upright, lying and square ones (square)",
    )
    add("--long-side", type=int, default=512, help="of pictures of mixed shapes, in pixels (512)")
    add("--regions", choices=("basic", "all"), default="basic", help="regions (basic: 20 of 29)")
    add("--rows", type=int, help="number of good rows in all (three to five for a picture)")
    add("--words", type=int, default=0, help="about the least words of a reasoning (no minimum)")
    add("--form", choices=tuple(FILES), default="thinkvg", help="form of the rows (thinkvg)")
    add(
        "--full-size",
        action="store_true",
        help=f"as many rows ({FULL_ROWS:,}) and pictures ({FULL_IMAGES:,}) as published, about "
        f"{FULL_WORDS} words of reasoning, all regions",
    )
    return parser


def variant_from(options: argparse.Namespace) -> Variant:
    """Check the options and return the variant that they describe."""
    minimums = dict.fromkeys(("seed", "dirty", "odd", "beyond", "words"), 0)
    minimums |= {"images": 1, "workers": 1, "rows": 1, "long_side": 64}
    for name, minimum in minimums.items():
        value = getattr(options, name)
        if value is not None and value < minimum:
            raise InputError(f"--{name.replace('_', '-')} is {value}: give {minimum} or more")
    for name in ("odd", "beyond"):
        if getattr(options, name) > 1:
            raise InputError(f"--{name} is {getattr(options, name)}: give a share from 0 to 1")
    if options.out.exists() and not options.out.is_dir():
        raise InputError(f"--out {options.out} is a file: name a folder")
    if options.full_size:
        for name, value in (("images", FULL_IMAGES), ("rows", FULL_ROWS)):
            if getattr(options, name) is not None:
                raise InputError(f"--{name} does not go with --full-size, which sets it to {value}")
    try:
        frame = parse_frame(options.frame)
    except ValueError as error:
        raise InputError(f"--frame: {error}") from None
    as_given = ("fit", "shapes", "long_side", "form", "odd", "beyond")
    return Variant(
        frame=frame,
        all_regions=options.full_size or options.regions == "all",
        rows=FULL_ROWS if options.full_size else options.rows,
        words=options.words or (FULL_WORDS if options.full_size else 0),
        **{name: getattr(options, name) for name in as_given},
    )


def main(argv: list[str] | None = None) -> int:
    options = build_parser().parse_args(argv)

    def work() -> None:
        variant = variant_from(options)
        images = FULL_IMAGES if options.full_size else options.images or 1000
        dirt = Dirt(options.dirty, options.faults == "all")
        rows = write_dataset(options.out, images, options.seed, options.workers, dirt, variant)
        print(f"{images} synthetic images, {rows} rows: {options.out / FILES[variant.form]}")

    return run(work, options.out, stopped="stopped; run the same command to start again")


if __name__ == "__main__":
    sys.exit(main())
