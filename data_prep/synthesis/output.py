"""A run of the synthesis, from its settings to its files: rows, rejects and a report."""

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.convert.source_rows import chosen_rows, read_records, with_reasons
from data_prep.program import InputError, remove_leftovers, whole_file, write_whole
from data_prep.rows.example import REJECT_CODES
from data_prep.sources.files import COLUMNS, Source, stamps
from data_prep.sources.gemex import as_thinkvg
from data_prep.sources.open import open_source
from data_prep.sources.side_tables import read_findings
from data_prep.synthesis.run import GOES_ON, Journal, Outcome, Run, Writer
from data_prep.synthesis.settings import Settings
from data_prep.synthesis.tasks import CODES, prompt_version, read_prompt
from llm_client.client import ChatClient
from llm_client.protocol import ServerFault

ROWS = Path("data") / "train-00000-of-00001.parquet"
REJECTS = "rejects.parquet"
REPORT = "synthesis.json"
_REPLY_SETTINGS = ("temperature", "seed", "max_tokens", "structured_output", "extra_body")
"""Settings of the server that change the replies, so a resumed run must have the same ones."""


def write_output(
    settings: Settings, source: Source, rows: int, journal: Journal, about: Any
) -> None:
    """Write ThinkVG's columns of the rows with reasoning, and the rejected rows with reasons.

    `about` says what made the replies; it is written into the metadata.
    """
    target = settings.out / ROWS
    target.parent.mkdir(parents=True, exist_ok=True)
    notice = "Reasoning written by a language model, checked by rules, not by a person."
    metadata = {"notice": notice, "synthesis": json.dumps(about)}
    accepted_schema = pa.schema([(name, pa.string()) for name in COLUMNS], metadata)
    rejected_schema = _reject_table(source.schema.empty_table(), []).schema
    with (
        whole_file(target) as accepted_path,
        whole_file(settings.out / REJECTS) as rejected_path,
        pq.ParquetWriter(accepted_path, accepted_schema) as accepted_file,
        pq.ParquetWriter(rejected_path, rejected_schema) as rejected_file,
    ):
        for table, indices in chosen_rows(source, np.arange(rows)):
            accepted, rejected = _divide(table, [journal.outcome(i) for i in indices.tolist()])
            accepted_file.write_table(pa.Table.from_pylist(accepted, accepted_schema))
            rejected_file.write_table(rejected.cast(rejected_schema))


def _divide(table: pa.Table, outcomes: list[Outcome]) -> tuple[list[dict[str, Any]], pa.Table]:
    accepted = [
        {name: as_thinkvg(record).get(name) for name in COLUMNS} | {"thinkVG": outcome.reasoning}
        for record, outcome in zip(read_records(table), outcomes, strict=True)
        if record is not None and not outcome.reason
    ]
    rejected = table.filter(pa.array([bool(outcome.reason) for outcome in outcomes], pa.bool_()))
    return accepted, _reject_table(rejected, [outcome for outcome in outcomes if outcome.reason])


def _reject_table(table: pa.Table, outcomes: list[Outcome]) -> pa.Table:
    """Return rejected rows with `source_index`, `reason` and `detail`."""
    indices = [outcome.index for outcome in outcomes]
    table = with_reasons(table, indices, [outcome.reason for outcome in outcomes])
    if "detail" in table.column_names:
        table = table.drop_columns(["detail"])
    details = [outcome.detail for outcome in outcomes]
    return table.append_column("detail", pa.array(details, pa.string()))


def report(
    settings: Settings, source: Source, journal: Journal, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Return rows, reasons, tokens, costs and rates of the run and of those that it resumes."""
    counts = journal.counts
    rejects = {code: counts[code] for code in {**REJECT_CODES, **CODES} if counts[code]}
    tokens = {"read": counts["prompt_tokens"], "written": counts["completion_tokens"]}
    result: dict[str, Any] = {
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
        result["rows_per_hour"] = round(3600 * len(journal) / journal.seconds, 1)
        result["tokens_written_per_second"] = round(tokens["written"] / journal.seconds, 1)
    if settings.prices:
        price_in, price_out = settings.prices
        cost = (tokens["read"] * price_in + tokens["written"] * price_out) / 1e6
        result["cost"] = round(cost, 4)
        result["cost_per_kept_row"] = round(cost / counts["kept"], 6) if counts["kept"] else None
    return result


async def synthesize(settings: Settings) -> dict[str, Any]:
    """Write reasoning for all rows, then the files, and return the report."""
    prompt = read_prompt(settings.prompt, settings.limits.least, settings.limits.most)
    findings = read_findings(settings.findings)
    source = open_source(settings.source)
    settings.out.mkdir(parents=True, exist_ok=True)
    for folder in (settings.out, settings.out / "data"):
        remove_leftovers(folder)
    client = ChatClient(settings.server)
    try:
        about = await _about(settings, client)
        # What a resumed run must have in common with its journal.
        identity = about | {"source": source.identity(), "findings": stamps([settings.findings])}
        with closing(Journal(settings.out, identity)) as journal:
            rows = source.rows if settings.limit is None else min(settings.limit, source.rows)
            writer = Writer(client, settings, prompt)
            await Run(settings, writer, journal).all(source, findings, rows)
            write_output(settings, source, rows, journal, about)
            result = report(settings, source, journal, about)
            # Last, so if it exists, the other files are complete.
            write_whole(settings.out / REPORT, json.dumps(result, indent=2) + "\n")
    finally:
        await client.aclose()
    return result


async def _about(settings: Settings, client: ChatClient) -> dict[str, Any]:
    """Return what makes the replies: model, sampling, prompt, checks."""
    try:
        model = await client.model_name()
    except ServerFault as fault:
        raise InputError(f"{settings.server.base_url}: {fault}; {GOES_ON}") from None
    return {
        "model": model,
        **{key: getattr(settings.server, key) for key in _REPLY_SETTINGS},
        "prompt": prompt_version(settings.prompt),
        "tries": settings.tries,
        "words": [settings.limits.least, settings.limits.most],
    }
