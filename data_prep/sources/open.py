"""The source that `--source` names: files on disk, or a dataset on the Hugging Face hub."""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from data_prep.program import InputError
from data_prep.sources.files import JsonSource, ParquetSource, Source, check_columns, rebatch

JSON_SUFFIXES = (".jsonl", ".json")
SUFFIXES = (".parquet", *JSON_SUFFIXES)
HUB = "hub:"
CONFIG = Path(__file__).resolve().parents[2] / "configs" / "hub.yaml"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LIKE_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def open_source(source: str) -> Source:
    """Open the rows of `--source`.

    Args:
        source: `hub:OWNER/NAME` or `hub:OWNER/NAME@REVISION` for a dataset on the hub, or the path
            of a parquet, JSON or JSON lines file, or of a folder with such files, in it or its
            `data/`.

    Raises:
        InputError: It is anything else.
    """
    if source.startswith(HUB):
        return open_hub(source.removeprefix(HUB))
    files = source_files(Path(source))
    return JsonSource(files) if files[0].suffix in JSON_SUFFIXES else ParquetSource(files)


def source_files(source: Path) -> list[Path]:
    """Return the file of `--source`, or all files in a folder, which must be of one kind."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        hint = f": for the hub write {HUB}{source}" if _LIKE_HUB_NAME.fullmatch(str(source)) else ""
        raise InputError(f"--source {source} does not exist{hint}")
    for folder in (source / "data", source):
        kinds = {suffix: sorted(folder.glob(f"*{suffix}")) for suffix in SUFFIXES}
        # A .json file next to parquet is often its description, so it is ignored.
        second_kind = kinds[".parquet"] or kinds[".json"]
        if kinds[".jsonl"] and second_kind:
            raise InputError(
                f"--source {source} holds files of two kinds, such as {second_kind[0].name} and "
                f"{kinds['.jsonl'][0].name}: name one file, or a folder of one kind"
            )
        for files in kinds.values():
            if files:
                return files
    raise InputError(
        f"--source {source} holds no data/*.parquet, *.jsonl or *.json: name a file or such a "
        "folder"
    )


@dataclass(frozen=True)
class HubName:
    """A dataset repository, its revision, and the split to read."""

    name: str
    revision: str
    split: str


def hub_name(text: str, config: Path = CONFIG) -> HubName:
    """Parse `OWNER/NAME` or `OWNER/NAME@REVISION`; the default revision is in the config file."""
    name, _, revision = text.partition("@")
    datasets: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    defaults = datasets.get(name, {})
    revision = revision or str(defaults.get("revision", ""))
    if name.count("/") != 1 or not all(name.split("/")):
        raise InputError(f"--source {HUB}{text}: write {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION")
    if not revision:
        raise InputError(
            f"--source {HUB}{text}: no revision; write {HUB}{name}@REVISION or add it to {config}"
        )
    return HubName(name, revision, str(defaults.get("split", "train")))


class HubSource:
    """The rows of a loaded dataset, read from its memory-mapped files."""

    def __init__(self, repository: HubName, dataset: Any) -> None:
        self._dataset = dataset.with_format("arrow")
        cached = dataset.cache_files  # in a folder that is named after the commit
        self.commit = Path(cached[0]["filename"]).parent.name if cached else ""
        self.label = f"{HUB}{repository.name}@{repository.revision}"
        self.files = [f"{self.label} (commit {self.commit})"]
        self.rows = len(dataset)
        self.schema = self._dataset.data.schema.remove_metadata()
        check_columns(self.schema, self.label)

    def identity(self) -> str:
        return f"{self.label} {self.commit} {self.rows}"

    def batches(self, size: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        tables = self._dataset.iter(batch_size=size)
        return rebatch((batch for table in tables for batch in table.to_batches()), size)


def open_hub(text: str) -> HubSource:
    """Load `OWNER/NAME` or `OWNER/NAME@REVISION` with `datasets`, its cache and offline mode."""
    repository = hub_name(text)
    from datasets import load_dataset  # slow to import

    try:
        dataset = load_dataset(
            repository.name, revision=repository.revision, split=repository.split
        )
    except Exception as error:
        # `datasets` and the hub client raise dozens of types of errors.
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"--source {HUB}{text} does not load: {first_line}; download it (hf download "
            f"{repository.name} --repo-type dataset --local-dir DIR) and name DIR"
        ) from None
    source = HubSource(repository, dataset)
    _check_commit(source, repository.revision)
    return source


def _check_commit(source: HubSource, revision: str) -> None:
    """Raise InputError if another commit was loaded; print the commit of a branch or a tag."""
    if source.commit == revision:
        return
    if _COMMIT.fullmatch(revision):
        # Offline, `datasets` takes any commit that is in its cache.
        raise InputError(
            f"--source {source.label}: the cache holds commit {source.commit}, not {revision}; "
            "download that one while online, or name the commit in the cache"
        )
    print(
        f"{source.label} is commit {source.commit}: to read the same rows again, name it as the "
        f"revision in {CONFIG.parent.name}/{CONFIG.name}",
        file=sys.stderr,
    )
