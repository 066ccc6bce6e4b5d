"""``python -m recipe.study.variants KIND DATA OUT``: changed copies of prepared data.

`no_reasoning`: SFT responses lose their `<think>` block, prompts the sentence that asks for it;
rollout rows keep their ground truth.

`shuffled`: every training row gets the picture of another patient, and validation and test stay as
they are. A model trained on it can learn what is usual and nothing of what a picture shows, so an
evaluation must find it no better than its controls.
"""

import argparse
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recipe.errors import InputError
from recipe.evaluation.controls import other_patients
from recipe.program import fail

SHUFFLE_SEED = 0
_BLOCK = re.compile(r"<think>.*?</think>\s*", re.DOTALL)
_REQUEST = re.compile(r"Reason in <think></think>[^.]*(?:\[[^\]]*\][^.]*)?\.\s*Then answer")


def without_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """A message without a reasoning, or without the request for one."""
    content = _BLOCK.sub("", message["content"]) if message["role"] == "assistant" else ""
    content = content or _REQUEST.sub("Answer", message["content"])
    return {**message, "content": content}


def drop_reasoning(table: pa.Table, path: Path) -> pa.Table:
    """The rows without reasoning.

    Raises:
        InputError: a row asks for it in other words.
    """
    column = "messages" if "messages" in table.column_names else "prompt"
    rows = [[without_reasoning(message) for message in row] for row in table[column].to_pylist()]
    if any("<think>" in message["content"] for row in rows for message in row):
        raise InputError(f"{path}: a row of column {column} speaks of <think> in another way")
    return _with_column(table, column, rows)


def shuffle_pictures(table: pa.Table, path: Path) -> pa.Table:
    """Training rows with other patients' pictures; rows of another split as they are."""
    if not path.stem.startswith(("train", "sft_train")):
        return table
    images = table["images"].to_pylist()
    patients = [str(extra["patient"]) for extra in table["extra_info"].to_pylist()]
    given = other_patients(patients, SHUFFLE_SEED)
    return _with_column(table, "images", [images[other] for other in given])


KINDS: dict[str, Callable[[pa.Table, Path], pa.Table]] = {
    "no_reasoning": drop_reasoning,
    "shuffled": shuffle_pictures,
}


def convert(kind: str, source: Path, out: Path) -> None:
    """Write all parquet files of `source` into `out`, changed, their metadata with them.

    Raises:
        InputError: there are none, or one cannot be changed.
    """
    files = [path for path in sorted(source.glob("*.parquet")) if path.stem != "rejects"]
    if not files:
        raise InputError(f"{source}: no parquet files of data_prep.thinkvg")
    unfinished = out.with_name(f"{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for path in files:
        pq.write_table(KINDS[kind](pq.read_table(path), path), unfinished / path.name)
    shutil.rmtree(out, ignore_errors=True)
    os.replace(unfinished, out)


def _with_column(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    """The table with other values in a column, its types and metadata kept."""
    field = table.schema.field(name)
    place = table.column_names.index(name)
    return table.set_column(place, field, pa.array(values, field.type))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m recipe.study.variants", description=__doc__)
    parser.add_argument("kind", choices=tuple(KINDS))
    parser.add_argument("data", type=Path, help="folder of data_prep.thinkvg")
    parser.add_argument("out", type=Path, help="folder to write")
    options = parser.parse_args()
    try:
        convert(options.kind, options.data, options.out)
    except InputError as error:
        fail(str(error))


if __name__ == "__main__":
    main()
