"""The source that `--source` names: files on disk, or a dataset on the Hugging Face hub.

Files are parquet, JSON lines, or JSON with one list of objects.
"""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TextIO

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from data_prep.program import SYNTHETIC, InputError, is_synthetic

COLUMNS = ("image_path", "question", "question_type", "thinkVG", "response")
"""The columns of ThinkVG's parquet."""
GEMEX_COLUMNS = ("visual_locations", "conversations")
"""A table with either of these holds GEMeX rows."""
RAW = "row"
"""The only column of a source of JSON rows: the text of each row, unparsed."""
READ_AHEAD = 4096  # rows decoded at a time
READ_BUFFER = 1 << 20  # bytes of a column read at a time
_LONGEST_VALUE = 1 << 26  # characters of one row
_AFTER_VALUE = tuple(" \t\r\n,]")


class Source(Protocol):
    """Rows to prepare, in a fixed order; a source index is the number of a row in all batches."""

    label: str  # the name for messages
    files: list[str]  # for the audit
    rows: int
    schema: pa.Schema  # of every batch
    synthetic: bool  # whether all files say that no patient is in them

    def identity(self) -> str:
        """Return a text that changes when the rows do."""

    def batches(self, size: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield all rows, `size` in every batch but the last.

        A source may ignore `columns`, the columns that are needed, and read all.
        """


class LocalFiles:
    """The common part of the sources of local files."""

    def __init__(self, files: list[Path]) -> None:
        self._paths = files
        self.label = str(files[0] if len(files) == 1 else files[0].parent)
        self.files = [str(path) for path in files]
        self.synthetic = all(map(is_synthetic, files))

    def identity(self) -> str:
        return stamps(self._paths)


def stamps(paths: list[Path]) -> str:
    """Return names, sizes and times of files as a text that changes when a file does."""
    return ";".join(
        f"{path.resolve()}|{path.stat().st_size}|{path.stat().st_mtime_ns}" for path in paths
    )


def rebatch(pieces: Iterator[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    """Yield batches of `size` rows, the last of the rest, from pieces of any length."""
    pending: list[pa.RecordBatch] = []
    count = 0
    for piece in pieces:
        while piece.num_rows:
            head = piece.slice(0, size - count)
            piece = piece.slice(head.num_rows)
            pending.append(head)
            count += head.num_rows
            if count == size:
                yield pa.concat_batches(pending)
                pending, count = [], 0
    if pending:
        yield pa.concat_batches(pending)


class ParquetSource(LocalFiles):
    """The rows of parquet files in the order of the files, with all their columns.

    The columns include ThinkVG's five or those of a GEMeX table; the schema metadata is that of the
    first file, which says that the data is synthetic only if all files do.

    Raises:
        InputError: A file is not readable or lacks a column, or types of columns differ.
    """

    def __init__(self, files: list[Path]) -> None:
        super().__init__(files)
        schemas = []
        self.rows = 0
        for file in files:
            try:
                metadata = pq.read_metadata(file)
                schemas.append(plain_texts(pq.read_schema(file), str(file)))
            except (pa.ArrowInvalid, OSError) as error:
                first_line = str(error).splitlines()[0]
                raise InputError(f"{file} is not a readable parquet file: {first_line}") from None
            self.rows += metadata.num_rows
            check_columns(schemas[-1], str(file))
        try:
            joined = pa.unify_schemas(schemas, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InputError(f"the parquet files differ in their columns: {error}") from None
        metadata = {
            key: value
            for key, value in (schemas[0].metadata or {}).items()
            if self.synthetic or key not in SYNTHETIC
        }
        self.schema = joined.with_metadata(metadata or None)

    def batches(self, size: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        return rebatch(self._pieces(columns), size)

    def _pieces(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        schema = self.schema.remove_metadata()
        if columns is not None:
            schema = pa.schema([field for field in schema if field.name in columns])
        for path in self._paths:
            # By pages, not by row groups: a row group may hold a million rows.
            with pq.ParquetFile(path, buffer_size=READ_BUFFER, pre_buffer=False) as file:
                try:
                    for batch in file.iter_batches(READ_AHEAD, columns=columns):
                        yield conform(batch, schema)
                except (pa.ArrowInvalid, OSError) as error:
                    first_line = str(error).splitlines()[0]
                    raise InputError(f"{path} is damaged: {first_line}") from None


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the batch with the columns of `schema`, in its order; missing columns are null."""
    columns = [
        batch.column(field.name).cast(field.type)
        if field.name in batch.schema.names
        else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds text, in any of Arrow's layouts."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def plain_texts(schema: pa.Schema, name: str) -> pa.Schema:
    """Return the schema with texts in other layouts, and empty ThinkVG columns, as strings."""
    for index, field in enumerate(schema):
        if schema.names.index(field.name) != index:
            raise InputError(f"{name} has the column {field.name} twice: rename or drop one")
        is_plain = pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        is_empty = pa.types.is_null(field.type) and field.name in COLUMNS
        if is_empty or (is_text(field.type) and not is_plain):
            schema = schema.set(index, field.with_type(pa.string()))
    return schema


def check_columns(schema: pa.Schema, name: str) -> None:
    """Raise InputError if the columns are neither ThinkVG's nor GEMeX's."""
    if any(column in schema.names for column in GEMEX_COLUMNS):
        return
    missing = [column for column in COLUMNS if column not in schema.names]
    if missing:
        raise InputError(
            f"{name} lacks the column {', '.join(missing)}: it has {', '.join(schema.names)}"
        )
    for column in COLUMNS:
        kind = schema.field(column).type
        if not is_text(kind):
            raise InputError(f"{name}: the column {column} holds {kind}, not text")


class JsonSource(LocalFiles):
    """Rows of JSON files as their raw texts, in one column `row`.

    A text is parsed when its row is converted, so a faulty line only rejects its row. A list that
    is not JSON is an InputError, since its rows cannot be separated.
    """

    def __init__(self, files: list[Path]) -> None:
        super().__init__(files)
        self.schema = pa.schema([(RAW, pa.string())])
        self.rows = sum(1 for _ in self._texts())

    def batches(self, size: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        texts = self._texts()
        while batch := list(islice(texts, size)):
            yield pa.RecordBatch.from_arrays([pa.array(batch, pa.string())], schema=self.schema)

    def _texts(self) -> Iterator[str]:
        for path in self._paths:
            # Bytes that are not UTF-8 become the replacement character, which rejects their row.
            with path.open(encoding="utf-8", errors="replace") as file:
                beginning = file.read(1024).lstrip("\ufeff \t\r\n")
                file.seek(0)
                if beginning.startswith("["):
                    yield from list_items(file, str(path))
                else:
                    yield from (line.strip("\ufeff \t\r\n") for line in file if line.strip())


def list_items(file: TextIO, name: str, size: int = 1 << 20) -> Iterator[str]:
    """Yield the texts of the values of a JSON list, read by `size` characters or more at a time.

    Raises:
        InputError: The list is not JSON, is cut off, is not the only content, or holds a value of
            more than 64 million characters.
    """
    decoder = json.JSONDecoder()
    text = file.read(size).lstrip("\ufeff \t\r\n").removeprefix("[")
    position, count, is_end = 0, 0, False
    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        if position < len(text) and text[position] == "]":
            rest = text[position + 1 :].strip()
            while not rest and (more := file.read(size)):
                rest = more.strip()
            if rest:
                raise InputError(
                    f"{name} goes on after its list, with {rest[:20]!r}: write one list, or JSON "
                    "lines of one object each"
                )
            return
        try:
            _, stop = decoder.raw_decode(text, position)
            # A number that continues in the next piece would be read as a shorter one.
            is_complete = text[stop : stop + 1] in _AFTER_VALUE if stop < len(text) else is_end
        except (ValueError, RecursionError):
            is_complete = False
        if is_complete:
            yield text[position:stop]
            position = stop
            count += 1
            continue
        if is_end:
            raise InputError(
                f"{name} is no JSON list after its value number {count}, or is cut off: write "
                "JSON lines, of which faulty ones are rejected one by one"
            )
        rest = text[position:]
        if len(rest) > _LONGEST_VALUE:
            raise InputError(
                f"{name}: a value of more than {_LONGEST_VALUE} characters: write JSON lines"
            )
        # A long value is parsed again only after its text has doubled.
        more = file.read(max(size, len(rest)))
        text, position, is_end = rest + more, 0, not more


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
        self.synthetic = False
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
