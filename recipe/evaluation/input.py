"""Checks of an evaluation's settings, all of them before an engine starts or a server is asked."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from recipe import checks, program
from recipe.checkpoints import find_model
from recipe.errors import InputError
from recipe.evaluation.controls import IMAGE_CONTROLS
from recipe.evaluation.judged import ar_settings
from reward.judge.ready import check_ready
from reward.presets import is_judged, load_preset, preset_names

SPLITS = ("val", "test", "train")


def split_files(config: DictConfig) -> tuple[Path, Path]:
    """The split to answer, and the training split for the baselines."""
    folder = Path(config.data.dir)
    return folder / f"{config.data.split}.parquet", folder / "train.parquet"


def judge_settings(config: DictConfig) -> dict[str, Any]:
    """The judge's settings that the configuration gives; null leaves the preset's."""
    return {key: value for key, value in config.judge.items() if value is not None}


def reward_judge(config: DictConfig) -> dict[str, Any]:
    """The same for the judge of the preset; empty where the preset has none and AR-scores do."""
    if config.ar_score and not is_judged(load_preset(config.preset)):
        return {}
    return judge_settings(config)


def check(config: DictConfig) -> None:
    """Check everything that can be checked ahead.

    Raises:
        InputError: the first fault found.
    """
    program.require(config, "data.dir")
    if config.data.split not in SPLITS:
        raise InputError(f"data.split={config.data.split}: choose one of {', '.join(SPLITS)}")
    if config.preset not in preset_names():
        raise InputError(f"preset={config.preset}: choose one of {', '.join(preset_names())}")
    _check_judges(config)
    _check_numbers(config)
    for control in config.controls:
        if control not in IMAGE_CONTROLS:
            raise InputError(f"controls: {control}: choose among {', '.join(IMAGE_CONTROLS)}")
    for title, folder in config.beside.items():
        _check_predictions(folder, f"beside.{title}")
    model = _check_model(config)
    for file in split_files(config):
        metadata = checks.check_parquet(str(file), "data.dir", checks.ROLLOUT_COLUMNS)
        checks.check_family(metadata, model, f"data.dir={config.data.dir}")


def _check_model(config: DictConfig) -> dict[str, Any]:
    """Check where answers come from; returns a local model's ``config.json``."""
    if config.predictions:
        _check_predictions(config.predictions, "predictions")
        return {}
    if config.server.base_url:
        from recipe.serving import check_server

        check_server(config.server)
        return {}
    program.require(config, "model.path")
    checks.check_accelerator(config)
    if not Path(config.model.path).is_dir():
        return checks.check_model_folder(config.model.path, "model.path")
    source = find_model(config.model.path, "model.path")
    if source.shards is None:
        return checks.check_model_folder(str(source.folder), "model.path")
    return {}


def _check_predictions(folder: str, key: str) -> None:
    if not (Path(folder) / "greedy.jsonl").is_file():
        raise InputError(
            f"{key}={folder}: no greedy.jsonl in it; give a folder that recipe.evaluate wrote"
        )


def _check_numbers(config: DictConfig) -> None:
    samples, temperature = config.sampling.samples, config.sampling.temperature
    if not isinstance(samples, int) or samples < 0:
        raise InputError(f"sampling.samples={samples}: give a whole number, 0 or more")
    if not isinstance(temperature, int | float) or temperature <= 0:
        raise InputError(f"sampling.temperature={temperature}: give a number above 0")
    if not isinstance(config.data.max_questions, int):
        raise InputError(f"data.max_questions={config.data.max_questions}: give a whole number")


def _check_judges(config: DictConfig) -> None:
    """Check that the judges of a judged preset and of the AR-score could be asked."""
    try:
        kwargs = load_preset(config.preset, reward_judge(config))
        if is_judged(kwargs):
            check_ready(kwargs["judge"])
    except ValueError as error:
        raise InputError(str(error)) from error
    if config.ar_score:
        ar_settings(judge_settings(config))
