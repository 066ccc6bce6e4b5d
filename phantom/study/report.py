"""docs/results.md, made only from the result files and the manifest."""

import datetime
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jinja2

from data_prep.program import write_whole
from phantom.study import tables
from phantom.study.plan import ARMS, NO_REASONING, SEEDS, share_title
from phantom.study.results import (
    CLAIM_MARGIN,
    FEWEST_SEEDS,
    Results,
    all_seeds,
    arm_estimate,
    difference,
    direction,
    read_budget,
    read_manifest,
    read_results,
    seed_differences,
    student_t,
    verdict,
)
from phantom.study.tables import CLAIM_METRICS, METRICS, few_seeds, flagged
from recipe.evaluate.metrics import Estimate
from recipe.evaluate.tables import estimate, markdown_table
from reward.ground_truth import QUESTION_TYPES

NO_END = "no end noted"
CHANGED = " with local changes"


def write_report(results_folder: Path, path: Path) -> None:
    """Write the page, and the plots into the same folder."""
    results = read_results(results_folder)
    any_result = next(iter(next(iter(results.values())).values()))
    budget = read_budget(results_folder, any_result["size"])
    arms = {"paper-full": "paper", "dense-full": "dense"}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("phantom.study"),
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template("results.md.j2").render(
        size=any_result["size"],
        questions=len(any_result["questions"]["id"]),
        patients=len(set(any_result["questions"]["patient"])),
        seeds=list(map(str, all_seeds(results))),
        results=results,
        tables=tables,
        missing=missing(results),
        summary=list(summary(results)),
        rebuilt=rebuilt(results),
        margin=CLAIM_MARGIN,
        budget=budget,
        sft_loss=tables.loss(results),
        half_width=tables.half_width(results),
        has_fractions_plot=tables.fractions_plot(results, path.with_name("results-fractions.svg")),
        has_curves_plot=tables.curves_plot(results, arms, path.with_name("results-curves.svg")),
        history=history(read_manifest(results_folder)),
    )
    write_whole(path, text)


def summary(results: Results) -> Iterator[str]:
    """Yield a list item for each question of the study whose arms have been run."""
    for fraction in ("1of8", "1of16"):
        yield from _claim_items(results, fraction)
    if gain := _compared(results, "sft-full", f"sft-{NO_REASONING}", CLAIM_METRICS, direction):
        yield f"What reasoning brings, SFT less SFT without it: {gain}"
    for arm, reference, title in (
        ("dense-full", "sft-full", "What GRPO with `dense` adds to SFT on all data"),
        (
            "paper-full",
            "sft-full",
            "What GRPO with `paper`, the published reward, adds to SFT on all data",
        ),
        ("paper-full", "dense-full", "`paper` less `dense`"),
    ):
        if gain := _compared(results, arm, reference, METRICS, direction):
            yield f"{title}: {gain}"
    if types := _by_type(results, "dense-full", "sft-full"):
        yield f"A-score by question type, `dense` on all data less SFT: {types}"
    if "sft-shuffled" in results:
        scores = "; ".join(_shuffled(results, metric) for metric in ("a_score", "v_score"))
        yield f"Trained on pictures shuffled between patients: {scores}"


def missing(results: Results) -> list[str]:
    """Return an item for each group of seeds of the study: the arms that have no result there."""
    arms_of = defaultdict(list)
    for arm in ARMS:
        if seeds := [str(seed) for seed in SEEDS if seed not in results.get(arm.name, {})]:
            arms_of[", ".join(seeds)].append(arm.title)
    return [f"seed {seeds}: {'; '.join(titles)}" for seeds, titles in sorted(arms_of.items())]


def history(manifest: list[dict[str, Any]]) -> str:
    """Return counts of runs, and a table of all runs started with their ends."""
    runs = [
        (entry, _end(manifest, index))
        for index, entry in enumerate(manifest)
        if entry["event"] == "started"
    ]
    done = [_run(start) for start, end in runs if end and end["event"] == "done"]
    failed = sum(end is not None and end["event"] == "failed" for _, end in runs)
    sums = (
        f"{len(runs)} started: {len(done)} done, {failed} failed, "
        f"{len(runs) - len(done) - failed} without an end noted (killed, or still running)."
    )
    if again := len(done) - len(set(done)):
        sums += f" Done again: {again}; the result file is of the last."
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
    return f"{sums}\n\n" + markdown_table(head, rows)


def rebuilt(results: Results) -> str:
    """Return a note about runs whose SFT was repeated and is not the one in the tables, or "".

    A stage's seconds are recorded once, so two runs share a model if these are equal.
    """
    titles = []
    for arm in ARMS:
        for seed, result in sorted(results.get(arm.name, {}).items()):
            stage = f"seed-{seed}-{arm.start}"
            sft_run = results.get(arm.start, {}).get(seed)
            if arm.sft and arm.reward and sft_run:
                seconds = [run.get("wall_seconds", {}).get(stage) for run in (result, sft_run)]
                if seconds[0] != seconds[1]:
                    titles.append(f"{arm.title} (seed {seed})")
    if not titles:
        return ""
    return (
        "SFT comes out the same, bit for bit, when it is made again on the same machine, and may "
        "differ elsewhere. These runs start from an SFT that was made again, and not from the one "
        f"that stands in the tables: {'; '.join(titles)}.\n"
    )


def _run(entry: dict[str, Any]) -> tuple[str, int, str]:
    return entry["arm"], entry["seed"], str(entry["size"])


def _end(manifest: list[dict[str, Any]], index: int) -> dict[str, Any] | None:
    """Return the entry of the end of a run that starts at `index`; None if none was recorded."""
    start = manifest[index]
    for entry in manifest[index + 1 :]:
        if _run(entry) == _run(start):
            return None if entry["event"] == "started" else entry
    return None


def _ended(start: dict[str, Any], end: dict[str, Any] | None) -> str:
    if end is None:
        return NO_END
    times = [datetime.datetime.fromisoformat(entry["time"]) for entry in (start, end)]
    minutes = (times[1] - times[0]).total_seconds() / 60
    why = f" ({end['why']})" if "why" in end else ""
    return f"{end['event']}{why} after {minutes:.1f} min"


def _claim_items(results: Results, fraction: str) -> Iterator[str]:
    """Yield the answer for one share of the data, and for SFT alone on the same share."""
    share, arm = share_title(fraction), f"dense-{fraction}"
    if claim := _compared(results, arm, "sft-full", CLAIM_METRICS, verdict):
        yield f"Does SFT + GRPO on {share} of the data reach SFT on all of it? {claim}"
    if alone := _compared(results, f"sft-{fraction}", "sft-full", CLAIM_METRICS, verdict):
        yield f"Does SFT alone on {share} of the data? {alone}"


def _by_type(results: Results, arm: str, reference: str) -> str:
    """Return the differences for the question types that have an interval."""
    gains = {}
    for kind in QUESTION_TYPES:
        keys = ("intervals", kind, "a_score", "mean")
        values = list(seed_differences(results, arm, reference, *keys).values())
        if len(values) >= FEWEST_SEEDS:
            gains[kind] = student_t(values)
    return ", ".join(
        f"{kind} {direction(gain)} ({estimate(gain, signed=True)})" for kind, gain in gains.items()
    )


def _shuffled(results: Results, metric: str) -> str:
    score = f"{METRICS[metric]} {estimate(arm_estimate(results, 'sft-shuffled', metric))}"
    controls = flagged(results, "sft-shuffled", metric)
    return f"{score}, {f'no better than {controls}' if controls else 'better than its controls'}"


def _compared(
    results: Results,
    arm: str,
    reference: str,
    metrics: Iterable[str],
    judge: Callable[[Estimate], str],
) -> str | None:
    """Return the judged differences of two arms' scores; None if one has not been run."""
    items = []
    for metric in metrics:
        if gain := difference(results, arm, reference, metric):
            note = few_seeds(results, arm, reference, metric)
            score = f"{judge(gain)} ({estimate(gain, signed=True)})"
            items.append(f"{METRICS[metric]} {score}{note}")
    return ", ".join(items) or None
