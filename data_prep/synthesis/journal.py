"""The journal of a synthesis: the outcome of every row that is done."""

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.program import InputError

JOURNAL = ".journal.jsonl"


@dataclass(frozen=True)
class Outcome:
    """The result of a row: a reasoning, or a reject code with the last reply."""

    index: int
    reasoning: str = ""
    reason: str = ""
    detail: str = ""
    tries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Journal:
    """A file of outcomes, whose first line says what they were made from.

    An incomplete last line, from a killed run, is cut off.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """Open or create the journal of a folder; refuse one that was made from something else."""
        self._path = folder / JOURNAL
        self._offsets: dict[int, int] = {}  # of lines in the file, by source index
        self.counts: Counter[str] = Counter()
        self.seconds = 0.0
        self._identity = json.dumps(identity, sort_keys=True)
        if self._path.is_file() and self._path.stat().st_size:
            self._read()
        self._file = self._path.open("a+b")
        if not self._file.tell():
            self._write({"made_from": self._identity})
        self._earlier_seconds, self._start = self.seconds, time.monotonic()
        self._write({"session": round(self.seconds, 2)})

    def __contains__(self, index: int) -> bool:
        return index in self._offsets

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def end(self) -> int:
        """The number of source rows up to the last one that is done."""
        return max(self._offsets, default=-1) + 1

    def close(self) -> None:
        self._file.close()

    def add(self, outcome: Outcome) -> None:
        self.seconds = self._earlier_seconds + time.monotonic() - self._start
        self._offsets[outcome.index] = self._file.seek(0, 2)
        self._count(outcome)
        self._write({**asdict(outcome), "at": round(self.seconds, 2)})

    def outcome(self, index: int) -> Outcome:
        """Return the outcome of a row; raise InputError if its line is no longer where it was."""
        self._file.seek(self._offsets[index])
        line = self._file.readline()
        try:
            entry = json.loads(line)
        except ValueError:
            entry = {}
        if entry.get("index") != index:
            raise InputError(
                f"{self._path} was changed while it was in use, row {index} is not where it was: "
                "run the same command to resume"
            )
        entry.pop("at")
        return Outcome(**entry)

    def _read(self) -> None:
        offset = 0
        with self._path.open("r+b") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    file.truncate(offset)
                    break
                entry = self._parse(line, number)
                if "index" in entry:
                    self._offsets[entry["index"]] = offset
                    self.seconds = max(self.seconds, entry.pop("at"))
                    self._count(Outcome(**entry))
                offset += len(line)

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:
            raise InputError(f"{self._path} line {number + 1} is damaged: remove it") from None
        if number == 0 and entry.get("made_from") != self._identity:
            raise InputError(
                f"{self._path} was begun with {_difference(entry, self._identity)}: give the same "
                "options to resume, name another --out, or remove that file to start again"
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


def _difference(first_line: Mapping[str, Any], identity: str) -> str:
    """Name what differs between a journal's first line and this run."""
    try:
        earlier, now = json.loads(first_line["made_from"]), json.loads(identity)
    except (KeyError, TypeError, ValueError):
        return "something else"
    names = [name for name in now if earlier.get(name) != now[name]]
    return f"another {', '.join(names)}" if names else "something else"
