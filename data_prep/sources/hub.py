"""A dataset on the Hugging Face hub, through `datasets`: its cache and offline mode are used."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from data_prep.errors import InputError
from data_prep.sources.base import rebatch
from data_prep.sources.parquet_files import check_columns

HUB = "hub:"
_COMMIT = re.compile(r"[0-9a-f]{40}")
CONFIG = Path(__file__).resolve().parents[2] / "configs" / "hub.yaml"


@dataclass(frozen=True)
class HubName:
    """A dataset repository, the revision wanted and the split to read."""

    name: str
    revision: str
    split: str


def hub_name(text: str, config: Path = CONFIG) -> HubName:
    """Reads `OWNER/NAME` or `OWNER/NAME@REVISION`; a revision not given is the config's."""
    name, _, revision = text.partition("@")
    listed: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    known = listed.get(name, {})
    revision = revision or str(known.get("revision", ""))
    if name.count("/") != 1 or not all(name.split("/")):
        raise InputError(f"--source {HUB}{text}: write {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION")
    if not revision:
        raise InputError(
            f"--source {HUB}{text}: no revision; write {HUB}{name}@REVISION or add it to {config}"
        )
    return HubName(name, revision, str(known.get("split", "train")))


class HubSource:
    """The rows of a loaded dataset, read from its memory-mapped files."""

    def __init__(self, wanted: HubName, dataset: Any) -> None:
        self._wanted = wanted
        self._dataset = dataset.with_format("arrow")
        self.rows = len(dataset)
        self.schema = self._dataset.data.schema.remove_metadata()
        check_columns(self.schema, self.label)

    @property
    def label(self) -> str:
        return f"{HUB}{self._wanted.name}@{self._wanted.revision}"

    @property
    def files(self) -> list[str]:
        """The name, and the commit that was read."""
        return [f"{self.label} (commit {self.commit})"]

    @property
    def commit(self) -> str:
        """The commit of the rows, which the cache keeps in a folder of that name."""
        files = self._dataset.cache_files
        return Path(files[0]["filename"]).parent.name if files else ""

    def identity(self) -> str:
        return f"{self.label} {self.commit} {self.rows}"

    def batches(self, size: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        tables = self._dataset.iter(batch_size=size)
        return rebatch((batch for table in tables for batch in table.to_batches()), size)


def open_hub(text: str) -> HubSource:
    """Loads a dataset, from the cache where it is there or where offline mode is on.

    Raises InputError where it cannot be had.
    """
    wanted = hub_name(text)
    # Slow to import, and needed for this source only.
    from datasets import load_dataset

    try:
        dataset = load_dataset(wanted.name, revision=wanted.revision, split=wanted.split)
    except Exception as error:
        # `datasets` and the hub client raise dozens of kinds; each ends this program alike.
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"--source {HUB}{text} does not load: {first}; download it (hf download {wanted.name} "
            "--repo-type dataset --local-dir DIR) and name DIR"
        ) from None
    source = HubSource(wanted, dataset)
    if _COMMIT.fullmatch(wanted.revision) and source.commit != wanted.revision:
        # Offline, `datasets` takes what it has.
        raise InputError(
            f"--source {HUB}{text}: the cache holds commit {source.commit}, not {wanted.revision}; "
            "download that one while online, or name the commit in the cache"
        )
    if source.commit != wanted.revision:
        print(
            f"{source.label} is commit {source.commit}: to read the same rows again, name it as "
            f"the revision in {CONFIG.parent.name}/{CONFIG.name}",
            file=sys.stderr,
        )
    return source
