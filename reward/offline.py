"""Files of responses: lines of JSON in, lines of scores out, in order, one for one."""

import asyncio
import json
import os
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from reward.presets import is_judged
from reward.thinkvg import compute_score

IDENTITY = ("id", "sample")
"""Keys of an input line that its output line repeats, the second where it is there."""


def score_file(source: Path, target: Path, settings: dict[str, Any]) -> Counter[str]:
    """Score a file of responses; the output appears when it is whole.

    Returns the number of `lines`, and of those with `judge_used` and `judge_failed`. Raises
    ValueError naming file and line where a line is malformed, OSError for the files.
    """
    if source.is_dir():
        raise ValueError(f"--input {source} is a folder: name a file in it")
    if not source.is_file():
        raise ValueError(f"--input {source}: no such file")
    if not target.parent.is_dir():
        raise ValueError(f"--output {target}: the folder {target.parent} does not exist")
    if target.is_dir():
        raise ValueError(f"--output {target} is a folder: name a file in it")
    if target.exists() and target.samefile(source):
        raise ValueError(f"--output {target} is the input: name another file")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as out:
            if is_judged(settings):
                counts = asyncio.run(_judge_lines(source, out, settings))
            else:
                counts = _score_lines(source, out, settings)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return counts


def _score_lines(source: Path, out: TextIO, settings: dict[str, Any]) -> Counter[str]:
    counts: Counter[str] = Counter()
    size = source.stat().st_size
    with tqdm(total=size, unit="B", unit_scale=True, desc="score", delay=2) as progress:
        for number, line in _lines(source):
            row = _row(line, f"{source}, line {number}")
            try:
                scores = compute_score(
                    "thinkvg",
                    row["response"],
                    row["ground_truth"],
                    row.get("extra_info"),
                    **settings,
                )
            except ValueError as error:
                raise ValueError(f"{source}, line {number}: {error}") from None
            out.write(json.dumps(_identity(row) | scores) + "\n")
            progress.update(len(line))
            counts["lines"] += 1
    return counts


async def _judge_lines(source: Path, out: TextIO, settings: dict[str, Any]) -> Counter[str]:
    """As `_score_lines`, with many lines at a time under way."""
    from reward.judge.many import Item, score_many  # needs the extra `judge`

    under_way: deque[tuple[dict[str, Any], int]] = deque()

    def items() -> Iterator[Item]:
        for number, line in _lines(source):
            row = _row(line, f"{source}, line {number}")
            under_way.append((_identity(row), len(line)))
            yield Item(row["response"], row["ground_truth"], row.get("extra_info"))

    counts: Counter[str] = Counter()
    size = source.stat().st_size
    with tqdm(total=size, unit="B", unit_scale=True, desc="judge", delay=2) as progress:
        try:
            async for scores in score_many(items(), settings):
                identity, length = under_way.popleft()
                out.write(json.dumps(identity | scores) + "\n")
                progress.update(length)
                counts["lines"] += 1
                counts.update({key: int(scores[key]) for key in ("judge_used", "judge_failed")})
        except ValueError as error:
            where = (
                ""
                if str(error).startswith(str(source))
                else f"{source}, line {counts['lines'] + 1}: "
            )
            raise ValueError(f"{where}{error}") from None
    return counts


def _identity(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in IDENTITY if key in row}


def _lines(source: Path) -> Iterator[tuple[int, bytes]]:
    with source.open("rb") as lines:
        yield from enumerate(lines, start=1)


def _row(line: bytes, where: str) -> dict[str, Any]:
    if not line.strip():
        raise ValueError(f"{where} is empty: take it out, since lines go in and out one for one")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not a JSON object: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where} is not a JSON object")
    for key in ("id", "response", "ground_truth"):
        if key not in row:
            raise ValueError(f"{where} has no {key!r}")
    if not isinstance(row["response"], str):
        raise ValueError(f"{where}: 'response' is not a text")
    if not isinstance(row["ground_truth"], str | dict):
        raise ValueError(f"{where}: 'ground_truth' is neither an object nor a JSON string")
    return row
