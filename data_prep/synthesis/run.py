"""All rows of a source: each to the model, and its outcome to the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from tqdm import tqdm

from data_prep.convert import read_records
from data_prep.errors import InputError
from data_prep.findings_table import findings_of
from data_prep.rows import RowFault, parse_row
from data_prep.sources import Source
from data_prep.sources.gemex import UnknownForm, as_thinkvg
from data_prep.synthesis.journal import Journal, Outcome
from data_prep.synthesis.settings import Settings
from data_prep.synthesis.tasks import Task
from data_prep.synthesis.writer import RowUnanswered, Writer
from reward.judge.faults import PermanentFault

BATCH = 512
GOES_ON = "what is done is kept, and the same command goes on from here"


def records(source: Source, limit: int | None) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    """Every row with its source index; None for one that is not valid UTF-8."""
    index = 0
    for batch in source.batches(BATCH):
        for record in read_records(batch, range(batch.num_rows)):
            if limit is not None and index >= limit:
                return
            yield index, record
            index += 1


def task_of(index: int, record: Mapping[str, Any] | None, findings: Mapping[str, str]) -> Task:
    """What to ask for a row. Raises RowFault with a reject code where there is nothing to ask."""
    if record is None:
        raise RowFault("bad_text")
    try:
        row = as_thinkvg(record)
    except UnknownForm as fault:
        raise RowFault(str(fault)) from None
    # A reasoning that is there already is not read, since it is to be written.
    parsed = parse_row({**row, "thinkVG": ""}, index)
    known = findings_of(findings, parsed.image_path, parsed.study)
    if not known:
        raise RowFault("no_findings")
    return Task(parsed, known)


class Run:
    """One pass over the rows that the journal does not have yet."""

    def __init__(self, settings: Settings, writer: Writer, journal: Journal) -> None:
        self._settings, self._writer, self._journal = settings, writer, journal
        self._failed_in_a_row = 0
        self._unanswered: list[str] = []

    async def all(self, source: Source, findings: Mapping[str, str], rows: int) -> None:
        """Bring every row to an outcome.

        Raises:
            InputError: the server refuses all requests, or failed for some rows; the rest is done
                as far as it could be.
        """
        waiting: set[asyncio.Task[None]] = set()
        most = 2 * self._settings.server.max_concurrency
        done = len(self._journal)
        with tqdm(total=rows, initial=done, desc="reasoning", unit="row", smoothing=0) as bar:
            try:
                for index, record in records(source, self._settings.limit):
                    if index in self._journal:
                        continue
                    try:
                        task = task_of(index, record, findings)
                    except RowFault as fault:
                        self._journal.add(Outcome(index, reason=str(fault)))
                        bar.update()
                        continue
                    waiting.add(asyncio.create_task(self._one(task, bar)))
                    if len(waiting) >= most:
                        waiting = await _some(waiting)
                while waiting:
                    waiting = await _some(waiting)
            finally:
                for each in waiting:
                    each.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
        if self._unanswered:
            raise InputError(
                f"the server failed for {len(self._unanswered)} rows (last: "
                f"{self._unanswered[-1]}): {GOES_ON}; --give-up rejects such rows"
            )

    async def _one(self, task: Task, bar: Any) -> None:
        try:
            outcome = await self._writer.write(task)
        except PermanentFault as fault:
            raise InputError(f"{self._settings.server.base_url}: {fault}; {GOES_ON}") from None
        except RowUnanswered as fault:
            self._count_failure(task, str(fault), bar)
            return
        self._failed_in_a_row = 0
        self._journal.add(outcome)
        bar.update()

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


async def _some(waiting: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Wait for one to end; what it raises is raised here, and the others are left waiting."""
    done, rest = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    faults = [fault for task in done if (fault := task.exception())]
    if faults:
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        raise faults[0]
    return rest
