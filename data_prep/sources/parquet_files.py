"""Rows from parquet files, streamed a row group at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import InputError
from data_prep.sources.base import COLUMNS, GEMEX_COLUMNS, LocalFiles, rebatch

READ_AHEAD = 4096  # rows decoded at a time
READ_BUFFER = 1 << 20  # bytes of a column read at a time


class ParquetSource(LocalFiles):
    """The rows of parquet files in the order of the files, with every column they have.

    The columns are ThinkVG's five, or those of a GEMeX table; the schema metadata is the first
    file's. Raises InputError for a file that does not read or lacks a column.
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
                first = str(error).splitlines()[0]
                raise InputError(f"{file} is not a readable parquet file: {first}") from None
            self.rows += metadata.num_rows
            check_columns(schemas[-1], str(file))
        try:
            joined = pa.unify_schemas(schemas, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InputError(f"the parquet files differ in their columns: {error}") from None
        self.schema = joined.with_metadata(schemas[0].metadata)

    def batches(self, size: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        return rebatch(self._pieces(columns), size)

    def _pieces(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        plain = self.schema.remove_metadata()
        if columns is not None:
            plain = pa.schema([field for field in plain if field.name in columns])
        for path in self._paths:
            # By pages, not by row groups: those of one file may hold a million rows.
            with pq.ParquetFile(path, buffer_size=READ_BUFFER, pre_buffer=False) as file:
                try:
                    for batch in file.iter_batches(READ_AHEAD, columns=columns):
                        yield conform(batch, plain)
                except (pa.ArrowInvalid, OSError) as error:
                    first = str(error).splitlines()[0]
                    raise InputError(f"{path} is damaged: {first}") from None


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with the columns of `schema`, in its order; a column it lacks is null."""
    columns = [
        batch.column(field.name).cast(field.type)
        if field.name in batch.schema.names
        else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text, in whatever way it keeps it."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def plain_texts(schema: pa.Schema, name: str) -> pa.Schema:
    """The schema with dictionaries and views of text, and empty columns of ThinkVG, as plain text.

    Raises InputError where two columns have the same name.
    """
    for place, field in enumerate(schema):
        if schema.names.index(field.name) != place:
            raise InputError(f"{name} has the column {field.name} twice: rename or drop one")
        is_plain = pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        is_empty = pa.types.is_null(field.type) and field.name in COLUMNS
        if is_empty or (is_text(field.type) and not is_plain):
            schema = schema.set(place, field.with_type(pa.string()))
    return schema


def check_columns(schema: pa.Schema, name: str) -> None:
    """Raises InputError where the columns are neither ThinkVG's nor GEMeX's."""
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
