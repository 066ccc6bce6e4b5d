"""Command line of the import of other data sets: `python -m data_prep.external`."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.coordinates import MODEL_FAMILIES
from data_prep.external.importing import SETS, SPLITS, Choice, import_set
from data_prep.external.items import LEFT_OUT, SetFiles
from data_prep.pictures import MISSING, download_command
from data_prep.program import InputError, read_metadata, run
from data_prep.settings import Settings, settings_from

EPILOG = """\
Writes test.parquet, rejects.parquet, audit.json and audit.html into --out, and 8-bit copies of
DICOM files and of deeper greyscale into its folder pictures. Every row of the set's files is in a
question, in rejects.parquet with a reason, or counted as left out. Evaluate with
  python -m recipe.evaluate data.dir=OUT data.train_dir=TRAIN model.path=MODEL
The sets, their files and what they measure are in docs/data.md and docs/evaluation.md."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.external",
        description="Turns another data set into parquet that recipe.evaluate answers.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--set", choices=tuple(SETS), required=True, dest="name", help="the data set")
    add("--source", type=Path, required=True, help="its folder of annotations, or their file")
    add("--images", type=Path, required=True, help="its folder of images (MIMIC-CXR's, for some)")
    add("--out", type=Path, required=True, help="folder to write")
    add(
        "--train",
        type=Path,
        help="folder of the training data: its patients are left out, and its model family, pixels "
        "and prompts are used",
    )
    _add_parts(parser)
    _add_form(parser)
    return parser


def _add_parts(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--keep-shared", action="store_true", help="keep patients of --train; they are counted")
    add(
        "--exclude-list",
        type=Path,
        help="also write the set's patients to this file, for data_prep.thinkvg --exclude",
    )
    add(
        "--split",
        choices=SPLITS,
        default="test",
        help="the set's own part to use, where it has parts (test)",
    )
    add(
        "--mimic-split",
        type=Path,
        help="MIMIC-CXR's mimic-cxr-2.0.0-split.csv[.gz]: use its test images only",
    )
    add(
        "--sizes",
        type=Path,
        help="CSV of image_id, width, height of the originals, for resized images of vindr_cxr",
    )
    add("--limit", type=int, help="use this many questions, chosen by the seed (all)")


def _add_form(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--fit", choices=("stretch", "pad"), help="how gemex's pictures fill their frame (pad)")
    add(
        "--model-family",
        choices=tuple(MODEL_FAMILIES),
        help="whose coordinates to write (that of --train, or qwen2_5_vl)",
    )
    add("--min-pixels", type=int, help="of a resized picture (those of --train, or 4 tokens)")
    add("--max-pixels", type=int, help="of a resized picture (those of --train, or 1280 tokens)")
    add("--prompts", help="templates in configs/prompts/NAME (those of --train, or thinkvg)")
    add("--seed", type=int, default=0, help="of the limit (0)")
    add("--workers", type=int, default=2, help="processes that make copies of pictures (2)")


def read_options(options: argparse.Namespace) -> tuple[Choice, Settings]:
    """Check the options; raise InputError for those that are wrong."""
    if not options.source.exists():
        raise InputError(f"--source {options.source} does not exist")
    if options.keep_shared and options.train is None:
        raise InputError("--keep-shared needs --train: the folder of the training data")
    if options.exclude_list and options.exclude_list.is_dir():
        raise InputError(f"--exclude-list {options.exclude_list} is a folder: name a file")
    if options.exclude_list and not SETS[options.name].is_mimic:
        raise InputError(
            f"--exclude-list: {options.name} has no images of MIMIC-CXR, so no patient of it can "
            "be in ThinkVG"
        )
    _refuse_unused(options)
    files = SetFiles(options.source, options.split, options.mimic_split)
    names = ("name", "sizes", "train", "keep_shared", "exclude_list", "fit")
    choice = Choice(files=files, **{name: getattr(options, name) for name in names})
    return choice, _settings(options, _of_training(options.train))


def _refuse_unused(options: argparse.Namespace) -> None:
    """Refuse options that the set has no use for, instead of importing something else."""
    name, importer = options.name, SETS[options.name]
    if options.split not in importer.splits:
        raise InputError(
            f"--split {options.split}: of {name}, this program reads {', '.join(importer.splits)}"
        )
    if options.mimic_split and name not in ("ms_cxr", "imagenome"):
        raise InputError(f"--mimic-split says nothing of {name}: leave it out")
    if options.sizes and not importer.is_dicom:
        raise InputError(f"--sizes says nothing of {name}: leave it out")
    if options.fit and name != "gemex":
        raise InputError(f"--fit says nothing of {name}: leave it out")


def _settings(options: argparse.Namespace, training: Mapping[str, Any]) -> Settings:
    """Return the settings of the preparation; what no option says is as in the training files."""
    family = options.model_family or training.get("model_family", "qwen2_5_vl")
    pixels = {name: getattr(options, name) for name in ("min_pixels", "max_pixels")}
    if family == training.get("model_family"):
        pixels = {name: training[name] if p is None else p for name, p in pixels.items()}
    return settings_from(
        argparse.Namespace(
            source=str(options.source),
            frame="original",
            model_family=family,
            prompts=options.prompts or training.get("prompt_template", "thinkvg"),
            **pixels,
            **{"val": 0, "test": 0, "stratify": "auto", "embed_images": False},
            **dict.fromkeys(("fit", "leave_out", "tokenizer", "findings", "exclude")),
            **{
                name: getattr(options, name)
                for name in ("images", "out", "limit", "seed", "workers")
            },
        )
    )


def _of_training(folder: Path | None) -> Mapping[str, Any]:
    """Return what the training files say of their form; empty without `--train`."""
    if folder is None:
        return {}
    try:
        return read_metadata(folder / "train.parquet")
    except (OSError, ValueError) as error:
        raise InputError(f"--train: {error}") from None


def main(argv: list[str] | None = None) -> int:
    options = build_parser().parse_args(argv)

    def work() -> None:
        choice, settings = read_options(options)
        _summarise(import_set(choice, settings), settings)

    return run(work, options.out)


def _summarise(audit: Mapping[str, Any], settings: Settings) -> None:
    rows = audit["rows"]
    questions = ", ".join(f"{count} {name}" for name, count in audit["sets"].items())
    print(
        f"{rows['source']} rows: {rows['in_questions']} in questions, {rows['rejects']} rejected, "
        f"{rows['left_out']} left out. Questions: {questions}"
    )
    for reason, count in audit["left_out"].items():
        print(f"left out: {count} {reason} ({LEFT_OUT[reason]})")
    if audit["rejects"]:
        reasons = ", ".join(f"{count} {code}" for code, count in audit["rejects"].items())
        print(f"rejected: {reasons}; see rejects.parquet")
    shared = audit["shared_with_training"]
    if shared and shared["patients"]:
        print(
            f"patients shared with --train: {shared['patients']} in {shared['questions']} questions"
        )
    for line in audit["doubts"]:
        print(line, file=sys.stderr)
    if count := audit["missing_images_listed"]:
        listed = settings.out / MISSING
        command = download_command(listed, settings.images)
        print(f"{count} images are missing, listed in {listed}: {command}", file=sys.stderr)
    print(f"see {settings.out / 'audit.html'}")


if __name__ == "__main__":
    sys.exit(main())
