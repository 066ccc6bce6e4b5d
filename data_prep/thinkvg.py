"""Command line of the preparation: `python -m data_prep.thinkvg`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import data_prep.allocator  # noqa: F401, first of all
from data_prep.arrow_alone import leave_pandas_out
from data_prep.pictures import MISSING, download_command
from data_prep.pipeline import prepare
from data_prep.program import run
from data_prep.settings import Settings, build_parser, settings_from
from data_prep.splits import SPLITS

# Of a set in the frame that is named, hardly any box lies outside; so many rows are pointed out.
MOST_OUTSIDE = 0.01


def main(argv: list[str] | None = None) -> int:
    options = build_parser().parse_args(argv)

    def work() -> None:
        settings = settings_from(options)
        audit = prepare(settings)
        _summarise(audit)
        for line in remarks(settings, audit):
            print(line, file=sys.stderr)
        print(f"see {settings.out / 'audit.html'}")

    return run(work, options.out)


def _summarise(audit: Mapping[str, Any]) -> None:
    rows = audit["rows"]
    counts = ", ".join(f"{rows[name]} {name}" for name in ("train", "val", "test", "rejects"))
    sizes = ", ".join(f"{size} ({count})" for size, count in list(audit["image_sizes"].items())[:3])
    print(f"{rows['source']} rows: {counts}, {rows['left_out']} left out. Model sizes: {sizes}")
    if audit["rejects"]:
        reasons = ", ".join(f"{count} {code}" for code, count in audit["rejects"].items())
        print(f"rejected: {reasons}; see rejects.parquet")
    print(f"frame: {audit['parameters']['frame_evidence']}")


def remarks(settings: Settings, audit: Mapping[str, Any]) -> list[str]:
    """What a user should know before training, a line each."""
    lines = list(audit["doubts"])
    read = audit["rows"]["source"] - audit["rows"]["left_out"]
    if (outside := audit["rejects"].get("box_outside", 0)) > MOST_OUTSIDE * read:
        lines.append(
            f"{outside} of {read} rows have boxes outside of the frame: check --frame "
            f"{settings.frame} and --fit {settings.fit}"
        )
    accepted = sum(audit["rows"][split] for split in SPLITS)
    if count := audit["rows_without_boxes"]:
        lines.append(f"{count} of {accepted} rows ({count / accepted:.1%}) want no box")
    if not audit["rows"]["train"] and audit["files"]:
        lines.append("train.parquet is empty: all patients are in the other splits")
    for split in ("val", "test"):
        if getattr(settings, split) > 0 and not audit["rows"][split]:
            lines.append(
                f"{split}.parquet is empty: too few patients for --{split} "
                f"{getattr(settings, split):g}; three or more are needed"
            )
    if small := audit["images_below_min_pixels"]:
        lines.append(
            f"{small} images come out below --min-pixels {settings.min_pixels}, because sides are "
            f"rounded down from --max-pixels {settings.max_pixels}: raise it"
        )
    if count := audit["missing_images_listed"]:
        listed = settings.out / MISSING
        lines.append(
            f"{count} images are missing, listed in {listed}; fetch them with: "
            f"{download_command(listed, settings.images)}"
        )
    if repeats := audit["repeats"]["other_answers"]:
        lines.append(f"{repeats} questions are asked again about an image with another answer")
    return lines


if __name__ == "__main__":
    if not any("hub:" in argument for argument in sys.argv):  # `datasets` may want it
        leave_pandas_out()
    sys.exit(main())
