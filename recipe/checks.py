"""Checks of a run's input that need no engine: each fault is one line, found before the start."""

import json
import math
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_prep.metadata import read_metadata
from recipe.errors import InputError
from recipe.program import require
from recipe.settings import GDPO
from reward.judge.ready import check_ready
from reward.presets import check_kwargs
from reward.settings import COMPONENTS

ROLLOUT_COLUMNS = ("data_source", "prompt", "images", "ability", "reward_model", "extra_info")
SFT_COLUMNS = ("messages", "images", "extra_info")
DATA_KEYS = ("train_files", "val_files")


def check_model_folder(path: str, key: str) -> dict[str, Any]:
    """Check a local model folder and return its ``config.json``.

    A path that is no local folder is taken for a hub name, which is for the hub client to find.

    Raises:
        InputError: a folder without configuration, weights, tokenizer or image processor.
    """
    folder = Path(path)
    if not folder.exists():
        if path.startswith((".", "/", "~")) or path.count("/") != 1:
            raise InputError(f"{key}={path}: no such folder")
        return {}
    if not (folder / "config.json").is_file():
        raise InputError(f"{key}={path}: no config.json; a Hugging Face model folder is needed")
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"{key}={path}: no *.safetensors weights in this folder")
    if not (folder / "tokenizer_config.json").is_file():
        raise InputError(f"{key}={path}: no tokenizer_config.json; copy the tokenizer of the base")
    names = ("preprocessor_config.json", "processor_config.json")
    if not any((folder / name).is_file() for name in names):
        raise InputError(
            f"{key}={path}: no preprocessor_config.json; copy the processor of the base model, or "
            "save it with AutoProcessor.save_pretrained"
        )
    try:
        loaded: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise InputError(
            f"{key}={path}: its config.json is not JSON ({error}): copy that of the base model"
        ) from error
    return loaded


def check_columns(
    path: str, key: str, columns: tuple[str, ...], maker: str = "data_prep.thinkvg"
) -> None:
    """Check that a parquet file is there, not empty and has `columns`.

    `maker` is the program that writes such a file.

    Raises:
        InputError: the fault, with the way out.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{key}={path}: no such file; make it with python -m {maker}")
    try:
        schema, rows = pq.read_schema(file), pq.read_metadata(file).num_rows
    except Exception as error:
        raise InputError(f"{key}={path}: not a parquet file ({error})") from error
    missing = [column for column in columns if column not in schema.names]
    if missing:
        raise InputError(
            f"{key}={path}: column {', '.join(missing)} missing; make the file anew with "
            f"python -m {maker}"
        )
    if rows == 0:
        raise InputError(f"{key}={path}: no rows")


def check_parquet(path: str, key: str, columns: tuple[str, ...]) -> dict[str, Any]:
    """Check a file of `data_prep.thinkvg` like `check_columns`; return its own metadata.

    Raises:
        InputError: the fault, with the way out.
    """
    check_columns(path, key, columns)
    try:
        return read_metadata(path)
    except ValueError as error:
        raise InputError(f"{key}: {error}") from error


def check_family(metadata: dict[str, Any], model: dict[str, Any], data_key: str) -> None:
    """Check that boxes were written for the family of the model.

    Raises:
        InputError: data of another family: its boxes would be in other coordinates.
    """
    prepared, actual = metadata.get("model_family"), model.get("model_type")
    if prepared and actual and prepared != actual:
        raise InputError(
            f"{data_key}: prepared for {prepared}, the model is {actual}: its boxes are in other "
            f"coordinates; run python -m data_prep.thinkvg with --model-family {actual}"
        )


def check_training_input(
    config: DictConfig, columns: tuple[str, ...], elsewhere: bool = False
) -> list[dict[str, Any]]:
    """Check model and data of a training configuration.

    Args:
        config: with ``model.path``, ``data.dir``, ``data.train_files`` and ``data.val_files``.
        columns: that both files must have.
        elsewhere: the run is on machines of a cluster, and this one may have no GPU.

    Returns:
        What each of the two files says of itself.

    Raises:
        InputError: the first fault found.
    """
    check_settings(config)
    if not elsewhere:
        check_accelerator(config)
    model = check_model_folder(config.model.path, "model.path")
    return [check_data_file(config, key, columns, model) for key in DATA_KEYS]


def check_settings(config: DictConfig) -> None:
    """Check that model and data are named, and that all settings of the data have a value.

    Raises:
        InputError: the first fault found.
    """
    require(config, "model.path", "data.dir")
    try:
        OmegaConf.to_container(config.data, resolve=True)
    except OmegaConfBaseException as error:
        raise InputError(f"data: {error}") from error


def check_data_file(
    config: DictConfig, key: str, columns: tuple[str, ...], model: dict[str, Any]
) -> dict[str, Any]:
    """Check one of `DATA_KEYS` and return the file's own metadata.

    Args:
        columns: that the file must have.
        model: ``config.json`` of the model, empty where it is not here.

    Raises:
        InputError: the first fault found.
    """
    metadata = check_parquet(config.data[key], f"data.{key}", columns)
    check_family(metadata, model, f"data.{key}={config.data[key]}")
    return metadata


def check_reward(config: DictConfig) -> None:
    """Check the settings of this project's reward, and whether its judge could be asked.

    Raises:
        InputError: the first fault found; a reward function of the user's own is not looked at.
    """
    function = config.reward.custom_reward_function
    if function.path != "pkg://reward.thinkvg":
        return
    resolved = OmegaConf.to_container(function.reward_kwargs, resolve=True)
    kwargs = dict(cast("dict[str, Any]", resolved))
    where = "reward.custom_reward_function"
    if (function.name == "compute_score_judged") != ("judge" in kwargs):
        raise InputError(
            f"{where}: compute_score_judged, and no other, takes reward_kwargs.judge: choose a "
            "preset that has one, such as reward=paper_judge"
        )
    try:
        check_kwargs(kwargs)
        if "judge" in kwargs:
            router = _router(config) if kwargs["judge"].get("base_url") is None else None
            check_ready(kwargs["judge"], router)
    except ValueError as error:
        raise InputError(f"{where}.reward_kwargs: {error}") from error


def _router(config: DictConfig) -> str | None:
    """Stands for the address of the judge that verl will serve; None where it serves none."""
    judge = config.reward.reward_model
    if not judge.enable:
        return None
    for key, value, why in (
        ("enable_resource_pool", True, "verl passes a judge on the actor's GPUs no ground truth"),
        ("rollout.free_cache_engine", False, "verl would send the judge to sleep for good"),
    ):
        if OmegaConf.select(judge, key) is not value:
            raise InputError(f"reward.reward_model.{key}: set it to {str(value).lower()}, or {why}")
    return "verl:1"


def check_accelerator(config: DictConfig) -> None:
    """Check that the chosen cluster fits this machine.

    Raises:
        InputError: GPUs asked for where there are none, or the CPU platform where there are.
    """
    import torch

    here = torch.cuda.is_available()
    if config.cluster.platform == "cpu" and here:
        raise InputError("cluster=cpu is for machines without a GPU: choose another cluster")
    if config.cluster.platform == "cuda" and not here:
        raise InputError(
            "cluster: this configuration needs GPUs and torch sees none here; cluster=cpu runs "
            "without"
        )


def check_smoothing(config: DictConfig) -> None:
    """Check that soft coordinate targets, where asked for, have a token for each coordinate.

    Raises:
        InputError: a width that is none, a tokenizer that does not load or splits coordinates.
    """
    width = config.coordinate_smoothing
    if not isinstance(width, int | float) or not 0 <= width < math.inf:
        raise InputError(f"coordinate_smoothing={width}: give a width in pixels, 0 for none")
    if width == 0:
        return
    from transformers import AutoTokenizer

    from recipe.soft_targets import LARGEST_COORDINATE, coordinate_ids

    try:
        tokenizer = AutoTokenizer.from_pretrained(config.model.path)
    except (OSError, ValueError) as error:
        raise InputError(f"model.path={config.model.path}: no tokenizer ({error})") from error
    try:
        coordinate_ids(tokenizer, LARGEST_COORDINATE)
    except ValueError as error:
        raise InputError(
            f"coordinate_smoothing={width}: {error} ({config.model.path}): set "
            "coordinate_smoothing=0"
        ) from error


def check_gdpo(config: DictConfig) -> None:
    """Check the settings of `recipe.gdpo`, where it is chosen.

    Raises:
        InputError: no components, unknown ones, or weights that are not one for each.
    """
    if config.algorithm.adv_estimator != GDPO:
        return
    keys = list(config.algorithm.get("gdpo_reward_keys") or [])
    unknown = [key for key in keys if key not in COMPONENTS]
    if not keys or unknown:
        given = ", ".join(map(str, unknown)) or "empty"
        raise InputError(
            f"algorithm.gdpo_reward_keys: {given}; name components of the reward: "
            f"{', '.join(COMPONENTS)}"
        )
    if len(set(keys)) < len(keys):
        raise InputError(f"algorithm.gdpo_reward_keys={keys}: a component is named twice")
    weights = config.algorithm.get("gdpo_reward_weights")
    if weights is None:
        return
    if not all(isinstance(weight, int | float) and weight >= 0 for weight in weights):
        raise InputError(
            f"algorithm.gdpo_reward_weights={list(weights)}: give each component a number from 0"
        )
    if len(weights) != len(keys):
        raise InputError(
            f"algorithm.gdpo_reward_weights: {len(weights)} weights for {len(keys)} components of "
            "algorithm.gdpo_reward_keys"
        )
