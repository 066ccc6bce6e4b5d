"""Command line of the synthesis: `python -m data_prep.synthesize`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

from data_prep.program import run
from data_prep.synthesis.settings import build_parser, settings_from


def main(argv: list[str] | None = None) -> int:
    options = build_parser().parse_args(argv)

    def work() -> None:
        settings = settings_from(options)
        # After the check that the packages of the extra `judge` are there.
        from data_prep.synthesis.session import synthesize

        found = asyncio.run(synthesize(settings))
        for line in _summary(found):
            print(line)
        print(f"see {settings.out / 'synthesis.json'}")

    return run(work, options.out)


def _summary(found: Mapping[str, Any]) -> list[str]:
    rows, tokens = found["rows"], found["tokens"]
    reasons = ", ".join(f"{count} {code}" for code, count in found["rejects"].items())
    lines = [
        f"{rows['source']} rows: {rows['kept']} with reasoning, {rows['rejects']} rejects"
        + (f" ({reasons})" if reasons else "")
        + f", {rows['left_out']} left out",
        f"{found['replies']} replies by {found['model']} in {found['seconds']:g} s: "
        f"{tokens['read']} tokens read, {tokens['written']} written"
        + (f", {found['rows_per_hour']:g} rows an hour" if "rows_per_hour" in found else ""),
    ]
    if "cost" in found:
        lines.append(f"cost: {found['cost']:g}, {found['cost_per_kept_row']} for each row kept")
    return lines


if __name__ == "__main__":
    sys.exit(main())
