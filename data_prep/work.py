"""The folder of a run's parts, kept until the run is whole, so that a killed one can go on."""

from __future__ import annotations

import gc
import hashlib
import json
import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from data_prep.arrow_alone import leave_pandas_out
from data_prep.convert import Batch, Context, Converter, PartStats, part_file, read_stats
from data_prep.errors import InputError
from data_prep.files import ignore_interrupts, remove_leftovers, whole_file
from data_prep.scan import BATCH, numbered_batches
from data_prep.sources import Source

FOLDER = ".parts"
STAMP = "run.json"  # what the parts were made of; without it they count for nothing
_CODE = [Path(__file__).parent, Path(__file__).parents[1] / "reward"]


def open_work(out: Path, described: dict[str, object]) -> Path:
    """The folder for parts in `out`; parts of a run with other settings or rows are removed."""
    folder = out / FOLDER
    named = json.dumps(described | {"code": _code_digest()}, sort_keys=True, default=str)
    stamp = folder / STAMP
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != named:
        remove_work(folder)
        folder.mkdir(parents=True)
        with whole_file(stamp) as temporary:
            temporary.write_text(named, encoding="utf-8")
    remove_leftovers(folder)
    return folder


def remove_work(folder: Path) -> None:
    """Removes the folder of parts; killed at it, it leaves none that a later run would use."""
    (folder / STAMP).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _code_digest() -> str:
    """Changes with this package and `reward`, so that parts of older code are not used."""
    digest = hashlib.sha256()
    for folder in _CODE:
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


CONTEXT = "context.pickle"
_converter: Converter | None = None
Item = TypeVar("Item")
Result = TypeVar("Result")


def _start() -> None:
    ignore_interrupts()
    # A row makes some hundred small objects and no cycles: look for such more seldom.
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    pa.set_cpu_count(1)
    leave_pandas_out()


def _convert(batch: Batch | None, context: Path) -> None:
    """Converts a batch, by the context that the file holds for all of them; None only wakes."""
    global _converter
    if batch is None:
        return
    if _converter is None:
        _converter = Converter(pickle.loads(context.read_bytes()))
    _converter(batch)


class Workers:
    """Processes that convert batches. They start at once, while the source is looked through."""

    def __init__(self, count: int) -> None:
        self.ahead = 2 * count
        self._pool = ProcessPoolExecutor(count, get_context("spawn"), _start)
        for _ in range(count):  # it starts a process for a job that finds none idle
            self._pool.submit(_convert, None, Path())

    def submit(self, batch: Batch, context: Path) -> Future[None]:
        return self._pool.submit(_convert, batch, context)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """`map`, in the processes."""
        with _told_of_killed():
            yield from self._pool.map(function, items)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@contextmanager
def _told_of_killed() -> Iterator[None]:
    """Says in one line that a worker was killed."""
    try:
        yield
    except BrokenProcessPool:
        raise InputError(
            "a worker process was killed, as happens when memory runs out: start again, with "
            "fewer --workers, to go on from here"
        ) from None


@contextmanager
def open_workers(count: int, rows: int) -> Iterator[Workers | None]:
    """The processes, or None where there is one worker or one batch, which needs no other."""
    if count == 1 or rows <= BATCH:
        yield None
        return
    workers = Workers(count)
    try:
        yield workers
    finally:
        workers.close()


def convert_all(
    source: Source, kept: np.ndarray | None, context: Context, workers: Workers | None
) -> tuple[int, PartStats, dict[str, list[tuple[int, int]]]]:
    """Converts every batch that has no part yet.

    Returns the number of parts, their counts added up, and for each question type the rows with
    the most boxes of each part, as (boxes, source index).
    """
    total = source.rows if kept is None else len(kept)
    with tqdm(total=total, desc="converting rows", unit="row", mininterval=1) as bar:
        _run(source, kept, context, workers, bar)
    parts = -(-source.rows // BATCH)
    stats = PartStats()
    shown: dict[str, list[tuple[int, int]]] = {}
    for number in range(parts):
        found = read_stats(part_file(context.work, number))
        stats.add(found)
        for key, pair in sorted(found.most_boxes.items()):
            shown.setdefault(key.partition("/")[0], []).append(pair)
    return parts, stats, shown


def _run(
    source: Source, kept: np.ndarray | None, context: Context, workers: Workers | None, bar: tqdm
) -> None:
    """Converts in this process, or in the workers."""
    jobs = _jobs(source, kept, context.work)
    if workers is None:
        converter = Converter(context)
        for batch, rows in jobs:
            if batch is not None:
                converter(batch)
            bar.update(rows)
        return
    with whole_file(context.work / CONTEXT) as temporary:
        temporary.write_bytes(pickle.dumps(context))
    with _told_of_killed():
        _feed(workers, jobs, bar, context.work / CONTEXT)


Jobs = Iterator[tuple[Batch | None, int]]


def _feed(workers: Workers, jobs: Jobs, bar: tqdm, context: Path) -> None:
    """Hands batches to the workers, a few ahead."""
    running: dict[Future[None], int] = {}
    for batch, rows in jobs:
        if batch is None:
            bar.update(rows)
            continue
        while len(running) >= workers.ahead:
            _collect(running, bar)
        running[workers.submit(batch, context)] = rows
    while running:
        _collect(running, bar)


def _collect(running: dict[Future[None], int], bar: tqdm) -> None:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
        bar.update(running.pop(future))


def _jobs(
    source: Source, kept: np.ndarray | None, work: Path
) -> Iterator[tuple[Batch | None, int]]:
    """Each batch with its number of rows; None for one whose part is there already."""
    numbered = numbered_batches(source, kept)
    for number, (start, rows, positions) in enumerate(numbered):
        count = rows.num_rows if positions is None else len(positions)
        if part_file(work, number).is_file():
            yield None, count
            continue
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_batch(rows)
        yield Batch(number, start, sink.getvalue().to_pybytes(), positions), count
