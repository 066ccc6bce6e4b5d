"""``python -m recipe.tiny``: make a tiny Qwen2.5-VL for a prepared data set."""

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from recipe.checks import check_columns
from recipe.errors import InputError
from recipe.program import fail


def _texts(path: Path) -> list[str]:
    """Every message text of an SFT parquet file."""
    rows = pq.read_table(path, columns=["messages"]).column("messages").to_pylist()
    return [message["content"] for row in rows for message in row]


def _pictures(options: argparse.Namespace) -> list[Any]:
    """The pictures to learn from, all of them readable and of one size."""
    rollouts = options.data / "train.parquet"
    check_columns(str(rollouts), "--data", ("images", "extra_info"))

    from recipe.tiny import pictures as known
    from recipe.tiny.model import IMAGE_CELL
    from recipe.tiny.pretrain import BATCH

    check_columns(str(options.pictures), "--pictures", known.COLUMNS, "data_prep.phantom")
    pictures = known.training_pictures(options.pictures, rollouts)
    if len(pictures) < BATCH:
        raise InputError(
            f"--pictures: {options.pictures} describes {len(pictures)} of the pictures in "
            f"{rollouts}, and {BATCH} are the least to learn from"
        )
    known.check_images(pictures, IMAGE_CELL)
    return pictures


def main() -> None:
    """Read the options, learn the tokenizer, save model and processor under ``--out``."""
    parser = argparse.ArgumentParser(prog="python -m recipe.tiny", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with sft_train.parquet")
    parser.add_argument("--out", type=Path, required=True, help="Hugging Face folder to write")
    parser.add_argument(
        "--pictures",
        type=Path,
        help="pictures.parquet of data_prep.phantom, to pre-train the model with the pictures of "
        "--data's train.parquet (default: it stays random)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random weights")
    options = parser.parse_args()
    try:
        make(options)
    except InputError as error:
        fail(str(error))


def make(options: argparse.Namespace) -> None:
    """Check all input, then make, pre-train and save.

    Raises:
        InputError: the first fault found, before anything is made.
    """
    source = options.data / "sft_train.parquet"
    check_columns(str(source), "--data", ("messages",))
    pictures = _pictures(options) if options.pictures else []

    from recipe.tiny.model import build_model, build_processor
    from recipe.tiny.pretrain import pretrain

    processor = build_processor(_texts(source))
    model = build_model(processor.tokenizer, options.seed)
    if pictures:
        pretrain(model, processor, pictures, options.seed)
    unfinished = options.out.with_name(f"{options.out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    processor.save_pretrained(unfinished)
    shutil.rmtree(options.out, ignore_errors=True)
    os.replace(unfinished, options.out)
    print(
        f"{options.out}: {model.num_parameters():,} parameters, {len(processor.tokenizer)} tokens",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
