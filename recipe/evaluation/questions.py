"""Reads the questions of a rollout parquet, as far as evaluation needs them."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.lib import ArrowInvalid

from recipe.errors import InputError
from reward.ground_truth import GroundTruth


@dataclass(frozen=True)
class Question:
    """A row of the rollout parquet; `index` is its `extra_info.index`."""

    index: int
    ground_truth: GroundTruth


def read_questions(path: str | Path) -> list[Question]:
    """The questions of a split, in file order.

    Raises:
        InputError: the file cannot be read, a column is missing, or a row has no usable ground
            truth; the message names the file and the row.
    """
    path = Path(path)
    rows = read_columns(path, ("reward_model", "extra_info"))
    questions = []
    for number, (model, extra) in enumerate(
        zip(rows["reward_model"], rows["extra_info"], strict=True)
    ):
        where = f"{path}: row {number}"
        try:
            truth = GroundTruth.parse(model["ground_truth"])
        except (KeyError, TypeError) as error:
            raise InputError(f'{where}: column "reward_model" has no "ground_truth"') from error
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error
        questions.append(Question(_index(extra, where), truth))
    if not questions:
        raise InputError(f"{path}: the split is empty")
    if len({q.index for q in questions}) != len(questions):
        raise InputError(f'{path}: column "extra_info" has the same "index" in several rows')
    return questions


def read_images(path: str | Path, indices: Collection[int]) -> dict[int, Any]:
    """The first `image` (path, bytes or struct with them) of the rows with these indices.

    Only those rows are turned into Python objects, so embedded images stay cheap.
    """
    path = Path(path)
    extras = read_columns(path, ("extra_info",))["extra_info"]
    rows = {_index(extra, f"{path}: row {number}"): number for number, extra in enumerate(extras)}
    wanted = sorted(set(indices) & rows.keys())
    lists = read_columns(path, ("images",), [rows[index] for index in wanted])["images"]
    found = {}
    for index, images in zip(wanted, lists, strict=True):
        if not images or "image" not in images[0]:
            raise InputError(f'{path}: row {rows[index]}: column "images" has no "image"')
        found[index] = images[0]["image"]
    return found


def read_columns(
    path: Path, columns: Collection[str], rows: list[int] | None = None
) -> dict[str, list[Any]]:
    """Columns of a parquet file as Python lists, of all rows or of the given ones.

    Raises:
        InputError: the file is missing, is no parquet file or lacks a column.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such parquet file")
    try:
        names = pq.read_schema(path).names
        for column in columns:
            if column not in names:
                raise InputError(f'{path}: column "{column}" is missing')
        table = pq.read_table(path, columns=list(columns))
    except ArrowInvalid as error:
        raise InputError(f"{path}: not a readable parquet file") from error
    if rows is not None:
        table = table.take(pa.array(rows, pa.int64()))
    return {column: table.column(column).to_pylist() for column in columns}


def _index(extra: Any, where: str) -> int:
    if not isinstance(extra, dict) or not isinstance(extra.get("index"), int):
        raise InputError(f'{where}: column "extra_info" has no whole number "index"')
    return int(extra["index"])
