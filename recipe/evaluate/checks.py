"""Checks that only an evaluation has, for the list in `recipe.preflight.checklist`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_prep.program import InputError, read_metadata
from recipe.preflight.data import (
    ROLLOUT_COLUMNS,
    DataFile,
    check_family,
    check_parquet,
    rows_of,
)
from recipe.preflight.model import check_model_folder
from recipe.program import require
from recipe.run.checkpoints import find_model, load_json, run_folder
from recipe.run.folder import read_run_config
from reward.judge.settings import check_ready
from reward.settings import is_judged, load_preset, preset_names

SPLITS = ("val", "test", "train")


def split_files(config: DictConfig) -> tuple[Path, Path]:
    """Return the split to answer, and the training split for the baselines."""
    folder = Path(config.data.dir)
    train = Path(config.data.train_dir or folder)
    return folder / f"{config.data.split}.parquet", train / "train.parquet"


def judge_settings(config: DictConfig) -> dict[str, Any]:
    """Return the configured settings of the judge; those that are null stay the preset's."""
    return {key: value for key, value in config.judge.items() if value is not None}


def reward_judge(config: DictConfig) -> dict[str, Any]:
    """Return the settings for the preset's judge; empty if only the AR-score uses a judge."""
    if config.ar_score and not is_judged(load_preset(config.preset)):
        return {}
    return judge_settings(config)


def uses_engine(config: DictConfig) -> bool:
    """Return whether a local vLLM engine answers, not a server or earlier predictions."""
    return not (config.predictions or config.server.base_url)


def follow_training(config: DictConfig) -> None:
    """Set what the configuration leaves open as it was in the training of a checkpoint.

    These are `data.reasoning` and variables of the chat template. A model without a run beside it
    was trained with reasoning.
    """
    run: dict[str, Any] = {}
    if uses_engine(config) and config.model.get("path") and Path(config.model.path).is_dir():
        folder = run_folder(find_model(config.model.path, "model.path"))
        run = read_run_config(folder) if folder else {}
    trained = run.get("data", {})
    template = trained.get("apply_chat_template_kwargs") or {}
    config.data.apply_chat_template_kwargs = {**template, **config.data.apply_chat_template_kwargs}
    if config.data.reasoning is None:
        config.data.reasoning = bool(trained.get("reasoning", True))


def check_settings(config: DictConfig) -> None:
    """Refuse a configuration without data or model; name the first key without a value."""
    require(config, "data.dir", *(("model.path",) if uses_engine(config) else ()))


def value_faults(config: DictConfig) -> Iterator[str]:
    """Yield unknown names and numbers out of their range."""
    # Imports pandas, which the other programs that use this file do not need.
    from recipe.evaluate.controls import IMAGE_CONTROLS

    if config.data.split not in SPLITS:
        yield f"data.split={config.data.split}: choose one of {', '.join(SPLITS)}"
    if config.preset not in preset_names():
        yield f"preset={config.preset}: choose one of {', '.join(preset_names())}"
    for control in config.controls:
        if control not in IMAGE_CONTROLS:
            yield f"controls: {control}: choose among {', '.join(IMAGE_CONTROLS)}"
    samples, temperature = config.sampling.samples, config.sampling.temperature
    if not isinstance(samples, int) or samples < 0:
        yield f"sampling.samples={samples}: give a whole number, 0 or more"
    if not isinstance(temperature, int | float) or temperature <= 0:
        yield f"sampling.temperature={temperature}: give a number above 0"
    if not isinstance(config.data.max_questions, int):
        yield f"data.max_questions={config.data.max_questions}: give a whole number"


def judge_faults(config: DictConfig) -> Iterator[str]:
    """Yield faults of the judges of a judged preset and of the AR-score."""
    if config.preset in preset_names():
        try:
            kwargs = load_preset(config.preset, reward_judge(config))
            if is_judged(kwargs):
                check_ready(kwargs["judge"])
        except ValueError as error:
            yield str(error)
    if config.ar_score:
        # Only an evaluation with the AR-score needs the reward and the judge.
        from recipe.evaluate.predictions import ar_settings

        ar_settings(judge_settings(config))


def check_server(config: DictConfig) -> None:
    """Refuse a server that data may not be sent to, or whose key is missing."""
    if config.server.base_url and not config.predictions:
        from recipe.evaluate import serving

        serving.check_server(config.server)


def prediction_faults(config: DictConfig) -> Iterator[str]:
    """Yield folders that should hold an earlier evaluation and do not, or would lose it."""
    folders = {f"beside.{title}": folder for title, folder in config.beside.items()}
    for key, folder in folders.items():
        if Path(folder).resolve() == Path(config.out).resolve():
            yield f"{key}={folder}: is out= as well, whose answers are replaced: give another out="
    if config.predictions:
        folders["predictions"] = config.predictions
    for key, folder in folders.items():
        if not (Path(folder) / "greedy.jsonl").is_file():
            yield f"{key}={folder}: no greedy.jsonl in it; give a folder that recipe.evaluate wrote"


def read_model(config: DictConfig) -> dict[str, Any]:
    """Check the local model and return its ``config.json``; empty if no local model answers.

    Raises:
        InputError: there is no such model, or it lacks files.
    """
    path = config.model.path
    if not uses_engine(config):
        return {}
    if not Path(path).is_dir():
        return check_model_folder(path, "model.path")
    source = find_model(path, "model.path")
    if source.shards is None:
        return check_model_folder(str(source.folder), "model.path")
    return load_json(source.folder / "config.json")


def read_data_files(config: DictConfig, model: dict[str, Any]) -> list[DataFile]:
    """Refuse wrong columns or another model family in either split; return the split to answer."""
    keys = ("data.dir", "data.train_dir" if config.data.train_dir else "data.dir")
    for file, key in zip(split_files(config), keys, strict=True):
        if key == "data.dir" and file.name == "train.parquet" and not file.is_file():
            raise InputError(
                f"data.dir={config.data.dir} has no train.parquet for the baselines: name the "
                "folder of the training data, data.train_dir=FOLDER"
            )
        metadata = check_parquet(str(file), key, ROLLOUT_COLUMNS)
        check_family(metadata, model, f"{key}={file.parent}")
    if config.predictions:
        return []
    split = str(split_files(config)[0])
    limits = config.data.max_prompt_length, config.data.max_response_length
    return [DataFile("dir", split, read_metadata(split), rows_of(split), *limits)]
