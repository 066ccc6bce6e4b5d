"""Reasoning for rows that have none: `python -m data_prep.synthesize`."""

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
        # Imports packages of the extra `judge`; `settings_from` has checked that they exist.
        from data_prep.synthesis.run import synthesize

        report = asyncio.run(synthesize(settings))
        for line in _summary(report):
            print(line)
        print(f"see {settings.out / 'synthesis.json'}")

    return run(work, options.out)


def _summary(report: Mapping[str, Any]) -> list[str]:
    rows, tokens = report["rows"], report["tokens"]
    reasons = ", ".join(f"{count} {code}" for code, count in report["rejects"].items())
    lines = [
        f"{rows['source']} rows: {rows['kept']} with reasoning, {rows['rejects']} rejects"
        + (f" ({reasons})" if reasons else "")
        + f", {rows['left_out']} left out",
        f"{report['replies']} replies by {report['model']} in {report['seconds']:g} s: "
        f"{tokens['read']} tokens read, {tokens['written']} written"
        + (f", {report['rows_per_hour']:g} rows an hour" if "rows_per_hour" in report else ""),
    ]
    if "cost" in report:
        lines.append(f"cost: {report['cost']:g}, {report['cost_per_kept_row']} for each row kept")
    return lines


if __name__ == "__main__":
    sys.exit(main())
