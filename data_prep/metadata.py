"""What a parquet file was made for, kept in its schema, so training can refuse another's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

KEY = b"thinkvg"


def encode_metadata(values: dict[str, Any]) -> dict[bytes, bytes]:
    """Schema metadata that holds `values` as JSON under the key `thinkvg`."""
    return {KEY: json.dumps(values, sort_keys=True).encode()}


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The values that `data_prep.thinkvg` wrote into a parquet file.

    Among them `model_family`, `coordinates`, `min_pixels`, `max_pixels`, `prompt_version` and
    `split`. Raises FileNotFoundError, or ValueError for a file that is not parquet or that
    `data_prep.thinkvg` did not write; the text names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not a readable parquet file: {error}") from None
    if KEY not in metadata:
        raise ValueError(f"{path} was not written by data_prep.thinkvg: prepare the data with it")
    values: dict[str, Any] = json.loads(metadata[KEY])
    return values
