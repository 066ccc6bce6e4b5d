"""Score responses offline: `python -m reward --preset NAME --input F.jsonl --output F.jsonl`.

Reads lines `{"id", "response", "ground_truth", optional "extra_info"}` and writes
`{"id", …components}`, in order, one for one. A line's `sample`, which tells several responses to a
question apart, is repeated too. A judged preset asks for as many responses at a time as its
settings allow.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from reward.judge.settings import JudgeFailing, check_ready
from reward.offline import score_file
from reward.settings import is_judged, load_preset, preset_names


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


if __name__ == "__main__":
    sys.exit(main())
