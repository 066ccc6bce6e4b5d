"""Result files of the study's runs, and means with intervals over seeds and patients."""

import datetime
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from scipy import stats

from data_prep.program import InputError, write_whole
from phantom.study.plan import BY_NAME, Arm, StudyPlan, settings_of
from recipe.evaluate.metrics import Estimate, question_values
from recipe.evaluate.predictions import read_predictions
from recipe.metrics_log import read_metrics
from recipe.model_card import commit, versions
from recipe.program import FRACTIONS, fraction_file

MANIFEST = "manifest.jsonl"
BUDGET = "budget.json"
CURVES = ("score", "answer", "grounding", "think_grounding", "alignment", "mean_iou", "format")
VALUES = ("a_score", "v_score", "reward", "iou_75")
"""Metrics whose value for each question is in the result file."""
RESAMPLES = 5000
FEWEST_SEEDS = 3
"""Student's t over two seeds makes intervals of any width, which say nothing."""
CLAIM_MARGIN = 0.03
"""An arm counts as comparable if the lower end of its difference is above minus this margin; the
paper gives none, so it is this project's choice."""

Results = Mapping[str, Mapping[int, dict[str, Any]]]
"""Results by arm and seed."""


def result_file(results: Path, arm: Arm, seed: int) -> Path:
    return results / f"seed-{seed}" / f"{arm.name}.json"


def read_result(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return a run's result; None if it has not been run.

    Raises:
        InputError: the file is not a result, or is of a run with different settings.
    """
    if not path.is_file():
        return None
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        recorded = {key: result[key] for key in settings}
    except (json.JSONDecodeError, KeyError) as error:
        raise InputError(f"{path}: not a result of phantom.study ({error})") from error
    if recorded != settings:
        raise InputError(
            f"{path}: of a run with other settings ({recorded['size']}, asked for "
            f"{settings['size']}): give another --results, or remove the file to run it again"
        )
    return result


def read_results(folder: Path) -> Results:
    """Read all results, by arm and seed; refuse results of different sizes."""
    results: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    sizes = set()
    for path in sorted(folder.glob("seed-*/*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result.get("arm") not in BY_NAME:
            raise InputError(f"{path}: not a result of an arm of the study")
        results[result["arm"]][int(result["seed"])] = result
        sizes.add(json.dumps(result["size"], sort_keys=True))
    if not results:
        raise InputError(f"{folder}: no results; run python -m phantom.study first")
    if len(sizes) > 1:
        raise InputError(f"{folder}: results of {len(sizes)} different sizes; keep one")
    return results


def make_result(
    plan: StudyPlan, arm: Arm, seed: int, code: str, seconds: dict[str, float]
) -> dict[str, Any]:
    """Return the result of a run: metrics, curves, and each question's values.

    `code` is the commit at the run's start, `seconds` the wall time of each stage.
    """
    folder = plan.predictions(arm, seed)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    values = question_values(read_predictions(folder / "greedy.jsonl")).sort_index()
    return {
        **settings_of(plan, arm, seed),
        "commit": code,
        "versions": versions(),
        "finished": _now(),
        "wall_seconds": seconds,
        "overall": metrics["overall"],
        "intervals": metrics["intervals"],
        "samples": metrics["samples"],
        "baselines": {
            title: {key: value["mean"] for key, value in estimates.items() if key in VALUES}
            for title, estimates in metrics["controls"].items()
        },
        "no_better_than": metrics["no_better_than"],
        "no_better_than_by_type": metrics["no_better_than_by_type"],
        "curves": _curves(plan, arm, seed),
        "questions": {
            "id": [str(name) for name in values.index],
            "patient": values["patient"].tolist(),
            **{name: values[name].round(4).tolist() for name in VALUES},
        },
    }


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result, each key on one line."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in result.items()]
    write_whole(path, "{\n" + ",\n".join(lines) + "\n}\n")


def question_table(result: dict[str, Any]) -> pd.DataFrame:
    """Return the values of each question: `patient` and `VALUES`, indexed by id."""
    return pd.DataFrame(result["questions"]).set_index("id")


def note(results: Path, event: str, arm: Arm, seed: int, plan: StudyPlan, **more: Any) -> None:
    """Add a line to the manifest: a run was `started`, is `done`, or has `failed`."""
    results.mkdir(parents=True, exist_ok=True)
    entry = {
        "time": _now(),
        "event": event,
        **settings_of(plan, arm, seed),
        "commit": commit(),
        **more,
    }
    with (results / MANIFEST).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(entry) + "\n")


def read_manifest(results: Path) -> list[dict[str, Any]]:
    path = results / MANIFEST
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def write_budget(results: Path, plan: StudyPlan) -> None:
    """Write how many rows each share of the data has, and how many a run uses."""
    rows = {
        fraction: pq.read_metadata(fraction_file(str(plan.data), "sft_train", fraction)).num_rows
        for fraction in FRACTIONS
    }
    budget = {
        "size": plan.size.as_dict(),
        "rows": rows,
        "sft_samples": plan.size.sft_steps * plan.sft_batch(),
        "grpo_prompts": plan.size.grpo_steps * plan.size.prompts,
    }
    write_whole(results / BUDGET, json.dumps(budget) + "\n")


def read_budget(results: Path, size: dict[str, int]) -> dict[str, Any] | None:
    """Return what `write_budget` wrote, None if no run has finished; refuse another size."""
    path = results / BUDGET
    if not path.is_file():
        return None
    budget: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if budget.get("size") != size:
        raise InputError(
            f"{path}: of a study of another size ({budget.get('size')}) than the results ({size}): "
            "remove it, the next run writes it again"
        )
    return budget


def over_seeds(values: Sequence[pd.Series], patients: pd.Series) -> Estimate:
    """Return mean and 95 % interval of the same questions' values under several seeds.

    At each end, the interval is the wider of two: a bootstrap over seeds and patients, which covers
    how questions vary but hardly reaches beyond the values of a few seeds, and Student's t over the
    seeds' means. With fewer than `FEWEST_SEEDS`, it is the bootstrap alone.

    Args:
        values: values of each seed, indexed by question.
        patients: patient of each question, with the same index.

    Raises:
        InputError: the seeds did not answer the same questions.
    """
    bootstrap = two_way_bootstrap(values, patients)
    of_seeds = student_t([float(series.mean()) for series in values])["ci95"]
    if of_seeds is None or bootstrap["ci95"] is None:
        return bootstrap
    lows, highs = zip(bootstrap["ci95"], of_seeds, strict=True)
    return {"mean": bootstrap["mean"], "ci95": [min(lows), max(highs)]}


def two_way_bootstrap(values: Sequence[pd.Series], patients: pd.Series, seed: int = 0) -> Estimate:
    """Return mean and 95 % interval; seeds and patients are drawn independently.

    Owen, The pigeonhole bootstrap, 2007. With fewer than two patients there is no interval. The
    arguments are those of `over_seeds`, and the `seed` of the resampling.
    """
    for series in values:
        if not series.index.equals(patients.index):
            raise InputError("the seeds of an arm did not answer the same questions")
    codes, names = pd.factorize(patients)
    sums = np.array([np.bincount(codes, series.astype(float), len(names)) for series in values])
    counts = np.bincount(codes, minlength=len(names)).astype(float)
    draw = np.random.default_rng(seed)
    n_seeds, n_patients = sums.shape
    seed_weights = draw.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=RESAMPLES)
    weights = draw.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=RESAMPLES)
    means = ((seed_weights / n_seeds) @ sums * weights).sum(axis=1) / (weights @ counts)
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "mean": float(sums.mean(axis=0).sum() / counts.sum()),
        "ci95": [float(low), float(high)] if n_patients > 1 else None,
    }


def student_t(values: Sequence[float]) -> Estimate:
    """Return the mean of the seeds' values and its 95 % interval, None below `FEWEST_SEEDS`."""
    mean = float(np.mean(values))
    if len(values) < FEWEST_SEEDS:
        return {"mean": mean, "ci95": None}
    half = float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))
    return {"mean": mean, "ci95": [mean - half, mean + half]}


def arm_estimate(results: Results, arm: str, metric: str) -> Estimate | None:
    """Return an arm's metric, 0 to 1, over all of its seeds; None if it has not been run.

    The interval is that of `student_t` for metrics without a value for each question, such as the
    sampled reward.
    """
    if not (values := seed_values(results, arm, "overall", metric)):
        return None
    if metric not in VALUES:
        return _as_share(student_t(list(values.values())))
    tables = [question_table(results[arm][seed]) for seed in values]
    return _as_share(over_seeds([table[metric] for table in tables], tables[0]["patient"]))


def _as_share(value: Estimate) -> Estimate:
    if value["ci95"] is None:
        return value
    low, high = value["ci95"]
    return {"mean": value["mean"], "ci95": [max(low, 0.0), min(high, 1.0)]}


def difference(results: Results, arm: str, reference: str, metric: str) -> Estimate | None:
    """Return `arm` less `reference`, paired by seed and question; None without a shared seed."""
    if not (values := seed_differences(results, arm, reference, "overall", metric)):
        return None
    if metric not in VALUES:
        return student_t(list(values.values()))
    tables = [question_table(results[arm][seed]) for seed in values]
    references = [question_table(results[reference][seed]) for seed in values]
    gains = [
        table[metric] - baseline[metric] for table, baseline in zip(tables, references, strict=True)
    ]
    return over_seeds(gains, tables[0]["patient"])


def seed_values(results: Results, arm: str, *keys: str) -> dict[int, float]:
    """Return an arm's value under each seed that has it, in order; `keys` are its path."""
    values = {seed: _value(result, keys) for seed, result in sorted(results.get(arm, {}).items())}
    return {seed: value for seed, value in values.items() if value is not None}


def seed_differences(results: Results, arm: str, reference: str, *keys: str) -> dict[int, float]:
    """Return `arm` less `reference` under each seed that both have, in order."""
    values = seed_values(results, arm, *keys)
    references = seed_values(results, reference, *keys)
    return {seed: values[seed] - references[seed] for seed in values if seed in references}


def all_seeds(results: Results) -> list[int]:
    return sorted({seed for runs in results.values() for seed in runs})


def direction(gain: Estimate) -> str:
    """Return whether a difference is better, worse or unclear by its interval."""
    if gain["ci95"] is None:
        return "not judged"
    low, high = gain["ci95"]
    return "better" if low > 0 else "worse" if high < 0 else "no clear difference"


def verdict(gain: Estimate) -> str:
    """Return whether a difference to SFT on all data is better, comparable, worse or unclear."""
    if gain["ci95"] is None:
        return "not judged"
    low, high = gain["ci95"]
    if low > 0:
        return "better"
    if low > -CLAIM_MARGIN:
        return "comparable"
    return "worse" if high < 0 else "inconclusive"


def _curves(plan: StudyPlan, arm: Arm, seed: int) -> dict[str, list[float | None]]:
    """Return the mean reward and components of each GRPO step; empty for SFT."""
    path = plan.training_metrics(arm, seed)
    if arm.reward is None or not path.is_file():
        return {}
    table = read_metrics(path).table.round(4)
    columns = {name: f"reward/{name}/mean" for name in CURVES}
    return {
        name: [None if pd.isna(value) else float(value) for value in table[column]]
        for name, column in columns.items()
        if column in table
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _value(result: Mapping[str, Any], keys: Sequence[str]) -> float | None:
    """Return a value; None if the run lacks it, such as that of a question type without rows."""
    value: Any = result
    for key in keys:
        if key not in value:
            return None
        value = value[key]
    return float(value)
