"""A run of the synthesis: rows are sent until a reply passes, journalled, and at last written."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from data_prep.convert.examples import chosen_rows, read_records, with_reasons
from data_prep.program import (
    SYNTHETIC,
    InputError,
    alone_in,
    remove_leftovers,
    whole_file,
    write_whole,
)
from data_prep.rows.example import REJECT_CODES, RowFault, parse_row
from data_prep.sources.files import COLUMNS, Source, open_source, stamps
from data_prep.sources.gemex import as_thinkvg
from data_prep.sources.side_tables import findings_of, read_findings
from data_prep.synthesis.journal import Journal, Outcome
from data_prep.synthesis.settings import Settings
from data_prep.synthesis.tasks import (
    CODES,
    SCHEMA,
    Fault,
    Task,
    faults,
    prompt_version,
    read_prompt,
    read_reply,
)
from llm_client.client import ChatClient
from llm_client.server import PermanentFault, ServerFault, whole_text

ROWS = Path("data") / "train-00000-of-00001.parquet"
REJECTS = "rejects.parquet"
REPORT = "synthesis.json"
_REPLY_SETTINGS = ("temperature", "seed", "max_tokens", "structured_output", "extra_body")
"""Settings of the server that change the replies, so a resumed run must have the same ones."""
BATCH = 512
GOES_ON = "finished rows are kept, run the same command to resume"
_LONGEST_DETAIL = 2000


class Writer:
    """Writes the reasoning of rows with a model."""

    def __init__(self, client: ChatClient, settings: Settings, prompt: str) -> None:
        self._client, self._settings, self._prompt = client, settings, prompt

    async def write(self, task: Task) -> Outcome:
        """Return the outcome of a row.

        Raises:
            ServerFault: The server gave no reply, or refuses every request (PermanentFault).
        """
        messages = [
            {"role": "system", "content": self._prompt},
            {"role": "user", "content": task.document()},
        ]
        index, tokens = task.row.source_index, [0, 0]
        problems: list[Fault] = []
        text = ""
        for attempt in range(1, self._settings.tries + 1):
            try:
                text = await self._ask(messages, attempt, tokens)
            except PermanentFault as fault:
                if not fault.one_request:
                    raise
                return Outcome(index, "", "refused", str(fault), attempt, *tokens)
            reply = read_reply(text)
            problems = faults(reply, task, self._settings.limits)
            if reply is not None and not problems:
                return Outcome(index, reply.reasoning, "", "", attempt, *tokens)
            hints = "\n".join(f"- {problem.hint}" for problem in problems)
            messages[2:] = [
                {"role": "assistant", "content": text[:_LONGEST_DETAIL]},
                {"role": "user", "content": f"That cannot be used:\n{hints}\nWrite it again."},
            ]
        detail = f"{'; '.join(problem.hint for problem in problems)} | {text}"[:_LONGEST_DETAIL]
        return Outcome(index, "", problems[0].code, detail, attempt, *tokens)

    async def _ask(self, messages: list[dict[str, str]], attempt: int, tokens: list[int]) -> str:
        server = self._settings.server
        body = server.body(
            await self._client.model_name(),
            messages,
            ("reasoning", SCHEMA),
            temperature=server.temperature,
            seed=server.seed + attempt - 1,
        )
        reply = await self._client.complete(body, lambda reply: whole_text(reply, server.option))
        tokens[0] += reply.prompt_tokens
        tokens[1] += reply.completion_tokens
        return reply.text


def records(source: Source, rows: int) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    """Yield the first rows with their indices, None for a row that is not valid UTF-8."""
    texts = (record for batch in source.batches(BATCH) for record in read_records(batch))
    return islice(enumerate(texts), rows)


def task_of(index: int, record: Mapping[str, Any] | None, findings: Mapping[str, str]) -> Task:
    """Return the task of a row; raise RowFault if the row is rejected."""
    if record is None:
        raise RowFault("bad_text")
    # An existing reasoning is ignored, since it is written again.
    parsed = parse_row({**as_thinkvg(record), "thinkVG": ""}, index)
    text = findings_of(findings, parsed.image_path, parsed.study)
    if not text:
        raise RowFault("no_findings")
    return Task(parsed, text)


def write_output(
    settings: Settings, source: Source, rows: int, journal: Journal, about: Any
) -> None:
    """Write ThinkVG's columns of the rows with reasoning, and the rejected rows with reasons.

    `about` says what made the replies; it is written into the metadata.
    """
    target = settings.out / ROWS
    target.parent.mkdir(parents=True, exist_ok=True)
    notice = "Reasoning written by a language model, checked by rules, not by a person."
    metadata = {b"notice": notice.encode(), b"synthesis": json.dumps(about).encode()}
    metadata |= SYNTHETIC if source.synthetic else {}
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
    _refuse_own_source(source, settings.out)
    settings.out.mkdir(parents=True, exist_ok=True)
    with alone_in(settings.out):
        return await _synthesize_alone(settings, prompt, findings, source)


def _refuse_own_source(source: Source, out: Path) -> None:
    written = {(out / name).resolve() for name in (ROWS, REJECTS)}
    for path in map(Path, source.files):
        if path.resolve() in written:
            raise InputError(f"--out {out} would overwrite the source {path}: name another folder")


async def _synthesize_alone(
    settings: Settings, prompt: str, findings: Mapping[str, str], source: Source
) -> dict[str, Any]:
    for folder in (settings.out, settings.out / "data"):
        remove_leftovers(folder)
    client = ChatClient(settings.server)
    try:
        about = await _about(settings, client)
        # What a resumed run must have in common with its journal.
        identity = about | {"source": source.identity(), "findings": stamps([settings.findings])}
        with closing(Journal(settings.out, identity)) as journal:
            limit = source.rows if settings.limit is None else min(settings.limit, source.rows)
            rows = max(limit, journal.end)  # what an earlier run has written stays
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


class Run:
    """A pass over the rows that are not in the journal yet."""

    def __init__(self, settings: Settings, writer: Writer, journal: Journal) -> None:
        self._settings, self._writer, self._journal = settings, writer, journal
        self._failed_in_a_row = 0
        self._unanswered: list[str] = []
        self._refused: list[tuple[Task, Outcome]] = []  # since the last reply

    async def all(self, source: Source, findings: Mapping[str, str], rows: int) -> None:
        """Write an outcome of every row to the journal; raise InputError if the server fails."""
        running: set[asyncio.Task[None]] = set()
        most_running = 2 * self._settings.server.max_concurrency
        done = len(self._journal)
        with tqdm(total=rows, initial=done, desc="reasoning", unit="row", smoothing=0) as bar:
            try:
                for index, record in records(source, rows):
                    if index in self._journal:
                        continue
                    try:
                        task = task_of(index, record, findings)
                    except RowFault as fault:
                        self._journal.add(Outcome(index, reason=str(fault)))
                        bar.update()
                        continue
                    running.add(asyncio.create_task(self._write_row(task, bar)))
                    if len(running) >= most_running:
                        running = await _wait_for_first(running)
                while running:
                    running = await _wait_for_first(running)
                self._reject_refused(bar)
            finally:
                for unfinished in running:
                    unfinished.cancel()
                await asyncio.gather(*running, return_exceptions=True)
        if self._unanswered:
            raise InputError(
                f"the server failed for {len(self._unanswered)} rows (last: "
                f"{self._unanswered[-1]}): {GOES_ON}; --give-up rejects such rows"
            )

    async def _write_row(self, task: Task, bar: Any) -> None:
        try:
            outcome = await self._writer.write(task)
        except PermanentFault as fault:
            raise InputError(f"{self._settings.server.base_url}: {fault}; {GOES_ON}") from None
        except ServerFault as fault:
            self._count_failure(task, str(fault), bar)
            return
        self._failed_in_a_row = 0
        if outcome.reason == "refused":
            self._hold_back(task, outcome)
            return
        self._reject_refused(bar)
        self._journal.add(outcome)
        bar.update()

    def _hold_back(self, task: Task, outcome: Outcome) -> None:
        """Keep a refused row until a reply shows that the server does not refuse every row.

        Dozens of rows may share one text that is too long, so different texts are counted.
        """
        self._refused.append((task, outcome))
        texts = {refused.findings for refused, _ in self._refused}
        if len(texts) >= self._settings.server.breaker_failures:
            raise InputError(
                f"{self._settings.server.base_url} refused the rows of {len(texts)} different "
                f"findings in a row (last: {outcome.detail}): {GOES_ON}; a larger "
                "--breaker-failures rejects such rows"
            )

    def _reject_refused(self, bar: Any) -> None:
        for _, outcome in self._refused:
            self._journal.add(outcome)
            bar.update()
        self._refused.clear()

    def _count_failure(self, task: Task, fault: str, bar: Any) -> None:
        self._failed_in_a_row += 1
        limit = self._settings.server.breaker_failures
        if self._failed_in_a_row >= limit:
            raise InputError(
                f"{self._settings.server.base_url} failed for {limit} rows in a row (last: "
                f"{fault}): {GOES_ON}"
            )
        if not self._settings.give_up:
            self._unanswered.append(fault)
            return
        self._journal.add(Outcome(task.row.source_index, reason="server_failed", detail=fault))
        bar.update()


async def _wait_for_first(running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Wait until a task ends and return the others; if it failed, cancel them and raise."""
    done, pending = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    faults = [fault for task in done if (fault := task.exception())]
    if faults:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        raise faults[0]
    return pending
