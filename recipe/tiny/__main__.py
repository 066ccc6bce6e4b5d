"""``python -m recipe.tiny``: make a tiny Qwen2.5-VL for a prepared data set."""

import argparse
import os
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq


def _texts(path: Path) -> list[str]:
    """Every message text of an SFT parquet file."""
    rows = pq.read_table(path, columns=["messages"]).column("messages").to_pylist()
    return [message["content"] for row in rows for message in row]


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
    source = options.data / "sft_train.parquet"
    if not source.is_file():
        parser.error(f"--data: {source} does not exist; make it with python -m data_prep.thinkvg")

    if options.pictures and not options.pictures.is_file():
        parser.error(f"--pictures: {options.pictures} does not exist")

    from recipe.tiny.model import build_model, build_processor
    from recipe.tiny.pictures import training_pictures
    from recipe.tiny.pretrain import BATCH, pretrain

    processor = build_processor(_texts(source))
    model = build_model(processor.tokenizer, options.seed)
    if options.pictures:
        pictures = training_pictures(options.pictures, options.data / "train.parquet")
        if len(pictures) < BATCH:
            parser.error(
                f"--pictures: {options.pictures} describes {len(pictures)} of the pictures in "
                f"{options.data / 'train.parquet'}, and {BATCH} are the least to learn from"
            )
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
