"""``python -m phantom.tiny``: make a tiny twin of a family of models, for a prepared data set."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep.coordinates import MODEL_FAMILIES
from data_prep.program import InputError, refuse_other_folder, whole_folder
from recipe.preflight.data import check_columns, check_family, check_parquet
from recipe.program import one_line_at_the_end
from recipe.run.host import check_output


def _texts(path: Path) -> list[str]:
    rows = pq.read_table(path, columns=["messages"]).column("messages").to_pylist()
    return [message["content"] for row in rows for message in row]


def _family(name: str | None, metadata: dict[str, Any], source: str) -> str:
    """Return the family to make, that of the data if no name is given."""
    from phantom.tiny.model import TWINS

    name = name or metadata.get("model_family", "qwen2_5_vl")
    if name not in TWINS:
        raise InputError(f"--family: there is no twin of {name}; choose {', '.join(TWINS)}")
    check_family(metadata, {"model_type": name}, f"--data={source}")
    return name


def _pictures(options: argparse.Namespace) -> list[Any]:
    rollouts = options.data / "train.parquet"
    check_columns(str(rollouts), "--data", ("images", "extra_info"))

    from phantom.tiny.pretrain import BATCH, COLUMNS, check_images, training_pictures

    check_columns(str(options.pictures), "--pictures", COLUMNS, "phantom.draw")
    pictures = training_pictures(options.pictures, rollouts)
    if len(pictures) < BATCH:
        raise InputError(
            f"--pictures: {options.pictures} describes {len(pictures)} of the pictures in "
            f"{rollouts}, and {BATCH} are the least to learn from"
        )
    check_images(pictures, MODEL_FAMILIES[options.family].factor)
    return pictures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m phantom.tiny", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with sft_train.parquet")
    parser.add_argument("--out", type=Path, required=True, help="Hugging Face folder to write")
    parser.add_argument(
        "--pictures",
        type=Path,
        help="pictures.parquet of phantom.draw, to pre-train the model with the pictures of "
        "--data's train.parquet (default: it stays random)",
    )
    parser.add_argument(
        "--letters",
        type=int,
        default=0,
        metavar="BATCHES",
        help="practice with the letters of choices before the pictures (default 0)",
    )
    parser.add_argument("--epochs", type=int, default=2, help="times to see each picture")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random weights")
    parser.add_argument(
        "--family", help="qwen2_5_vl, qwen3_vl, … (default: that --data was prepared for)"
    )
    options = parser.parse_args()
    # Waiting threads spin for some 10 microseconds, not milliseconds, before they sleep: otherwise
    # they may keep the core from the thread that they wait for. torch reads this when it loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    with one_line_at_the_end():
        make(options)


def make(options: argparse.Namespace) -> None:
    """Check all input, then make, pre-train and save the model."""
    source = options.data / "sft_train.parquet"
    metadata = check_parquet(str(source), "--data", ("messages",))
    check_output("--out", options.out)
    refuse_other_folder(options.out, "config.json")
    options.family = _family(options.family, metadata, str(source))
    pictures = _pictures(options) if options.pictures else []

    from transformers.utils import logging

    from phantom.tiny.model import build_model, build_processor
    from phantom.tiny.pretrain import practise, pretrain
    from recipe.export import add_older_forms

    logging.disable_progress_bar()

    processor = build_processor(_texts(source), options.family)
    model = build_model(processor.tokenizer, options.seed, options.family)
    if pictures:
        if options.letters:
            practise(model, processor, pictures, options.seed, options.letters)
        pretrain(model, processor, pictures, options.seed, options.epochs)
    with whole_folder(options.out) as unfinished:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        add_older_forms(unfinished)
    print(
        f"{options.out}: {model.num_parameters():,} parameters, {len(processor.tokenizer)} tokens",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
