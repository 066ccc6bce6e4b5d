"""The parquet files: their schemas, their rows, and how they are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.coordinates import Coordinates
from data_prep.files import whole_file
from data_prep.metadata import encode_metadata
from data_prep.prompts import PromptTemplate
from data_prep.rows import Example

Row = dict[str, Any]

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_IMAGES = pa.list_(
    pa.struct([("image", pa.string()), ("min_pixels", pa.int64()), ("max_pixels", pa.int64())])
)
_EXTRA_INFO = [
    ("index", pa.int64()),
    ("split", pa.string()),
    ("question", pa.string()),
    ("patient", pa.string()),
    ("study", pa.string()),
    ("image_path", pa.string()),
]


def rollout_schema(with_findings: bool) -> pa.Schema:
    """The columns that verl's RLHFDataset and reward manager read."""
    return pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", _MESSAGES),
            ("images", _IMAGES),
            ("ability", pa.string()),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
            ("extra_info", _extra_info(with_findings)),
        ]
    )


def sft_schema(with_findings: bool) -> pa.Schema:
    """The columns that verl's MultiTurnSFTDataset reads."""
    return pa.schema(
        [("messages", _MESSAGES), ("images", _IMAGES), ("extra_info", _extra_info(with_findings))]
    )


def _extra_info(with_findings: bool) -> pa.DataType:
    return pa.struct([*_EXTRA_INFO, ("findings", pa.string())] if with_findings else _EXTRA_INFO)


def prompt_text(example: Example, template: PromptTemplate, coordinates: Coordinates) -> str:
    return template.render(example.question, example.parsed.question_type, coordinates)


def rollout_row(example: Example, prompt: str, images: Row, extra_info: Row) -> Row:
    return {
        "data_source": "thinkvg",
        "prompt": [{"role": "user", "content": prompt}],
        "images": [images],
        "ability": "grounded_vqa",
        "reward_model": {"style": "rule", "ground_truth": example.ground_truth.to_json()},
        "extra_info": extra_info,
    }


def sft_row(example: Example, prompt: str, images: Row, extra_info: Row) -> Row:
    messages = [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": example.response},
    ]
    return {"messages": messages, "images": [images], "extra_info": extra_info}


def write_rows(path: Path, rows: Sequence[Row], schema: pa.Schema, values: Row) -> None:
    """Writes rows with `values` as the file's metadata."""
    table = pa.Table.from_pylist(list(rows), schema=schema)
    write_table(path, table.replace_schema_metadata(encode_metadata(values)))


def write_table(path: Path, table: pa.Table) -> None:
    with whole_file(path) as temporary:
        pq.write_table(table, temporary)
