"""What the model has written so far, a line for each row: what a stopped run goes on from."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from data_prep.errors import InputError

JOURNAL = ".journal.jsonl"


@dataclass(frozen=True)
class Outcome:
    """How a row ended: with a reasoning, or with a reject code and what was said last."""

    index: int
    reasoning: str = ""
    reason: str = ""
    detail: str = ""
    tries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Journal:
    """A file of outcomes; its first line tells what they were made from.

    A last line without an end, which a killed run leaves, is cut off.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """Open or begin the journal. InputError where it was made from something else."""
        self._path = folder / JOURNAL
        self._places: dict[int, int] = {}
        self.counts: Counter[str] = Counter()
        self.seconds = 0.0
        self._identity = json.dumps(identity, sort_keys=True)
        if self._path.is_file() and self._path.stat().st_size:
            self._read()
        self._file = self._path.open("a+b")
        if not self._file.tell():
            self._write({"made_from": self._identity})
        self._before, self._begin = self.seconds, time.monotonic()
        self._write({"session": round(self.seconds, 2)})

    def __contains__(self, index: int) -> bool:
        return index in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, outcome: Outcome) -> None:
        """Keep an outcome; it is on its way to the disk when this returns."""
        self.seconds = self._before + time.monotonic() - self._begin
        self._places[outcome.index] = self._file.seek(0, 2)
        self._count(outcome)
        self._write({**asdict(outcome), "at": round(self.seconds, 2)})

    def outcome(self, index: int) -> Outcome:
        """How a row ended. KeyError where it has not."""
        self._file.seek(self._places[index])
        line = json.loads(self._file.readline())
        line.pop("at")
        return Outcome(**line)

    def _read(self) -> None:
        place = 0
        with self._path.open("r+b") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    file.truncate(place)
                    break
                entry = self._parse(line, number)
                if "index" in entry:
                    self._places[entry["index"]] = place
                    self.seconds = max(self.seconds, entry.pop("at"))
                    self._count(Outcome(**entry))
                place += len(line)

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:
            raise InputError(f"{self._path} line {number + 1} is damaged: remove it") from None
        if number == 0 and entry.get("made_from") != self._identity:
            raise InputError(
                f"{self._path} was begun with {_difference(entry, self._identity)}: give the same "
                "options to go on, name another --out, or remove that file to start anew"
            )
        return entry

    def _count(self, outcome: Outcome) -> None:
        self.counts[outcome.reason or "kept"] += 1
        self.counts["tries"] += outcome.tries
        self.counts["prompt_tokens"] += outcome.prompt_tokens
        self.counts["completion_tokens"] += outcome.completion_tokens

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._file.seek(0, 2)
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()


def _difference(head: Mapping[str, Any], identity: str) -> str:
    try:
        then, now = json.loads(head["made_from"]), json.loads(identity)
    except (KeyError, TypeError, ValueError):
        return "something else"
    names = [name for name in now if then.get(name) != now[name]]
    return f"another {', '.join(names)}" if names else "something else"
