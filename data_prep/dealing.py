"""From the parts of a run to its files: the rejected rows, the counts, the training files."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from data_prep.convert import PartStats, part_file, read_stream, rejects_file
from data_prep.publishing import REJECTS
from data_prep.repeats import KEYS, Repeats
from data_prep.settings import Settings
from data_prep.sources import Source
from data_prep.splits import SPLITS
from data_prep.statistics import TALLIED, Tally
from data_prep.tables import ROLLOUT_INPUT, SFT_INPUT, Layout
from data_prep.writing import RowFile, Splitter, TrainingFiles, file_names

INPUTS = {"rollout": ROLLOUT_INPUT, "sft": SFT_INPUT}
REJECTED_ROW_GROUP = 4096


@dataclass(frozen=True)
class Written:
    """What was written beside the final files, not yet under its name."""

    folder: Path
    files: dict[str, int]
    tallies: dict[str, Tally]
    repeats: dict[str, int]


@dataclass(frozen=True)
class Parts:
    """The parts of a run, with the split of each patient and all that decides on fractions."""

    work: Path
    count: int
    split_of: Mapping[str, str]
    train_rows: int
    seed: int

    def splitter(self) -> Splitter:
        """One that starts at the first row."""
        return Splitter(self.split_of, self.train_rows, self.seed)

    def accepted(self, columns: Sequence[str], what: str | None = None) -> Iterator[pa.Table]:
        """The accepted rows in order, part by part; with `what` a progress bar shows how many."""
        for number in self._numbers(what):
            rows = read_stream(part_file(self.work, number), columns)
            yield rows.replace_schema_metadata(None)

    def rejected(self) -> Iterator[pa.Table]:
        """The rejected rows in order, part by part."""
        for number in self._numbers("rejected rows"):
            yield read_stream(rejects_file(self.work, number))

    def _numbers(self, what: str | None) -> Iterable[int]:
        hidden = what is None
        return tqdm(range(self.count), what, unit="part", mininterval=1, disable=hidden)


def write_files(
    settings: Settings,
    source: Source,
    work: Path,
    parts: int,
    stats: PartStats,
    splits: Mapping[str, str],
    values: Mapping[str, Any],
) -> Written:
    """Writes the rejects and, where there is any accepted row, every training file.

    The parts are read once for the counts, once for the rollout files and once for those of SFT,
    so that half of the files at most, with their row groups in the making, are in memory.
    """
    folder = work / "files"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    train_rows = sum(
        sum(counts.values())
        for patient, counts in stats.patients.items()
        if splits[patient] == "train"
    )
    found = Parts(work, parts, splits, train_rows, settings.seed)
    _write_rejects(found, folder / REJECTS, source)
    rows: dict[str, int] = {}
    # The same threads for both kinds, so that the second finds the memory that the first freed.
    with ThreadPoolExecutor(settings.workers + 1) as pool:
        counting = pool.submit(_count, found)
        for kind in INPUTS if stats.patients else ():
            rows |= _write_kind(kind, found, folder, settings, values, pool)
        tallies, repeats = counting.result()
    names = [f"{name}.parquet" for name in file_names()]
    return Written(folder, {name: rows[name] for name in names if rows}, tallies, repeats)


def _write_rejects(parts: Parts, path: Path, source: Source) -> None:
    file: RowFile | None = None
    for rows in parts.rejected():
        if file is None:
            schema = rows.schema.with_metadata(source.schema.metadata)
            file = RowFile(path, schema, None, REJECTED_ROW_GROUP)
        file.add(rows)
    if file is not None:
        file.close()


def _count(parts: Parts) -> tuple[dict[str, Tally], dict[str, int]]:
    """The counts of each split, and those of repeated questions."""
    tallies = {split: Tally() for split in SPLITS}
    repeats = Repeats(parts.work / "keys")
    splitter = parts.splitter()
    for flat in parts.accepted((*TALLIED, *KEYS)):
        repeats.add(flat)
        for split, rows, _ in splitter.deal(flat):
            tallies[split].add(rows)
    return tallies, repeats.count()


def _write_kind(
    kind: str,
    parts: Parts,
    folder: Path,
    settings: Settings,
    values: Mapping[str, Any],
    pool: ThreadPoolExecutor,
) -> dict[str, int]:
    """Writes the training files of a kind of `INPUTS`; returns the rows of each."""
    layout = Layout(
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
        with_findings=settings.findings is not None,
        with_tokens=settings.tokenizer is not None,
        embed_images=settings.embed_images,
    )
    files = TrainingFiles(folder, layout, values, kind)
    splitter = parts.splitter()
    for flat in parts.accepted(INPUTS[kind], f"writing {kind}"):
        for split, rows, levels in splitter.deal(flat):
            files.add(split, rows, levels, pool)
    return files.close()
