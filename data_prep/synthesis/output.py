"""The files of a finished run: rows with their reasoning, rejects, and the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.convert import read_records, with_reasons
from data_prep.files import whole_file
from data_prep.rows import REJECT_CODES
from data_prep.sources import Source
from data_prep.sources.base import COLUMNS
from data_prep.sources.gemex import as_thinkvg
from data_prep.synthesis.checks import CODES
from data_prep.synthesis.journal import Journal
from data_prep.synthesis.run import BATCH
from data_prep.synthesis.settings import Settings

ROWS = Path("data") / "train-00000-of-00001.parquet"
REJECTS = "rejects.parquet"
REPORT = "synthesis.json"


def write_output(settings: Settings, source: Source, journal: Journal, about: Any) -> None:
    """Write ThinkVG's columns for the kept rows, and the others with their reasons.

    Rows keep their order. `about` says what made them and goes into the file.
    """
    target = settings.out / ROWS
    target.parent.mkdir(parents=True, exist_ok=True)
    notice = "Reasoning written by a language model, checked by rules, not by a person."
    metadata = {"notice": notice, "synthesis": json.dumps(about)}
    kept_schema = pa.schema([(name, pa.string()) for name in COLUMNS], metadata)
    rejected_schema = _reject_table(source.schema.empty_table(), [], [], []).schema
    with (
        whole_file(target) as rows,
        whole_file(settings.out / REJECTS) as rejects,
        pq.ParquetWriter(rows, kept_schema) as kept_file,
        pq.ParquetWriter(rejects, rejected_schema) as rejected_file,
    ):
        start = 0
        for batch in source.batches(BATCH):
            table = pa.Table.from_batches([batch], source.schema)
            if settings.limit is not None:
                table = table.slice(0, max(0, settings.limit - start))
            kept, rejected = _divide(table, start, journal)
            kept_file.write_table(pa.Table.from_pylist(kept, kept_schema))
            rejected_file.write_table(rejected.cast(rejected_schema))
            start += batch.num_rows


def _divide(table: pa.Table, start: int, journal: Journal) -> tuple[list[dict[str, Any]], pa.Table]:
    kept, places, indices, reasons, details = [], [], [], [], []
    for place, record in enumerate(read_records(table, range(table.num_rows))):
        outcome = journal.outcome(start + place)
        if outcome.reason:
            places.append(place)
            indices.append(outcome.index)
            reasons.append(outcome.reason)
            details.append(outcome.detail)
        elif record is not None:
            row = {name: as_thinkvg(record).get(name) for name in COLUMNS}
            kept.append(row | {"thinkVG": outcome.reasoning})
    rejected = table.take(pa.array(places, pa.int64()))
    return kept, _reject_table(rejected, indices, reasons, details)


def _reject_table(
    table: pa.Table, indices: list[int], reasons: list[str], details: list[str]
) -> pa.Table:
    table = with_reasons(table, indices, reasons)
    if "detail" in table.column_names:
        table = table.drop_columns(["detail"])
    return table.append_column("detail", pa.array(details, pa.string()))


def report(
    settings: Settings, source: Source, journal: Journal, about: Mapping[str, Any]
) -> dict[str, Any]:
    """What it took: rows, reasons, tokens, costs and rates over all sessions of the run."""
    counts = journal.counts
    known = {**REJECT_CODES, **CODES}
    rejects = {code: counts[code] for code in known if counts[code]}
    tokens = {"read": counts["prompt_tokens"], "written": counts["completion_tokens"]}
    found: dict[str, Any] = {
        **about,
        "rows": {
            "source": source.rows,
            "kept": counts["kept"],
            "rejects": sum(rejects.values()),
            "left_out": source.rows - len(journal),
        },
        "rejects": rejects,
        "replies": counts["tries"],
        "tokens": tokens,
        "seconds": round(journal.seconds, 1),
    }
    if journal.seconds:
        found["rows_per_hour"] = round(3600 * len(journal) / journal.seconds, 1)
        found["tokens_written_per_second"] = round(tokens["written"] / journal.seconds, 1)
    if settings.prices:
        price_in, price_out = settings.prices
        cost = (tokens["read"] * price_in + tokens["written"] * price_out) / 1e6
        found["cost"] = round(cost, 4)
        found["cost_per_kept_row"] = round(cost / counts["kept"], 6) if counts["kept"] else None
    return found


def write_report(out: Path, found: Mapping[str, Any]) -> None:
    """Write the report; it comes last, so where it is, the other files are whole."""
    with whole_file(out / REPORT) as temporary:
        temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
