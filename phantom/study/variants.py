"""``python -m phantom.study.variants KIND DATA OUT``: changed copies of prepared data.

`no_reasoning`: SFT responses lose their `<think>` block, and prompts lose the sentence that asks
for it; the ground truth of rollout rows does not change.

`shuffled`: every training row gets the picture of another patient; validation and test do not
change. A model trained on it can learn what is usual but nothing about a picture's content, so an
evaluation must find it no better than its controls.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.program import InputError, whole_folder
from recipe.evaluate.controls import other_patients
from recipe.program import one_line_at_the_end

SHUFFLE_SEED = 0
_BLOCK = re.compile(r"<think>.*?</think>\s*", re.DOTALL)
_REQUEST = re.compile(r"Reason in <think></think>[^.]*(?:\[[^\]]*\][^.]*)?\.\s*Then answer")


def without_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message without a reasoning, or without the request for one."""
    content = _BLOCK.sub("", message["content"]) if message["role"] == "assistant" else ""
    content = content or _REQUEST.sub("Answer", message["content"])
    return {**message, "content": content}


def drop_reasoning(table: pa.Table, path: Path) -> pa.Table:
    """Return the rows without reasoning.

    Raises:
        InputError: a row asks for reasoning in unknown words.
    """
    column = "messages" if "messages" in table.column_names else "prompt"
    rows = [[without_reasoning(message) for message in row] for row in table[column].to_pylist()]
    if any("<think>" in message["content"] for row in rows for message in row):
        raise InputError(f"{path}: a row of column {column} speaks of <think> in another way")
    return _with_column(table, column, rows)


def shuffle_pictures(table: pa.Table, path: Path) -> pa.Table:
    """Return training rows with other patients' pictures, and rows of other splits unchanged."""
    if not path.stem.startswith(("train", "sft_train")):
        return table
    images = table["images"].to_pylist()
    patients = [str(extra["patient"]) for extra in table["extra_info"].to_pylist()]
    sources = other_patients(patients, SHUFFLE_SEED)
    return _with_column(table, "images", [images[source] for source in sources])


KINDS: dict[str, Callable[[pa.Table, Path], pa.Table]] = {
    "no_reasoning": drop_reasoning,
    "shuffled": shuffle_pictures,
}


def convert(kind: str, source: Path, out: Path) -> None:
    """Write changed copies of all parquet files of `source` into `out`, with their metadata.

    Raises:
        InputError: there are no parquet files, or one cannot be changed.
    """
    files = [path for path in sorted(source.glob("*.parquet")) if path.stem != "rejects"]
    if not files:
        raise InputError(f"{source}: no parquet files of data_prep.thinkvg")
    with whole_folder(out) as unfinished:
        for path in files:
            pq.write_table(KINDS[kind](pq.read_table(path), path), unfinished / path.name)


def _with_column(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    """Return the table with new values in a column, and the same types and metadata."""
    index = table.schema.get_field_index(name)
    field = table.schema.field(index)
    return table.set_column(index, field, pa.array(values, field.type))


def main() -> None:
    """Read the command line and write the copy."""
    parser = argparse.ArgumentParser(prog="python -m phantom.study.variants", description=__doc__)
    parser.add_argument("kind", choices=tuple(KINDS))
    parser.add_argument("data", type=Path, help="folder of data_prep.thinkvg")
    parser.add_argument("out", type=Path, help="folder to write")
    options = parser.parse_args()
    with one_line_at_the_end():
        convert(options.kind, options.data, options.out)


if __name__ == "__main__":
    main()
