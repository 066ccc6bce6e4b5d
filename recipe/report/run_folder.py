"""Read a run folder, tell the origin of its data, and give the commands for missing parts."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from data_prep.program import InputError, is_synthetic
from recipe.evaluate.controls import IMAGE_CONTROLS
from recipe.evaluate.predictions import Prediction, read_predictions
from recipe.evaluate.results import check_presets, read_results, read_summary
from recipe.metrics_log import MetricsLog, read_metrics
from recipe.run.folder import read_run_config

MODELS = {"sft": "SFT", "grpo": "GRPO"}
MOST_MODELS = 4
"""The page has colours for four models."""
SUMMARY = "summary.json"
DEMO_STAGES = {"SFT training": "sft/metrics.jsonl", "GRPO training": "grpo/metrics.jsonl"}
STAGES = {**DEMO_STAGES, "Training": "metrics.jsonl"}
Origin = Literal["phantom", "patients", "unknown"]
_TRAINING_FOLDERS = (".", *MODELS)
"""The runs of a folder: itself, or those of a demo."""


@dataclass(frozen=True)
class Missing:
    """A part that the run does not have: its file, and what the page would show of it.

    The user replaces words in capitals in the command that makes it.
    """

    path: str
    shows: str
    command: str


@dataclass
class RunFolder:
    """The parts that a run has."""

    path: Path
    summary: dict[str, Any] | None = None
    # by the short name of each evaluated model: predictions, contents of metrics.json, titles
    greedy: dict[str, list[Prediction]] = field(default_factory=dict)
    sampled: dict[str, list[Prediction]] = field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=lambda: dict(MODELS))
    stages: dict[str, MetricsLog] = field(default_factory=dict)  # by the titles of `STAGES`
    train: Path | None = None  # parquet of the training split
    test: Path | None = None
    missing: list[Missing] = field(default_factory=list)


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
    run = RunFolder(path, titles={model: title for model, (title, _) in folders.items()})
    run.stages = {
        title: read_metrics(path / relative)
        for title, relative in STAGES.items()
        if (path / relative).is_file()
    }
    parts = {SUMMARY: "the headline numbers and their intervals"}
    parts |= {file: f"the curves of {title}" for title, file in DEMO_STAGES.items()}
    demo = _command("phantom.demo", "--out", str(path))
    for file, shows in parts.items():
        # A folder of one training run lacks nothing without the parts of a demo.
        if "Training" not in run.stages and not (path / file).is_file():
            run.missing.append(Missing(str(path / file), shows, demo))
    if (path / SUMMARY).is_file():
        run.summary = read_summary(path / SUMMARY)
    run.train = _parquet(run, data / "train.parquet", "the baselines")
    run.test = _parquet(run, data / "test.parquet", "the baselines and the images of the cases")
    for model, (title, folder) in folders.items():
        run.missing += _read_evaluation(run, model, title, folder, data)
    check_presets({folder: run.metrics.get(model, {}) for model, (_, folder) in folders.items()})
    if not (run.summary or run.greedy or run.stages):
        raise InputError(
            f"{path}: nothing to report on (no summary.json, metrics.jsonl, "
            "sft/metrics.jsonl, grpo/metrics.jsonl or eval/*/greedy.jsonl)"
        )
    return run


def _parquet(run: RunFolder, file: Path, shows: str) -> Path | None:
    if file.is_file():
        return file
    source = ("--source", "SOURCE", "--images", "IMAGES", "--out", str(file.parent))
    run.missing.append(Missing(str(file), shows, _command("data_prep.thinkvg", *source)))
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
    metrics = read_results(folder)
    if metrics:
        run.metrics[model] = metrics
    return _lacks(title, folder, metrics, data)


def _lacks(title: str, folder: Path, metrics: Mapping[str, Any], data: Path) -> list[Missing]:
    """Return the parts of an evaluation that a folder with greedy predictions lacks."""

    def has(name: str, shown: object) -> bool:
        return bool(shown) if metrics else (folder / f"{name}.jsonl").is_file()

    def lack(file: str, shows: str, change: str) -> None:
        command = evaluate_command(folder, data, change)
        missing.append(Missing(str(folder / file), f"{title}{shows}", command))

    missing: list[Missing] = []
    if not metrics:
        shows = "'s intervals, baselines, controls, samples and regions"
        lack("metrics.json", shows, f"predictions={folder}")
    if not has("sampled", metrics.get("samples")):
        shows = "'s reward over samples, pass@k and majority vote"
        lack("sampled.jsonl", shows, "sampling.samples=4")
    for name, control in IMAGE_CONTROLS.items():
        if not has(name, control in metrics.get("controls", ())):
            shows = f" on the control “{control}”"
            lack(f"{name}.jsonl", shows, f"controls=[{','.join(IMAGE_CONTROLS)}]")
    return missing


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
    """Return `phantom` only if all data and evaluations say that no patient is in them.

    Without any data or predictions it is `unknown`, else `patients`.
    """
    files = [*filter(None, (run.train, run.test)), *_configured_files(run.path)]
    says_synthetic = [is_synthetic(file) for file in files]
    says_synthetic += [run.metrics.get(name, {}).get("synthetic") is True for name in run.greedy]
    if not says_synthetic:
        return "unknown"
    return "phantom" if all(says_synthetic) else "patients"


def _configured_files(path: Path) -> Iterator[Path]:
    """Yield the data files that the configurations of training runs name and that are there."""
    for folder in _TRAINING_FOLDERS:
        data = read_run_config(path / folder).get("data", {})
        for file in (data.get("train_files"), data.get("val_files")):
            if file and Path(file).is_file():
                yield Path(file)
