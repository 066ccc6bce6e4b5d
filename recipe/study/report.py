"""docs/results.md, made from the result files and the manifest and from nothing else."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipe.errors import InputError
from recipe.evaluation.clusters import Estimate
from recipe.evaluation.files import write_text_atomically
from recipe.evaluation.markdown import estimate, lines
from recipe.study.arms import ARMS, BY_NAME
from recipe.study.numbers import (
    CLAIM_MARGIN,
    Results,
    arm_estimate,
    difference,
    seed_values,
    verdict,
)
from recipe.study.plots import curves_plot, fractions_plot
from recipe.study.runs import read_manifest
from recipe.study.summary import SCORES, missing, summary

METRICS = {"a_score": "A-score", "v_score": "V-score", "iou_75": "IoU > 0.75", "reward": "Reward"}
ABLATIONS = ("paper-full", "no_think_grounding", "no_alignment", "no_reasoning", "rl-full")
NOTES = """\
- The phantom set is synthetic: drawn chests with drawn findings. No number here says anything about
  reading X-rays, about MIMIC-CXR or about a model of seven billion parameters.
- The base model was pre-trained on reports of all training pictures, whatever the fraction: only
  the questions with their answers are held back. It stands for a model that has seen much already.
- All arms take the same number of SFT steps and of GRPO steps. A share of the data is seen more
  often, and SFT + GRPO takes more steps in all than SFT alone.
- Few seeds: the intervals resample seeds and patients, and with three seeds they are too narrow.
- The published numbers come from another data set, model, judge and budget. "Holds in miniature"
  means that the same comparison came out the same way here."""


def read_results(folder: Path) -> Results:
    """All results by arm and seed.

    Raises:
        InputError: there are none, or of runs of different sizes.
    """
    found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    sizes = set()
    for path in sorted(folder.glob("seed-*/*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result.get("arm") not in BY_NAME:
            raise InputError(f"{path}: not a result of an arm of the study")
        found[result["arm"]][int(result["seed"])] = result
        sizes.add(json.dumps(result["size"], sort_keys=True))
    if not found:
        raise InputError(f"{folder}: no results; run python -m recipe.study first")
    if len(sizes) > 1:
        raise InputError(f"{folder}: results of {len(sizes)} different sizes; keep one")
    return found


def write_report(results_folder: Path, path: Path) -> None:
    """Write the page and the plots beside it.

    Raises:
        InputError: the results cannot be read.
    """
    results = read_results(results_folder)
    text = "\n".join(_parts(results, read_manifest(results_folder), path))
    write_text_atomically(path, text)


def _parts(results: Results, manifest: list[dict[str, Any]], path: Path) -> Iterator[str]:
    some = next(iter(next(iter(results.values())).values()))
    seeds = sorted({seed for runs in results.values() for seed in runs})
    size = ", ".join(f"{value} {key.replace('_', ' ')}" for key, value in some["size"].items())
    yield "# Results of the study\n"
    yield (
        "Written by `python -m recipe.study`; do not edit. All numbers are measured on the "
        f"**synthetic** phantom set with the tiny model: {size}. {len(some['questions']['id'])} "
        f"held-out questions about {len(set(some['questions']['patient']))} patients, greedy "
        f"answers, seeds {', '.join(map(str, seeds))}. In brackets: 95 % intervals that resample "
        "seeds and patients; behind them each seed's value.\n"
    )
    if lacking := missing(results):
        yield lacking
    if said := "\n".join(summary(results)):
        yield f"## In short\n\n{said}\n"
    yield "## How good is each arm?\n"
    yield _table(results)
    yield _flags(results)
    yield "## What does GRPO add, and what does each part of the reward?\n"
    yield "SFT + GRPO with `dense` less SFT alone, and each other arm less `dense`, on all data.\n"
    yield _differences(results)
    yield "## Does RL on a fraction of the data reach SFT on all of it?\n"
    yield from _claim(results)
    if fractions_plot(results, path.with_name("results-fractions.svg")):
        yield "![A-score and V-score over the share of the data](results-fractions.svg)\n"
    yield "## How does training go under `paper` and under `dense`?\n"
    yield _curves(results)
    arms = {"paper-full": "paper", "dense-full": "dense"}
    if curves_plot(results, arms, path.with_name("results-curves.svg")):
        yield "![Course of reward, answers and overlap over GRPO's steps](results-curves.svg)\n"
    yield f"## What cannot be concluded\n\n{NOTES}\n"
    yield "## Every run started\n"
    yield _runs(manifest)


def _table(results: Results) -> str:
    rows = []
    for arm in ARMS:
        if arm.name in results:
            cells = [_with_seeds(results, arm.name, metric) for metric in METRICS]
            rows.append([arm.title, *cells])
    return lines(["", *METRICS.values()], rows)


def _with_seeds(results: Results, arm: str, metric: str) -> str:
    values = " ".join(f"{value:.3f}" for value in seed_values(results, arm, metric))
    return f"{estimate(arm_estimate(results, arm, metric))}; {values}"


def _flags(results: Results) -> str:
    """Which arms do no better than their controls, under any seed."""
    said = []
    for arm in ARMS:
        for seed, result in sorted(results.get(arm.name, {}).items()):
            for metric, titles in result["no_better_than"].items():
                if titles:
                    said.append(
                        f"- {arm.title}, seed {seed}: its {METRICS[metric]} is no better than "
                        f"{'; '.join(titles)}."
                    )
    if not said:
        return "Every arm beats all baselines and controls under every seed.\n"
    return "Runs that do not clearly beat a baseline or control:\n\n" + "\n".join(said) + "\n"


def _differences(results: Results) -> str:
    pairs = [("dense-full", "sft-full"), *((name, "dense-full") for name in ABLATIONS)]
    rows = [
        [
            f"{BY_NAME[arm].title} less {BY_NAME[other].title}",
            *(estimate(difference(results, arm, other, m), signed=True) for m in METRICS),
        ]
        for arm, other in pairs
        if arm in results and other in results
    ]
    return lines(["", *METRICS.values()], rows)


def _claim(results: Results) -> Iterator[str]:
    yield (
        "The paper claims that SFT + RL on a fraction of the data is comparable to SFT on all of "
        f"it. Here that counts as shown where the interval of the difference lies above "
        f"{-CLAIM_MARGIN:+.2f}; `better` where it lies above 0. SFT alone on the same fraction "
        "stands beside it, to tell what RL has to do with it.\n"
    )
    rows = []
    for fraction in ("1of8", "1of4", "1of2", "full"):
        for arm in (f"sft-{fraction}", f"dense-{fraction}"):
            if arm != "sft-full" and arm in results and "sft-full" in results:
                gains = [difference(results, arm, "sft-full", metric) for metric in SCORES]
                rows.append([BY_NAME[arm].title, *map(_judged, gains)])
    yield lines(["less SFT on all data", *SCORES.values()], rows)


def _judged(gain: Estimate | None) -> str:
    said = estimate(gain, signed=True)
    return f"{said}: **{verdict(gain)}**" if gain else said


def _curves(results: Results) -> str:
    rows = []
    for arm in ("paper-full", "dense-full"):
        for seed, result in sorted(results.get(arm, {}).items()):
            curves = result["curves"]
            cells = [_ends(curves.get(name, [])) for name in ("score", "answer", "mean_iou")]
            rows.append([f"{BY_NAME[arm].title}, seed {seed}", *cells])
    head = ["first to last fifth of the steps", "own reward", "answer", "mean IoU"]
    return lines(head, rows)


def _ends(curve: list[float | None]) -> str:
    values = [value for value in curve if value is not None]
    if not values:
        return "—"
    part = max(1, len(values) // 5)
    return f"{sum(values[:part]) / part:.3f} to {sum(values[-part:]) / part:.3f}"


def _runs(manifest: list[dict[str, Any]]) -> str:
    events = Counter(entry["event"] for entry in manifest)
    rows = [
        [entry["time"], entry["event"], entry["arm"], str(entry["seed"]), entry["commit"][:12]]
        for entry in manifest
    ]
    said = ", ".join(f"{count} {event}" for event, count in events.items())
    return f"{said}.\n\n" + lines(["time", "event", "arm", "seed", "commit"], rows)
