"""Result files of runs, the manifest that lists every run started, and what runs have to train on.

All are small, are kept under version control, and are all that the report is made from.
"""

import datetime
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from recipe.errors import InputError
from recipe.evaluation.files import write_text_atomically
from recipe.evaluation.metrics import question_values
from recipe.evaluation.predictions import read_predictions
from recipe.model_card import commit
from recipe.reporting.metrics_log import read_metrics
from recipe.settings import FRACTIONS, fraction_file
from recipe.study.arms import Arm
from recipe.study.plan import StudyPlan, settings_of
from recipe.versions import versions

MANIFEST = "manifest.jsonl"
BUDGET = "budget.json"
CURVES = ("score", "answer", "grounding", "think_grounding", "alignment", "mean_iou", "format")
VALUES = ("a_score", "v_score", "reward", "iou_75")


def result_file(results: Path, arm: Arm, seed: int) -> Path:
    """Where a run's result is kept."""
    return results / f"seed-{seed}" / f"{arm.name}.json"


def read_result(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """A run's result; None where it has not been run.

    Raises:
        InputError: the file is of a run with other settings.
    """
    if not path.is_file():
        return None
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = {key: result[key] for key in settings}
    except (json.JSONDecodeError, KeyError) as error:
        raise InputError(f"{path}: not a result of recipe.study ({error})") from error
    if found != settings:
        raise InputError(
            f"{path}: of a run with other settings ({found['size']}, asked for "
            f"{settings['size']}): give another --results, or remove the file to run it again"
        )
    return result


def make_result(
    plan: StudyPlan, arm: Arm, seed: int, code: str, seconds: dict[str, float]
) -> dict[str, Any]:
    """What is kept of a run: metrics, curves, and each question's values for paired intervals.

    Args:
        plan: of the study.
        arm: what was run.
        seed: of the run.
        code: commit at the run's start.
        seconds: wall time of each stage.
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
            title: {key: value["mean"] for key, value in found.items() if key in VALUES}
            for title, found in metrics["controls"].items()
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
    """Write it, lists on one line each."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in result.items()]
    write_text_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")


def question_table(result: dict[str, Any]) -> pd.DataFrame:
    """Values of each question: `patient` and `VALUES`, indexed by id."""
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
    """All lines of the manifest."""
    path = results / MANIFEST
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def write_budget(results: Path, plan: StudyPlan) -> None:
    """Note how many rows each share of the data has, and how many of them a run takes."""
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
    write_text_atomically(results / BUDGET, json.dumps(budget) + "\n")


def read_budget(results: Path, size: dict[str, int]) -> dict[str, Any] | None:
    """What `write_budget` wrote; None where no run has got that far.

    Raises:
        InputError: it is of another size than the results.
    """
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


def _curves(plan: StudyPlan, arm: Arm, seed: int) -> dict[str, list[float | None]]:
    """Mean reward and components of each GRPO step; empty for SFT."""
    path = plan.training_metrics(arm, seed)
    if arm.reward is None or not path.is_file():
        return {}
    table = read_metrics(path).table
    return {
        name: [None if pd.isna(v) else round(float(v), 4) for v in table[f"reward/{name}/mean"]]
        for name in CURVES
        if f"reward/{name}/mean" in table
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
