"""Score responses offline: `python -m reward --preset NAME --input F.jsonl --output F.jsonl`.

Reads lines `{"id", "response", "ground_truth", optional "extra_info"}` and writes
`{"id", …components}`, in order, one for one. A line's `sample`, which tells several responses to a
question apart, is repeated too. A judged preset asks for as many responses at a time as its
settings allow.
"""

import argparse
import asyncio
import json
import os
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import yaml
from tqdm import tqdm

from reward.judge.settings import JudgeFailing, check_ready
from reward.settings import is_judged, load_preset, preset_names
from reward.thinkvg import Item, compute_score, score_many

IDENTITY = ("id", "sample")
"""Keys of an input line that its output line repeats, the second if it is there."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_preset(options.preset, _judge_settings(options.judge))
        if is_judged(settings):
            check_ready(settings["judge"])
        counts = score_file(options.input, options.output, settings)
    except (OSError, ValueError, JudgeFailing) as error:
        print(f"reward: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    summary = f"{counts['lines']} responses scored with {options.preset}: {options.output}"
    if is_judged(settings):
        summary += f"; {counts['judge_used']} judged, the judge failed for {counts['judge_failed']}"
    print(summary, file=sys.stderr)
    return 0


def _judge_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE pairs, the values as YAML."""
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--judge {pair}: write KEY=VALUE")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(f"--judge {pair}: the value is not YAML") from None
    return settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m reward",
        description="Score responses offline, in order, one line for one line.",
    )
    parser.add_argument(
        "--preset", required=True, metavar="NAME", help=f"one of: {', '.join(preset_names())}"
    )
    for option, content in (
        ("--input", "lines with id, response, ground_truth and optionally extra_info"),
        ("--output", "lines with id and every component; replaced if it exists"),
    ):
        parser.add_argument(option, required=True, type=Path, metavar="FILE.jsonl", help=content)
    parser.add_argument(
        "--judge",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of a judged preset, such as base_url=http://127.0.0.1:8000/v1; may be "
        "given several times",
    )
    return parser


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
        await asyncio.sleep(0)  # without a pause, Ctrl-C would wait for the end of the file
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


if __name__ == "__main__":
    sys.exit(main())
