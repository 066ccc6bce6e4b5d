"""Files of responses: lines of JSON in, lines of scores out, in order, one for one."""

import asyncio
import json
import os
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from reward.judge.settings import FailureWatch, JudgeFailing, check_ready
from reward.settings import is_judged
from reward.thinkvg import compute_score, compute_score_judged

BLOCK = 256
"""Responses that count as one step of `judge.failed_window`."""

IDENTITY = ("id", "sample")
"""Keys of an input line that its output line repeats, the second if it is there."""


@dataclass(frozen=True)
class Item:
    """A response to score, as `compute_score` takes it."""

    response: str
    ground_truth: str | Mapping[str, Any]
    extra_info: Mapping[str, Any] | None = None


async def score_many(
    items: Iterable[Item], kwargs: Mapping[str, Any], data_source: str = "thinkvg"
) -> AsyncIterator[dict[str, float]]:
    """Yield the judged result of each item, in order.

    Items are read when they are needed: at most twice `judge.max_concurrency` ahead of the results.

    Raises:
        ValueError: a setting is wrong, or the item next in order.
        JudgeFailing: the judge fails too often, in some consecutive items or in all of them.
    """
    settings = check_ready(kwargs["judge"])
    from reward.judge.judge import close_judges  # needs the extra `judge`

    tally = _Tally(FailureWatch(settings))
    waiting: deque[asyncio.Task[dict[str, float]]] = deque()
    try:
        for item in items:
            scoring = compute_score_judged(
                data_source, item.response, item.ground_truth, item.extra_info, **kwargs
            )
            waiting.append(asyncio.create_task(scoring))
            if len(waiting) >= 2 * settings.max_concurrency:
                yield tally.count(await waiting.popleft())
        while waiting:
            yield tally.count(await waiting.popleft())
        tally.end_block(at_end=True)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await close_judges()


class _Tally:
    """Counts results in blocks, and raises JudgeFailing if too many of them failed."""

    def __init__(self, watch: FailureWatch) -> None:
        self._watch = watch
        self._asked = self._failed = 0

    def count(self, scores: dict[str, float]) -> dict[str, float]:
        self._asked += int(scores["judge_used"] + scores["judge_failed"])
        self._failed += int(scores["judge_failed"])
        if self._asked >= BLOCK:
            self.end_block()
        return scores

    def end_block(self, at_end: bool = False) -> None:
        self._watch.add(self._asked, self._failed)
        self._asked = self._failed = 0
        fault = self._watch.fault(at_end)
        if fault:
            raise JudgeFailing(fault)


def score_file(source: Path, target: Path, settings: dict[str, Any]) -> Counter[str]:
    """Score a file of responses with a preset's `reward_kwargs`; write the output when it is whole.

    Returns:
        The number of `lines`, and of those with `judge_used` and `judge_failed`.

    Raises:
        ValueError: a line is malformed, named by file and number; or a path is wrong.
        OSError: a file cannot be read or written.
        JudgeFailing: the judge fails too often.
    """
    _check_paths(source, target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as out:
            counts = asyncio.run(_score_lines(source, out, settings))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return counts


def _check_paths(source: Path, target: Path) -> None:
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


async def _score_lines(source: Path, out: TextIO, settings: dict[str, Any]) -> Counter[str]:
    """Score line by line; with a judge, many lines at a time are in progress."""
    pending: deque[tuple[dict[str, Any], int]] = deque()

    def items() -> Iterator[Item]:
        with source.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                row = _read_row(line, f"{source}, line {number}")
                pending.append(({key: row[key] for key in IDENTITY if key in row}, len(line)))
                yield Item(row["response"], row["ground_truth"], row.get("extra_info"))

    title, score = ("judge", score_many) if is_judged(settings) else ("score", _score_by_rules)
    counts: Counter[str] = Counter()
    size = source.stat().st_size
    with tqdm(total=size, unit="B", unit_scale=True, desc=title, delay=2) as progress:
        try:
            async for scores in score(items(), settings):
                identity, length = pending.popleft()
                out.write(json.dumps(identity | scores) + "\n")
                progress.update(length)
                counts["lines"] += 1
                counts.update({key: int(scores[key]) for key in ("judge_used", "judge_failed")})
        except ValueError as error:
            if str(error).startswith(str(source)):
                raise
            raise ValueError(f"{source}, line {counts['lines'] + 1}: {error}") from None
    return counts


async def _score_by_rules(
    items: Iterable[Item], kwargs: Mapping[str, Any]
) -> AsyncIterator[dict[str, float]]:
    for item in items:
        yield compute_score("thinkvg", item.response, item.ground_truth, item.extra_info, **kwargs)


def _read_row(line: bytes, where: str) -> dict[str, Any]:
    """Read an input line; `where` names it in the message of a ValueError."""
    if not line.strip():
        raise ValueError(f"{where} is empty: remove it, since each line in gives one line out")
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
    if not isinstance(row.get("extra_info"), dict | None):
        raise ValueError(f"{where}: 'extra_info' is not an object")
    return row
