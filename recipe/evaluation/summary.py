"""The summary of SFT against SFT + GRPO on the held-out test split."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe.errors import InputError
from recipe.evaluation.baselines import baseline_summary
from recipe.evaluation.bootstrap import gains
from recipe.evaluation.files import write_text_atomically
from recipe.evaluation.metrics import summary_metrics
from recipe.evaluation.predictions import Prediction
from recipe.evaluation.questions import read_questions

MODEL_KEYS = (
    "reward",
    "reward_sampled",
    "a_score",
    "v_score",
    "iou_50",
    "iou_75",
    "format",
    "n",
)
GAIN_KEYS = ("reward", "reward_sampled", "a_score", "v_score")
BASELINE_KEYS = {"majority": ("a_score",), "region_prior": ("v_score", "iou_75")}
RUN_KEYS = ("seed", "versions", "wall_seconds", "grpo_steps", "rollouts")

Models = tuple[Sequence[Prediction], Sequence[Prediction]]


def build_summary(
    sft: Models,
    grpo: Models,
    train_parquet: str | Path,
    test_parquet: str | Path,
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """Compute the summary.

    Args:
        sft, grpo: each model's scored (greedy, sampled) predictions on the whole test split.
        train_parquet, test_parquet: rollout parquet, for the baselines.
        run: `seed`, `versions`, `wall_seconds` (stage -> seconds), `grpo_steps`, `rollouts`;
            `seed` also seeds the bootstrap.

    Raises:
        InputError: the models did not answer exactly the questions of the test split, a
            prediction is not scored, or `run` has other keys.
    """
    _check_run(run, "summary")
    train, test = read_questions(train_parquet), read_questions(test_parquet)
    expected = {question.index for question in test}
    for name, predictions in zip(
        ("SFT greedy", "SFT sampled", "GRPO greedy", "GRPO sampled"), (*sft, *grpo), strict=True
    ):
        answered = {prediction.index for prediction in predictions}
        if answered != expected:
            raise InputError(
                f"{name} predictions: {len(expected - answered)} questions of {test_parquet} are "
                f"missing and {len(answered - expected)} are not from it; evaluate the whole split"
            )
    summary = {
        "models": {"sft": summary_metrics(*sft), "grpo": summary_metrics(*grpo)},
        "baselines": baseline_summary(train, test),
        "gain": gains(sft, grpo, seed=run["seed"]),
        "run": dict(run),
    }
    validate_summary(summary, "summary")
    return summary


def write_summary(path: str | Path, summary: Mapping[str, Any]) -> None:
    """Validate and write; the file appears under its name only when whole."""
    validate_summary(summary, str(path))
    write_text_atomically(Path(path), json.dumps(summary, indent=2, allow_nan=False) + "\n")


def read_summary(path: str | Path) -> dict[str, Any]:
    """Read and validate a summary file.

    Raises:
        InputError: missing, not JSON or not a valid summary; names the file and the key.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such summary")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON ({error.msg})") from error
    validate_summary(summary, str(path))
    return dict(summary)


def validate_summary(summary: Any, where: str) -> None:
    """Check keys, kinds and ranges; an InputError names `where` and the key at fault."""
    _keys(summary, ("models", "baselines", "gain", "run"), where, "")
    _keys(summary["models"], ("sft", "grpo"), where, "models")
    for model, values in summary["models"].items():
        name = f"models.{model}"
        _keys(values, MODEL_KEYS, where, name)
        for key in MODEL_KEYS[:-1]:
            _number(values[key], 0, 1, where, f"{name}.{key}")
        _number(values["n"], 1, math.inf, where, f"{name}.n", whole=True)
    _keys(summary["baselines"], tuple(BASELINE_KEYS), where, "baselines")
    for baseline, keys in BASELINE_KEYS.items():
        values = summary["baselines"][baseline]
        _keys(values, keys, where, f"baselines.{baseline}")
        for key in keys:
            _number(values[key], 0, 1, where, f"baselines.{baseline}.{key}")
    _keys(summary["gain"], GAIN_KEYS, where, "gain")
    for key, gain in summary["gain"].items():
        _check_gain(gain, where, f"gain.{key}")
        models = summary["models"]
        difference = models["grpo"][key] - models["sft"][key]
        if abs(gain["mean"] - difference) > 1e-6:
            raise InputError(f"{where}: gain.{key}.mean is not GRPO minus SFT ({difference:.6f})")
    _check_run(summary["run"], where)


def _check_gain(gain: Any, where: str, name: str) -> None:
    _keys(gain, ("mean", "ci95"), where, name)
    _number(gain["mean"], -1, 1, where, f"{name}.mean")
    if not isinstance(gain["ci95"], list) or len(gain["ci95"]) != 2:
        raise InputError(f"{where}: {name}.ci95 is not [low, high]")
    for bound in gain["ci95"]:
        _number(bound, -1, 1, where, f"{name}.ci95")
    if gain["ci95"][0] > gain["ci95"][1]:
        raise InputError(f"{where}: {name}.ci95 has its low end above its high end")


def _check_run(run: Any, where: str) -> None:
    _keys(run, RUN_KEYS, where, "run")
    for key in ("seed", "grpo_steps", "rollouts"):
        _number(run[key], 0, math.inf, where, f"run.{key}", whole=True)
    for key in ("versions", "wall_seconds"):
        if not isinstance(run[key], Mapping):
            raise InputError(f"{where}: run.{key} is not an object")
    for stage, seconds in run["wall_seconds"].items():
        _number(seconds, 0, math.inf, where, f"run.wall_seconds.{stage}")


def _keys(value: Any, expected: Sequence[str], where: str, name: str) -> None:
    label = f"{where}: {name}" if name else where
    if not isinstance(value, Mapping):
        raise InputError(f"{label} is not an object")
    if missing := [key for key in expected if key not in value]:
        raise InputError(f'{label}: key "{missing[0]}" is missing')
    if unknown := [key for key in value if key not in expected]:
        raise InputError(f'{label}: unknown key "{unknown[0]}"')


def _number(
    value: Any, low: float, high: float, where: str, name: str, *, whole: bool = False
) -> None:
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise InputError(f"{where}: {name} is not a {'whole ' if whole else ''}number")
    if not math.isfinite(value) or not low - 1e-9 <= value <= high + 1e-9:
        raise InputError(f"{where}: {name} is {value}, not within {low}..{high}")
