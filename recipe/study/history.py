"""The part of docs/results.md that lists every run started, and from what it started."""

import datetime
from typing import Any

from recipe.evaluation.markdown import lines
from recipe.study.arms import ARMS
from recipe.study.numbers import Results

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


def rebuilt(results: Results) -> str:
    """The runs whose SFT is not the one that was answered with but was made again; "" for none.

    Stages note their seconds once, so two runs share a model where these are the same.
    """
    said = []
    for arm in ARMS:
        for seed, result in sorted(results.get(arm.name, {}).items()):
            stage = f"seed-{seed}-{arm.start}"
            alone = results.get(arm.start, {}).get(seed)
            if arm.sft and arm.reward and alone:
                ours, theirs = (run.get("wall_seconds", {}).get(stage) for run in (result, alone))
                if ours != theirs:
                    said.append(f"{arm.title} (seed {seed})")
    if not said:
        return ""
    return (
        "SFT comes out the same, bit for bit, when it is made again on the same machine, and may "
        "differ elsewhere. These runs start from an SFT that was made again, and not from the one "
        f"that stands in the tables: {'; '.join(said)}.\n"
    )


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
