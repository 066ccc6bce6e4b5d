"""``python -m recipe.export``: a checkpoint to a Hugging Face folder that others can load.

The folder has weights (shards and LoRA adapters merged), processor, chat template and a model card
filled in from the run. It loads in transformers and vLLM.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipe.checkpoints import Source, find_model, run_folder
from recipe.errors import InputError
from recipe.model_card import card, read_run_config

DTYPES = ("keep", "float32", "bfloat16", "float16")


def loadable(path: str, work: Path) -> str:
    """A folder or hub name that transformers and vLLM can load, merged into `work` where needed.

    Raises:
        InputError: there is no model under `path`.
    """
    if not Path(path).is_dir():
        return path
    source = find_model(path, "model.path")
    if source.shards is None:
        return str(source.folder)
    merged = work / "model"
    write_model(source, merged, base=None, dtype="keep")
    return str(merged)


def write_model(source: Source, out: Path, base: Path | None, dtype: str) -> None:
    """Write weights, configuration, tokenizer, processor and chat template.

    `out` appears when it is whole; what was there before goes.

    Raises:
        InputError: the weights cannot be put together, or the processor has no chat template.
    """
    import torch
    from transformers import AutoProcessor

    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    wanted = None if dtype == "keep" else getattr(torch, dtype)
    if source.shards is not None:
        merge_with_base(source, base, unfinished, wanted)
    elif wanted is None:
        for file in source.folder.iterdir():
            if file.is_file():
                shutil.copy2(file, unfinished)
    else:
        _convert(source.folder, unfinished, wanted)
    if not getattr(AutoProcessor.from_pretrained(unfinished), "chat_template", None):
        raise InputError(f"{source.folder}: the processor has no chat template to export")
    shutil.rmtree(out, ignore_errors=True)
    os.replace(unfinished, out)


def merge_with_base(source: Source, base: Path | None, out: Path, dtype: Any) -> None:
    """Merge shards; adapters alone are added to `base`, or to the model that the run names."""
    from recipe.merging import merge

    if base is None and source.lora:
        run = run_folder(source)
        named = read_run_config(run).get("model", {}).get("path") if run else None
        base = Path(named) if named and Path(named).is_dir() else None
    merge(source, base, out, dtype)


def _convert(folder: Path, out: Path, dtype: Any) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).save_pretrained(out)
    AutoProcessor.from_pretrained(folder).save_pretrained(out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Export and print the folder; 2 and one line on stderr where that cannot be done."""
    options = _parser().parse_args(arguments)
    try:
        if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
            raise InputError(f"{options.out}: exists and is not empty; name another folder")
        source = find_model(options.checkpoint, "CHECKPOINT")
        text = card(options.out.name, source, options.evaluation)
        write_model(source, options.out, options.base, options.dtype)
        (options.out / "README.md").write_text(text, encoding="utf-8")
    except (InputError, OSError) as error:
        print(f"recipe.export: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(options.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipe.export", description=__doc__)
    add = parser.add_argument
    add(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="global_step_N of recipe.sft or recipe.train, their run folder (the last step is "
        "taken), or a Hugging Face folder",
    )
    add("out", type=Path, metavar="OUT", help="folder to write; new or empty")
    add("--dtype", choices=DTYPES, default="keep", help="of the weights (keep: as trained)")
    add(
        "--base",
        type=Path,
        metavar="FOLDER",
        help="model that LoRA adapters were trained on (default: the one that the run names)",
    )
    add(
        "--evaluation",
        type=Path,
        metavar="FOLDER",
        help="folder of recipe.evaluate, whose numbers go into the model card",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
