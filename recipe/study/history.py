"""The part of docs/results.md that lists every run started."""

import datetime
from typing import Any

from recipe.evaluation.markdown import lines

NO_END = "no end noted"
CHANGED = " with local changes"


def history(manifest: list[dict[str, Any]]) -> str:
    """A line for each run started, with how it ended, and the sums."""
    runs = [
        (entry, _end(manifest, place)) for place, entry in enumerate(manifest) if _starts(entry)
    ]
    done = [_run(start) for start, end in runs if end and end["event"] == "done"]
    failed = sum(end is not None and end["event"] == "failed" for _, end in runs)
    said = (
        f"{len(runs)} started: {len(done)} done, {failed} failed, "
        f"{len(runs) - len(done) - failed} without an end noted (killed, or still running)."
    )
    if again := len(done) - len(set(done)):
        said += f" Done again: {again}; the result file is of the last."
    rows = [
        [
            start["time"].replace("+00:00", ""),
            start["arm"],
            str(start["seed"]),
            start["commit"].removesuffix(CHANGED)[:12],
            "yes" if start["commit"].endswith(CHANGED) else "",
            _ended(start, end),
        ]
        for start, end in runs
    ]
    head = ["started, UTC", "arm", "seed", "commit", "local changes", "end"]
    return f"{said}\n\n" + lines(head, rows)


def _run(entry: dict[str, Any]) -> tuple[str, int, str]:
    return entry["arm"], entry["seed"], str(entry["size"])


def _starts(entry: dict[str, Any]) -> bool:
    return bool(entry["event"] == "started")


def _end(manifest: list[dict[str, Any]], place: int) -> dict[str, Any] | None:
    """The end of the run that starts at a place of the manifest; None where none was noted."""
    start = manifest[place]
    for entry in manifest[place + 1 :]:
        if _run(entry) == _run(start):
            return None if _starts(entry) else entry
    return None


def _ended(start: dict[str, Any], end: dict[str, Any] | None) -> str:
    if end is None:
        return NO_END
    times = [datetime.datetime.fromisoformat(entry["time"]) for entry in (start, end)]
    minutes = (times[1] - times[0]).total_seconds() / 60
    why = f" ({end['why']})" if "why" in end else ""
    return f"{end['event']}{why} after {minutes:.1f} min"
