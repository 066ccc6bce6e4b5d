"""The table of findings that the judge reads as a caption."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq

from data_prep.errors import InputError

KEYS = ("image_path", "study")
_READERS = {
    ".parquet": pq.read_table,
    ".csv": pacsv.read_csv,
    ".jsonl": pajson.read_json,
}


def read_findings(path: Path) -> dict[str, str]:
    """Findings by image path (without leading slash) or by study, such as "s50414267".

    The table is parquet, CSV or JSON lines, with a column `findings` and one of `image_path`
    and `study`. Raises InputError for anything else.
    """
    if not path.is_file():
        raise InputError(f"--findings {path} does not exist")
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise InputError(f"--findings {path} is none of {', '.join(_READERS)}")
    try:
        table = reader(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"--findings {path} does not read: {str(error).splitlines()[0]}") from None
    key = next((name for name in KEYS if name in table.column_names), None)
    if key is None or "findings" not in table.column_names:
        raise InputError(
            f"--findings {path} needs the column findings and one of {', '.join(KEYS)}: it has "
            f"{', '.join(table.column_names)}"
        )
    pairs = zip(table[key].to_pylist(), table["findings"].to_pylist(), strict=True)
    return {str(name).lstrip("/"): str(text).strip() for name, text in pairs if name and text}


def findings_of(table: Mapping[str, str], image_path: str, study: str) -> str | None:
    return table.get(image_path.lstrip("/")) or table.get(study)
