"""Where rows come from: parquet, JSON and JSON lines on disk, or a dataset on the hub."""

from __future__ import annotations

import re
from pathlib import Path

from data_prep.errors import InputError
from data_prep.sources.base import Source
from data_prep.sources.hub import HUB, open_hub
from data_prep.sources.json_files import JsonSource
from data_prep.sources.parquet_files import ParquetSource

__all__ = ["Source", "is_hub_name", "open_source"]

JSON_SUFFIXES = (".jsonl", ".json")
SUFFIXES = (".parquet", *JSON_SUFFIXES)


def is_hub_name(source: str) -> bool:
    return source.startswith(HUB)


def open_source(source: str) -> Source:
    """The rows of `--source`.

    `hub:OWNER/NAME` or `hub:OWNER/NAME@REVISION` is a dataset on the hub. A path is a parquet,
    JSON or JSON lines file, or a folder of such files (in `data/`, or directly in it).
    Raises InputError for anything else.
    """
    if is_hub_name(source):
        return open_hub(source.removeprefix(HUB))
    files = source_files(Path(source))
    if files[0].suffix in JSON_SUFFIXES:
        return JsonSource(files)
    return ParquetSource(files)


def source_files(source: Path) -> list[Path]:
    """The files of `--source`: the file itself, or all of a folder that are of one kind."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        hint = f": for the hub write {HUB}{source}" if _looks_like_hub(source) else ""
        raise InputError(f"--source {source} does not exist{hint}")
    for folder in (source / "data", source):
        kinds = {suffix: sorted(folder.glob(f"*{suffix}")) for suffix in SUFFIXES}
        # A .json file beside parquet is often a description of it, so it is no other source.
        if kinds[".jsonl"] and (kinds[".parquet"] or kinds[".json"]):
            other = (kinds[".parquet"] or kinds[".json"])[0].name
            raise InputError(
                f"--source {source} holds files of two kinds, such as {other} and "
                f"{kinds['.jsonl'][0].name}: name one file, or a folder of one kind"
            )
        for files in kinds.values():
            if files:
                return files
    raise InputError(
        f"--source {source} holds no data/*.parquet, *.jsonl or *.json: name a file or such a "
        "folder"
    )


def _looks_like_hub(source: Path) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) is not None
