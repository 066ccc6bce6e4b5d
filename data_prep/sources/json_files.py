"""Rows from JSON lines, or from JSON files that hold one list of objects."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from data_prep.errors import InputError
from data_prep.sources.base import RAW, LocalFiles

_CHUNK = 1 << 20  # characters read at a time
_AFTER_VALUE = tuple(" \t\r\n,]")
_MARGIN = 1 << 26  # the longest row taken


class JsonSource(LocalFiles):
    """Rows of JSON files as their raw texts, in one column `row`.

    Each line is read where rows are converted, so one at fault is rejected by itself. A list that
    is no JSON is a fault of its file (InputError), since nothing tells where its rows begin.
    """

    schema = pa.schema([(RAW, pa.string())])

    def __init__(self, files: list[Path]) -> None:
        super().__init__(files)

    @cached_property
    def rows(self) -> int:
        return sum(1 for _ in self._texts())

    def batches(self, size: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        held: list[str] = []
        for text in self._texts():
            held.append(text)
            if len(held) == size:
                yield self._batch(held)
                held = []
        if held:
            yield self._batch(held)

    def _batch(self, texts: list[str]) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays([pa.array(texts, pa.string())], schema=self.schema)

    def _texts(self) -> Iterator[str]:
        for path in self._paths:
            # A byte that is no UTF-8 becomes the replacement character, for which its row, and no
            # other, is rejected.
            with path.open(encoding="utf-8", errors="replace") as file:
                beginning = file.read(1024).lstrip("\ufeff \t\r\n")
                file.seek(0)
                if beginning.startswith("["):
                    yield from list_items(_chunks(file), str(path))
                else:
                    yield from (line.strip("\ufeff \t\r\n") for line in file if line.strip())


def _chunks(file: object) -> Iterator[str]:
    while chunk := file.read(_CHUNK):  # type: ignore[attr-defined]
        yield chunk


def list_items(chunks: Iterator[str], name: str) -> Iterator[str]:
    """The texts of the values in a JSON list that arrives in pieces.

    Raises InputError where the list is no JSON, is cut off, is followed by anything, or holds a
    value of more than 64 million characters.
    """
    decoder = json.JSONDecoder()
    text = next(chunks, "").lstrip("\ufeff \t\r\n").removeprefix("[")
    place, found, is_end = 0, 0, False
    while True:
        while place < len(text) and text[place] in " \t\r\n,":
            place += 1
        if place < len(text) and text[place] == "]":
            _refuse_more(text[place + 1 :], chunks, name)
            return
        try:
            _, stop = decoder.raw_decode(text, place)
            # A number that goes on in the next piece may read as a shorter one.
            is_whole = text[stop : stop + 1] in _AFTER_VALUE if stop < len(text) else is_end
        except (ValueError, RecursionError):
            is_whole = False
        if is_whole:
            yield text[place:stop]
            place = stop
            found += 1
            continue
        if is_end:
            raise InputError(
                f"{name} is no JSON list after its value number {found}, or is cut off: write JSON "
                "lines, of which faulty ones are rejected one by one"
            )
        if len(text) - place > _MARGIN:
            raise InputError(f"{name}: a value of more than {_MARGIN} characters: write JSON lines")
        more = next(chunks, None)
        # Twice as much each time, so that one long value is not read again for every piece.
        while more is not None and len(more) < len(text) - place:
            another = next(chunks, None)
            if another is None:
                break
            more += another
        is_end = more is None
        text, place = text[place:] + (more or ""), 0


def _refuse_more(text: str, chunks: Iterator[str], name: str) -> None:
    """Raises InputError where something stands behind the list."""
    while not text.strip():
        following = next(chunks, None)
        if following is None:
            return
        text = following
    raise InputError(
        f"{name} goes on after its list, with {text.strip()[:20]!r}: write one list, or JSON lines "
        "of one object each"
    )
