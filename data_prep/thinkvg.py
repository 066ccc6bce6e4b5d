"""Command line of the preparation: `python -m data_prep.thinkvg`."""

import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from data_prep.pictures import MISSING, copy_command, download_command
from data_prep.pipeline import prepare
from data_prep.program import ignore_interrupts, run
from data_prep.settings import Settings, build_parser, settings_from
from data_prep.splits import SPLITS

# In the right frame hardly any box lies outside; above this share of rows the user is warned.
MOST_OUTSIDE = 0.01
STOPPED = "stopped; the same command starts from the first row"


def main(argv: list[str] | None = None) -> int:
    options = build_parser().parse_args(argv)

    def work() -> None:
        settings = settings_from(options)
        audit = prepare(settings)
        _summarise(audit)
        for line in remarks(settings, audit):
            print(line, file=sys.stderr)
        print(f"see {settings.out / 'audit.html'}")

    return run(work, options.out, stopped=STOPPED)


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
    """Return what a user should know before training, one line for each remark."""
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
    lines += _remarks_on_images(settings, audit)
    if line := _beyond_one_image(settings, audit, accepted):
        lines.append(line)
    if repeats := audit["repeats"]["other_answers"]:
        lines.append(f"{repeats} questions are asked again about an image with another answer")
    return lines


def _remarks_on_images(settings: Settings, audit: Mapping[str, Any]) -> list[str]:
    lines = []
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
    if count := audit["images_deeper_than_8_bits"]:
        lines.append(
            f"{count} images have more than 8 bits a channel, which training would cut off: make "
            f"8-bit copies and name their folder as --images: {copy_command(settings.images)}"
        )
    return lines


def _beyond_one_image(settings: Settings, audit: Mapping[str, Any], accepted: int) -> str:
    """Say how many of the accepted rows one image cannot answer; empty if there are none."""
    verbs = {"compares": "compare with an earlier examination", "hedges": "hedge between answers"}
    parts = [
        f"{count} {verb}"
        for code, verb in verbs.items()
        if code not in settings.leave_out
        and (count := sum(audit["beyond_one_image"][code].values()))
    ]
    if not parts:
        return ""
    return (
        f"one image cannot give every answer: of {accepted}, {' and '.join(parts)}; "
        f"--leave-out {','.join(verbs)} leaves them out"
    )


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent of this forked process, and end when the parent is killed.

    Otherwise each worker of `datasets` would print a traceback, and wait forever.
    """
    ignore_interrupts()
    if sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


if __name__ == "__main__":
    os.register_at_fork(after_in_child=_follow_parent)
    sys.exit(main())
