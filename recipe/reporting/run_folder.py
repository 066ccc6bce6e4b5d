"""What a run folder holds. Every part is optional; what is missing is listed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipe.errors import InputError
from recipe.evaluation.predictions import Prediction, read_predictions
from recipe.evaluation.summary import read_summary
from recipe.reporting.metrics_log import MetricsLog, read_metrics

MODELS = {"sft": "SFT", "grpo": "GRPO"}
STAGES = {
    "SFT training": "sft/metrics.jsonl",
    "GRPO training": "grpo/metrics.jsonl",
    "Training": "metrics.jsonl",
}


@dataclass(frozen=True)
class RunFolder:
    """The parts of a run that were found.

    `greedy` and `sampled` are keyed by `MODELS`, `stages` by the titles of `STAGES`. `missing`
    holds (relative path, what it would show).
    """

    path: Path
    summary: dict[str, Any] | None = None
    greedy: dict[str, list[Prediction]] = field(default_factory=dict)
    sampled: dict[str, list[Prediction]] = field(default_factory=dict)
    stages: dict[str, MetricsLog] = field(default_factory=dict)
    train: Path | None = None
    test: Path | None = None
    missing: tuple[tuple[str, str], ...] = ()


def read_run(path: Path) -> RunFolder:
    """Read what there is.

    Raises:
        InputError: the folder is missing, holds nothing to report on, or a part of it is broken.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such run folder")
    missing: list[tuple[str, str]] = []

    def find(relative: str, shows: str) -> Path | None:
        if (path / relative).is_file():
            return path / relative
        missing.append((relative, shows))
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
    for model, title in MODELS.items():
        if file := find(f"eval/{model}/greedy.jsonl", f"{title}'s results and cases"):
            greedy[model] = read_predictions(file)
        if file := find(f"eval/{model}/sampled.jsonl", f"{title}'s reward over samples"):
            sampled[model] = read_predictions(file)
    run = RunFolder(
        path=path,
        summary=read_summary(summary) if summary else None,
        greedy=greedy,
        sampled=sampled,
        stages=stages,
        train=find("data/train.parquet", "the baselines"),
        test=find("data/test.parquet", "the baselines and the images of the cases"),
        missing=tuple(missing),
    )
    if not (run.summary or run.greedy or run.stages):
        raise InputError(
            f"{path}: nothing to report on (no summary.json, metrics.jsonl, "
            "sft/metrics.jsonl, grpo/metrics.jsonl or eval/*/greedy.jsonl)"
        )
    return run
