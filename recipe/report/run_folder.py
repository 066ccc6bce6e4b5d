"""Read a run folder, tell the origin of its data, and give the commands for missing parts."""

import dataclasses
import json
import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from data_prep.program import InputError
from recipe.evaluate.controls import IMAGE_CONTROLS
from recipe.evaluate.predictions import Prediction, read_columns, read_predictions
from recipe.evaluate.results import read_summary
from recipe.metrics_log import MetricsLog, read_metrics

MODELS = {"sft": "SFT", "grpo": "GRPO"}
MOST_MODELS = 4
"""The page has colours for four models."""
STAGES = {
    "SFT training": "sft/metrics.jsonl",
    "GRPO training": "grpo/metrics.jsonl",
    "Training": "metrics.jsonl",
}
Origin = Literal["phantom", "patients", "unknown"]
FIRST_PHANTOM = 90_000_000
"""Smallest number of a phantom's patient; MIMIC-CXR's numbers are all smaller."""


@dataclass(frozen=True)
class Missing:
    """A part that the run does not have: its file, and what the page would show of it.

    The user replaces words in capitals in the command that makes it.
    """

    path: str
    shows: str
    command: str


@dataclass(frozen=True)
class RunFolder:
    """The parts that a run has.

    Predictions and contents of metrics.json are those of each evaluated model, by its short name,
    of which `titles` has the titles. `stages` has logs of training by the titles of `STAGES`, and
    `train` and `test` are the parquet files of these splits.
    """

    path: Path
    summary: dict[str, Any] | None = None
    greedy: dict[str, list[Prediction]] = field(default_factory=dict)
    sampled: dict[str, list[Prediction]] = field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=lambda: dict(MODELS))
    stages: dict[str, MetricsLog] = field(default_factory=dict)
    train: Path | None = None
    test: Path | None = None
    missing: tuple[Missing, ...] = ()


def read_run(
    path: Path, evaluations: Mapping[str, Path] | None = None, data: Path | None = None
) -> RunFolder:
    """Read the parts that a run has.

    `evaluations` (title -> folder that `recipe.evaluate` wrote, in the order of the page) and
    `data` (folder of `train.parquet` and `test.parquet`) replace those in the run's folder.

    Raises:
        InputError: the folder is missing, holds nothing to report on, or a part of it is broken.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such run folder")
    folders = _evaluations(path, evaluations)
    data = path / "data" if data is None else data
    stages, missing = _stages(path)
    # Only a demo writes a summary; a folder of one training run lacks nothing without it.
    summary = path / "summary.json"
    if not summary.is_file() and "Training" not in stages:
        shows = "the headline numbers and their intervals"
        missing.insert(0, Missing(str(summary), shows, demo_command(path)))
    run = RunFolder(
        path=path,
        summary=read_summary(summary) if summary.is_file() else None,
        titles={model: title for model, (title, _) in folders.items()},
        stages=stages,
        train=_parquet(data / "train.parquet", "the baselines", missing),
        test=_parquet(data / "test.parquet", "the baselines and the images of the cases", missing),
    )
    for model, (title, folder) in folders.items():
        missing += _read_evaluation(run, model, title, folder, data)
    if not (run.summary or run.greedy or run.stages):
        raise InputError(
            f"{path}: nothing to report on (no summary.json, metrics.jsonl, "
            "sft/metrics.jsonl, grpo/metrics.jsonl or eval/*/greedy.jsonl)"
        )
    return dataclasses.replace(run, missing=tuple(missing))


def _stages(path: Path) -> tuple[dict[str, MetricsLog], list[Missing]]:
    """Return the training logs by title, and the missing ones.

    The folder of a training run has one log at its root; a demo's has one for each stage.
    """
    stages = {
        title: read_metrics(path / relative)
        for title, relative in STAGES.items()
        if (path / relative).is_file()
    }
    if "Training" in stages:
        return stages, []
    return stages, [
        Missing(str(path / relative), f"the curves of {title}", demo_command(path))
        for title, relative in STAGES.items()
        if title not in stages and title != "Training"
    ]


def _parquet(file: Path, shows: str, missing: list[Missing]) -> Path | None:
    if file.is_file():
        return file
    missing.append(Missing(str(file), shows, data_command(file.parent)))
    return None


def _evaluations(path: Path, folders: Mapping[str, Path] | None) -> dict[str, tuple[str, Path]]:
    """Return the titles and folders of evaluations by short name."""
    if folders is None:
        return {model: (title, path / "eval" / model) for model, title in MODELS.items()}
    if len(folders) > MOST_MODELS:
        raise InputError(f"{len(folders)} evaluations are given: the page takes {MOST_MODELS}")
    for folder in folders.values():
        if not (folder / "greedy.jsonl").is_file():
            raise InputError(f"{folder}: no greedy.jsonl, which recipe.evaluate writes there")
    return {
        f"given-{number}": (title, folder) for number, (title, folder) in enumerate(folders.items())
    }


def _read_evaluation(
    run: RunFolder, model: str, title: str, folder: Path, data: Path
) -> list[Missing]:
    """Read a folder of `recipe.evaluate` into `run`; return what it lacks."""
    greedy, sampled = folder / "greedy.jsonl", folder / "sampled.jsonl"
    if not greedy.is_file():
        shows = f"{title}'s results and cases"
        return [Missing(str(greedy), shows, evaluate_command(folder, data))]
    run.greedy[model] = read_predictions(greedy)
    if sampled.is_file():
        run.sampled[model] = read_predictions(sampled)
    metrics = _metrics(folder / "metrics.json")
    if metrics:
        run.metrics[model] = metrics
    return _lacks(title, folder, metrics, data)


def _metrics(path: Path) -> dict[str, Any]:
    """Read metrics.json; return nothing if there is no such file, or an older one."""
    if not path.is_file():
        return {}
    try:
        loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON ({error.msg})") from error
    return loaded if "over_controls" in loaded else {}


def _lacks(title: str, folder: Path, metrics: Mapping[str, Any], data: Path) -> list[Missing]:
    """Return the parts of an evaluation that a folder with greedy predictions lacks."""

    def has(name: str, shown: object) -> bool:
        return bool(shown) if metrics else (folder / f"{name}.jsonl").is_file()

    missing = []
    if not metrics:
        shows = f"{title}'s intervals, baselines, controls, samples and regions"
        command = evaluate_command(folder, data, f"predictions={folder}")
        missing.append(Missing(str(folder / "metrics.json"), shows, command))
    if not has("sampled", metrics.get("samples")):
        shows = f"{title}'s reward over samples, pass@k and majority vote"
        command = evaluate_command(folder, data, "sampling.samples=4")
        missing.append(Missing(str(folder / "sampled.jsonl"), shows, command))
    for name, control in IMAGE_CONTROLS.items():
        if not has(name, control in metrics.get("controls", ())):
            shows = f"{title} on the control “{control}”"
            command = evaluate_command(folder, data, f"controls=[{','.join(IMAGE_CONTROLS)}]")
            missing.append(Missing(str(folder / f"{name}.jsonl"), shows, command))
    return missing


def demo_command(run: Path) -> str:
    """Return the command that makes the missing parts of a demo's folder."""
    return _command("phantom.demo", "--out", str(run))


def data_command(folder: Path) -> str:
    """Return the command that makes train.parquet and test.parquet."""
    return _command(
        "data_prep.thinkvg", "--source", "SOURCE", "--images", "IMAGES", "--out", str(folder)
    )


def evaluate_command(folder: Path, data: Path, *changes: str) -> str:
    """Return the command of the evaluation that wrote `folder`, with changed settings.

    Overrides that are recorded in the folder are repeated; without a record, `data` is the folder
    of the parquet files.
    """
    record = folder / ".hydra" / "overrides.yaml"
    recorded = yaml.safe_load(record.read_text(encoding="utf-8")) if record.is_file() else None
    overrides = recorded or [f"data.dir={data}"]
    replaced = {_key(change) for change in changes} | {"out", "predictions"}
    overrides = [override for override in overrides if _key(override) not in replaced]
    named = {_key(override) for override in (*overrides, *changes)}
    if not named & {"model.path", "server.base_url", "predictions"}:
        overrides.append("model.path=MODEL")
    return _command("recipe.evaluate", *overrides, *changes, f"out={folder}")


def _key(override: str) -> str:
    """Return the key of a Hydra override without `+` and `~`."""
    return override.partition("=")[0].lstrip("+~")


def _command(module: str, *arguments: str) -> str:
    return shlex.join(["python", "-m", module, *arguments])


def data_origin(run: RunFolder) -> Origin:
    """Return `phantom` only if every patient of the run is one, else `patients`."""
    patients: set[str] = set()
    for predictions in (*run.greedy.values(), *run.sampled.values()):
        patients |= patients_of(p.extra_info for p in predictions)
    for parquet in (run.train, run.test):
        if parquet is not None:
            patients |= patients_of(read_columns(parquet, ("extra_info",))["extra_info"])
    return origin_of_patients(patients)


def origin_of_patients(patients: Collection[str]) -> Origin:
    """Return the origin of data about these patients."""
    if not patients:
        return "unknown"
    return "phantom" if all(map(_is_phantom, patients)) else "patients"


def patients_of(extras: Iterable[Any]) -> set[str]:
    """Return the patients that the values of `extra_info` name."""
    return {str(extra["patient"]) for extra in extras if extra and extra.get("patient")}


def _is_phantom(patient: str) -> bool:
    number = re.fullmatch(r"p?(\d+)", patient)
    return number is not None and int(number.group(1)) >= FIRST_PHANTOM
