"""Score responses offline: `python -m reward --preset NAME --input F.jsonl --output F.jsonl`.

Reads lines `{"id", "response", "ground_truth", optional "extra_info"}` and writes
`{"id", …components}`, in order, one for one. A judged preset asks as many responses at a time as
its settings allow.
"""

import argparse
import asyncio
import json
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import yaml
from tqdm import tqdm

from reward.judge.failures import JudgeFailing
from reward.judge.ready import check_ready
from reward.presets import is_judged, load_preset, preset_names
from reward.thinkvg import compute_score


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_preset(options.preset, _judge_settings(options.judge))
        if is_judged(settings):
            check_ready(settings["judge"])
        count = score_file(options.input, options.output, settings)
    except (OSError, ValueError, JudgeFailing) as error:
        print(f"reward: {_one_line(error)}", file=sys.stderr)
        return 2
    print(f"{count} responses scored with {options.preset}: {options.output}", file=sys.stderr)
    return 0


def score_file(source: Path, target: Path, settings: dict[str, Any]) -> int:
    """Score a file of responses; the output appears when it is whole. Returns the line count.

    Raises ValueError naming file and line where a line is malformed, OSError for the files.
    """
    if not source.is_file():
        raise ValueError(f"--input {source}: no such file")
    if not target.parent.is_dir():
        raise ValueError(f"--output {target}: the folder {target.parent} does not exist")
    if target.exists() and target.samefile(source):
        raise ValueError(f"--output {target} is the input: name another file")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as out:
            if is_judged(settings):
                count = asyncio.run(_judge_lines(source, out, settings))
            else:
                count = _score_lines(source, out, settings)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _score_lines(source: Path, out: TextIO, settings: dict[str, Any]) -> int:
    count = 0
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
            out.write(json.dumps({"id": row["id"], **scores}) + "\n")
            progress.update(len(line))
            count += 1
    return count


async def _judge_lines(source: Path, out: TextIO, settings: dict[str, Any]) -> int:
    """As `_score_lines`, with many lines at a time under way."""
    from reward.judge.many import Item, score_many  # needs the extra `judge`

    ids: deque[tuple[Any, int]] = deque()

    def items() -> Iterator[Item]:
        for number, line in _lines(source):
            row = _row(line, f"{source}, line {number}")
            ids.append((row["id"], len(line)))
            yield Item(row["response"], row["ground_truth"], row.get("extra_info"))

    count = 0
    size = source.stat().st_size
    with tqdm(total=size, unit="B", unit_scale=True, desc="judge", delay=2) as progress:
        try:
            async for scores in score_many(items(), settings):
                identity, length = ids.popleft()
                out.write(json.dumps({"id": identity, **scores}) + "\n")
                progress.update(length)
                count += 1
        except ValueError as error:
            where = "" if str(error).startswith(str(source)) else f"{source}, line {count + 1}: "
            raise ValueError(f"{where}{error}") from None
    return count


def _lines(source: Path) -> Iterator[tuple[int, bytes]]:
    with source.open("rb") as lines:
        yield from enumerate(lines, start=1)


def _row(line: bytes, where: str) -> dict[str, Any]:
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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m reward",
        description="Score responses offline, in order, one line for one line.",
    )
    parser.add_argument(
        "--preset", required=True, metavar="NAME", help=f"one of: {', '.join(preset_names())}"
    )
    parser.add_argument(
        "--input",
        required=True,
        type=Path,
        metavar="FILE.jsonl",
        help="lines with id, response, ground_truth and optionally extra_info",
    )
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="FILE.jsonl",
        help="lines with id and every component; replaced if it exists",
    )
    parser.add_argument(
        "--judge",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of a judged preset, such as base_url=http://127.0.0.1:8000/v1; may be "
        "given several times",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
