"""What a run folder holds. Every part is optional; what is missing is listed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipe.errors import InputError
from recipe.evaluation.predictions import Prediction, read_predictions
from recipe.evaluation.summary import read_summary
from recipe.reporting.metrics_log import MetricsLog, read_metrics

MODELS = {"sft": "SFT", "grpo": "GRPO"}
MOST_MODELS = 4
"""As many as there are colours for."""
STAGES = {
    "SFT training": "sft/metrics.jsonl",
    "GRPO training": "grpo/metrics.jsonl",
    "Training": "metrics.jsonl",
}


@dataclass(frozen=True)
class RunFolder:
    """The parts of a run that were found.

    `greedy` and `sampled` are keyed by short names, whose `titles` are those of `MODELS` or were
    given; `stages` by the titles of `STAGES`. `missing` holds (path, what it would show).
    """

    path: Path
    summary: dict[str, Any] | None = None
    greedy: dict[str, list[Prediction]] = field(default_factory=dict)
    sampled: dict[str, list[Prediction]] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=lambda: dict(MODELS))
    stages: dict[str, MetricsLog] = field(default_factory=dict)
    train: Path | None = None
    test: Path | None = None
    missing: tuple[tuple[str, str], ...] = ()


def read_run(
    path: Path, evaluations: Mapping[str, Path] | None = None, data: Path | None = None
) -> RunFolder:
    """Read what there is.

    Args:
        path: the run's folder.
        evaluations: title -> folder that `recipe.evaluate` wrote, in the order of the page; None
            for those in the run's folder.
        data: folder of `train.parquet` and `test.parquet`; None for `data` in the run's folder.

    Raises:
        InputError: the folder is missing, holds nothing to report on, or a part of it is broken.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such run folder")
    missing: list[tuple[str, str]] = []

    def find(name: str | Path, shows: str) -> Path | None:
        if (path / name).is_file():  # an absolute name stays as it is
            return path / name
        missing.append((str(name), shows))
        return None

    summary = find("summary.json", "the headline numbers and their intervals")
    stages = {
        title: read_metrics(path / relative)
        for title, relative in STAGES.items()
        if (path / relative).is_file()
    }
    # A folder of one training run has one log at its root; a demo's has one per stage.
    if "Training" not in stages:
        find("sft/metrics.jsonl", "the curves of supervised fine-tuning")
        find("grpo/metrics.jsonl", "the curves of GRPO")
    greedy: dict[str, list[Prediction]] = {}
    sampled: dict[str, list[Prediction]] = {}
    folders = _evaluations(path, evaluations)
    for model, (title, folder) in folders.items():
        if file := find(folder / "greedy.jsonl", f"{title}'s results and cases"):
            greedy[model] = read_predictions(file)
        if file := find(folder / "sampled.jsonl", f"{title}'s reward over samples"):
            sampled[model] = read_predictions(file)
    data = Path("data") if data is None else data.resolve()
    run = RunFolder(
        path=path,
        summary=read_summary(summary) if summary else None,
        greedy=greedy,
        sampled=sampled,
        titles={model: title for model, (title, _) in folders.items()},
        stages=stages,
        train=find(data / "train.parquet", "the baselines"),
        test=find(data / "test.parquet", "the baselines and the images of the cases"),
        missing=tuple(missing),
    )
    if not (run.summary or run.greedy or run.stages):
        raise InputError(
            f"{path}: nothing to report on (no summary.json, metrics.jsonl, "
            "sft/metrics.jsonl, grpo/metrics.jsonl or eval/*/greedy.jsonl)"
        )
    return run


def _evaluations(path: Path, given: Mapping[str, Path] | None) -> dict[str, tuple[str, Path]]:
    """Titles and folders of evaluations by short names; relative folders are in `path`."""
    if given is None:
        return {model: (title, Path("eval") / model) for model, title in MODELS.items()}
    if len(given) > MOST_MODELS:
        raise InputError(f"{len(given)} evaluations are given: the page takes {MOST_MODELS}")
    for folder in given.values():
        if not (folder / "greedy.jsonl").is_file():
            raise InputError(f"{folder}: no greedy.jsonl, which recipe.evaluate writes there")
    return {
        f"given-{place}": (title, folder.resolve())
        for place, (title, folder) in enumerate(given.items())
    }
