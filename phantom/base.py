"""``python -m phantom.base``: make the base model that comes with the project (`make base`).

The base is what a vision-language model is before it is taught a task: it has seen pictures of
patients that no other set has, and read reports about them. This takes half an hour on two cores,
and resumes where it stopped.
"""

import argparse
import hashlib
import json
import os
import shutil
from pathlib import Path

from data_prep.program import STOPPED, whole_folder
from phantom.stages import draw_stage, prepare_stage, run_stages, tiny_stage
from recipe import console
from recipe.model_card import versions
from recipe.program import one_line_at_the_end
from recipe.run.host import check_output, leave_on_sigterm

BASE = Path(__file__).resolve().parent / "tiny_base"
"""Hugging Face folder of the base model."""
RECORD = "made_by.json"
# Patients of other seeds are drawn from other random numbers.
SEED = 7001
IMAGES = 12000
LETTERS = 800
EPOCHS = 6


def settings() -> dict[str, int]:
    """Return what decides the weights, besides the code and its packages."""
    return {"seed": SEED, "images": IMAGES, "letters": LETTERS, "epochs": EPOCHS}


def weights_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def make(root: Path, out: Path) -> None:
    """Make the model below `root`, and copy it to `out` with a record of how it was made."""
    stages = [
        draw_stage(root, IMAGES, SEED),
        prepare_stage(root, SEED, test=0.03),
        tiny_stage(root, root / "model", SEED, LETTERS, EPOCHS),
    ]
    run_stages(stages, root)
    record = {"command": "make base", **settings(), "sha256": weights_hash(root / "model")}
    with whole_folder(out) as unfinished:
        shutil.copytree(root / "model", unfinished, dirs_exist_ok=True)
        text = json.dumps(record | {"versions": versions()}, indent=2)
        (unfinished / RECORD).write_text(f"{text}\n")
    print(f"{out}: sha256 {record['sha256']}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m phantom.base", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("outputs/base"), help="(outputs/base)")
    parser.add_argument("--out", type=Path, default=BASE, help="folder of the model")
    options = parser.parse_args()
    os.environ.setdefault("WANDB_MODE", "offline")
    console.slow_bars()
    leave_on_sigterm()
    with one_line_at_the_end(STOPPED):
        check_output("--out", options.out)
        make(options.work, options.out)


if __name__ == "__main__":
    main()
