"""The golden scores: `responses.parquet`, and how it is written, read and compared.

A row is a response with its ground truth and `extra_info`. Many presets agree in most keys, so
equal columns are written once: the schema's metadata says which column holds a key of a preset. NaN
stands for a ground truth that is refused with a ValueError.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reward.settings import load_preset
from reward.thinkvg import compute_score

RESPONSES = Path(__file__).with_name("responses.parquet")
PRESETS = Path(__file__).parents[2] / "configs" / "reward"
TOLERANCE = 1e-9
SHOWN = 3
_COLUMNS = b"columns"

Scores = dict[str, np.ndarray]
"""For each key of a result one value per response."""


class Row(NamedTuple):
    """The input of one score; `ground_truth` and `extra_info` are JSON, `extra_info` or null."""

    response: str
    ground_truth: str
    extra_info: str | None = None


@dataclass(frozen=True)
class Golden:
    """What `responses.parquet` holds: rows, and for each preset the scores."""

    rows: list[Row]
    presets: dict[str, Scores]


def rule_presets() -> list[str]:
    """Return the names of the shipped presets that need no judge, sorted."""
    names = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    return [name for name in names if "judge" not in load_preset(name)]


def score_rows(rows: Sequence[Row], preset: str) -> Scores:
    """Score every row with a preset."""
    settings = load_preset(preset)
    results = [_score(row, settings) for row in rows]
    keys = next(result for result in results if result)
    return {
        key: np.array([result[key] if result else np.nan for result in results]) for key in keys
    }


def _score(row: Row, settings: dict[str, Any]) -> dict[str, float]:
    """Return the scores of a row, none where its ground truth is refused."""
    extra_info = json.loads(row.extra_info) if row.extra_info else None
    try:
        return compute_score("thinkvg", row.response, row.ground_truth, extra_info, **settings)
    except ValueError:
        return {}


def write_golden(golden: Golden, path: Path = RESPONSES) -> None:
    """Write rows and scores; columns that are equal are written once."""
    columns: dict[str, np.ndarray] = {}
    names_of: dict[str, dict[str, str]] = {}
    names_by_content: dict[bytes, str] = {}
    for preset, scores in golden.presets.items():
        names_of[preset] = {}
        for key, values in scores.items():
            name = names_by_content.setdefault(values.tobytes(), f"{preset}.{key}")
            columns[name] = values
            names_of[preset][key] = name
    table = pa.table(
        {
            # Binary, since a response may hold lone surrogates.
            "response": [row.response.encode("utf-8", "surrogatepass") for row in golden.rows],
            "ground_truth": [row.ground_truth for row in golden.rows],
            "extra_info": [row.extra_info for row in golden.rows],
            **{name: columns[name] for name in names_by_content.values()},
        }
    )
    pq.write_table(
        table.replace_schema_metadata({_COLUMNS: json.dumps(names_of)}),
        path,
        compression="zstd",
        compression_level=22,
        row_group_size=len(table),
        data_page_size=2**26,
        dictionary_pagesize_limit=2**26,
        write_statistics=False,
    )


def read_golden(path: Path = RESPONSES) -> Golden:
    """Read rows and scores."""
    table = pq.read_table(path)
    names_of = json.loads(table.schema.metadata[_COLUMNS])
    names = {name for columns in names_of.values() for name in columns.values()}
    values = {name: table[name].to_numpy() for name in names}
    rows = [
        Row(response.decode("utf-8", "surrogatepass"), truth, extra_info)
        for response, truth, extra_info in zip(
            table["response"].to_pylist(),
            table["ground_truth"].to_pylist(),
            table["extra_info"].to_pylist(),
            strict=True,
        )
    ]
    presets = {
        preset: {key: values[name] for key, name in columns.items()}
        for preset, columns in names_of.items()
    }
    return Golden(rows, presets)


def golden_presets(path: Path = RESPONSES) -> list[str]:
    """Return the names of the presets in the file."""
    return list(json.loads(pq.read_schema(path).metadata[_COLUMNS]))


def compare_scores(
    preset: str, golden: Scores, actual: Scores, rows: Sequence[Row], numbers: Sequence[int]
) -> list[str]:
    """Return lines that name every key with a difference and show the first few values.

    Args:
        preset: what the scores were computed with, for the lines.
        golden: the scores to be held.
        actual: the scores of the code as it is.
        rows: their inputs.
        numbers: the number of each row in the golden file, for the lines.

    Returns:
        The lines, none where all values agree to `TOLERANCE`.
    """
    if list(golden) != list(actual):
        return [f"preset {preset}: golden keys {list(golden)}, now {list(actual)}"]
    return list(_differences(preset, golden, actual, rows, numbers))


def _differences(
    preset: str, golden: Scores, actual: Scores, rows: Sequence[Row], numbers: Sequence[int]
) -> Iterator[str]:
    for key, expected in golden.items():
        close = np.isclose(actual[key], expected, rtol=0, atol=TOLERANCE, equal_nan=True)
        differing = np.flatnonzero(~close)
        if not len(differing):
            continue
        yield f"preset {preset}, key {key}: {len(differing)} of {len(rows)} responses differ"
        for index in differing[:SHOWN]:
            row = rows[index]
            yield (
                f"  response {numbers[index]}: golden {expected[index]}, now {actual[key][index]}"
                f"\n    {row.response[:300]!r}\n    {row.ground_truth[:300]} {row.extra_info or ''}"
            )
