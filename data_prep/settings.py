"""The options of `data_prep.thinkvg`, checked."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from data_prep.coordinates import MODEL_FAMILIES, ModelFamily, parse_frame
from data_prep.errors import InputError
from data_prep.files import is_utf8
from data_prep.splits import STRATIFY

EPILOG = """\
Writes {train,val,test}.parquet, sft_{train,val}.parquet, nested fractions of both training files
(train-1of2.parquet to -1of16), rejects.parquet, audit.json and audit.html into --out, and
missing_images.txt where pictures are missing. Rows at fault go to rejects.parquet with a reason;
the exit code is 2 where the input as a whole is at fault. A run that was killed goes on where it
was when it is started again."""


@dataclass(frozen=True)
class Settings:
    """What a run of `data_prep.thinkvg` was asked for."""

    source: str
    images: Path
    out: Path
    frame: str
    fit: str
    family: ModelFamily
    min_pixels: int
    max_pixels: int
    val: float
    test: float
    stratify: str
    limit: int | None
    seed: int
    workers: int
    prompts: str
    tokenizer: Path | None
    findings: Path | None
    exclude: Path | None
    embed_images: bool


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.thinkvg",
        description="Turns the ThinkVG dataset into parquet for SFT and for rollouts.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--source",
        required=True,
        metavar="PATH|hub:NAME[@REVISION]",
        help="a parquet, JSON or JSON lines file, a folder of data/*.parquet or of such files, or "
        "a dataset on the hub (its revision: configs/hub.yaml)",
    )
    add("--images", type=Path, required=True, help="the folder that image_path is relative to")
    add("--out", type=Path, required=True, help="folder to write")
    _add_coordinates(parser)
    add("--val", type=float, default=0.05, help="share of patients for validation (0.05)")
    add("--test", type=float, default=0.05, help="share of patients for the test (0.05)")
    add(
        "--stratify",
        choices=STRATIFY,
        default="auto",
        help="give each split the same shares of question types: always, never, or (auto) in "
        "splits of 1,000 rows and more",
    )
    add(
        "--exclude", type=Path, help="file of image paths, DICOM names, studies or patients to skip"
    )
    add("--limit", type=int, help="use this many source rows, chosen by the seed (all)")
    add("--seed", type=int, default=0, help="of splits, fractions and the limit (0)")
    add("--workers", type=int, default=2, help="processes that convert rows (2)")
    add("--prompts", default="thinkvg", metavar="NAME", help="templates in configs/prompts/NAME")
    add("--tokenizer", type=Path, help="model folder, to write each row's length in tokens (off)")
    add("--findings", type=Path, help="table of findings by image_path or study, for the judge")
    add("--embed-images", action="store_true", help="write images as bytes, not as paths")
    return parser


def _add_coordinates(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--frame",
        default="336",
        metavar="336|224|WxH|original|auto",
        help="the space of the dataset's boxes (336); auto infers it from them",
    )
    add(
        "--fit",
        choices=("stretch", "pad", "auto"),
        help="how pictures were brought into the frame (stretch; auto where --frame is)",
    )
    add(
        "--model-family",
        choices=tuple(MODEL_FAMILIES),
        default="qwen2_5_vl",
        help="whose coordinates to write (qwen2_5_vl)",
    )
    add("--min-pixels", type=int, help="lower bound of a resized picture's area (4 tokens)")
    add("--max-pixels", type=int, help="upper bound of a resized picture's area (1280 tokens)")


def settings_from(options: argparse.Namespace) -> Settings:
    """Checks the options. Raises InputError with a line that names the one at fault."""
    family = MODEL_FAMILIES[options.model_family]
    low, high = family.default_pixels
    minimum = low if options.min_pixels is None else options.min_pixels
    maximum = max(high, minimum) if options.max_pixels is None else options.max_pixels
    if minimum < 1:
        raise InputError(f"--min-pixels is {minimum}: give 1 or more")
    if maximum < max(minimum, family.factor**2):
        raise InputError(
            f"--max-pixels is {maximum}: give at least --min-pixels ({minimum}) and "
            f"{family.factor**2}, one token of {family.name}"
        )
    _check_numbers(options)
    if options.frame != "auto":
        try:
            parse_frame(options.frame)
        except ValueError as error:
            raise InputError(f"--frame: {error}") from None
    if options.frame == "original" and options.fit:
        raise InputError(f"--fit {options.fit} says nothing of --frame original: leave it out")
    if not options.images.is_dir():
        raise InputError(f"--images {options.images} is not a folder")
    for option in ("images", "out"):
        path = getattr(options, option).resolve()
        if not is_utf8(path):
            raise InputError(f"--{option} {str(path)!a} is a name that is no UTF-8: rename it")
    if options.out.exists() and not options.out.is_dir():
        raise InputError(f"--out {options.out} is a file: name a folder")
    return Settings(
        source=options.source,
        images=options.images.resolve(),
        out=options.out.resolve(),
        frame=options.frame,
        fit=options.fit or ("auto" if options.frame == "auto" else "stretch"),
        family=family,
        min_pixels=minimum,
        max_pixels=maximum,
        val=options.val,
        test=options.test,
        stratify=options.stratify,
        limit=options.limit,
        seed=options.seed,
        workers=options.workers,
        prompts=options.prompts,
        tokenizer=options.tokenizer,
        findings=options.findings,
        exclude=options.exclude,
        embed_images=options.embed_images,
    )


def _check_numbers(options: argparse.Namespace) -> None:
    for name in ("val", "test"):
        if not 0 <= getattr(options, name) < 1:
            raise InputError(f"--{name} is {getattr(options, name)}: give a share from 0 to 1")
    if options.val + options.test >= 1:
        raise InputError(
            f"--val {options.val:g} and --test {options.test:g} leave nothing to train on"
        )
    for name, least in (("seed", 0), ("workers", 1), ("limit", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise InputError(f"--{name} is {value}: give {least} or more")
