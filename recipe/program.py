"""Runs a Hydra program so that a fault of its input is one line, before anything is started."""

import os
import sys
from collections.abc import Callable, MutableMapping
from pathlib import Path

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipe.errors import InputError
from recipe.settings import CONFIG_FOLDER, register_resolvers

OPTIONAL_GROUPS = ("experiment", "ablation")


def fail(message: str) -> None:
    """Print `message` as one line on standard error and end the program with code 2."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(2)


def compose_config(name: str, overrides: list[str]) -> DictConfig:
    """Compose ``configs/NAME.yaml`` with `overrides`.

    Raises:
        InputError: an unknown group entry, key or value.
    """
    register_resolvers()
    GlobalHydra.instance().clear()
    for override in overrides:
        _check_optional(override)
    try:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            config = compose(name, overrides=overrides, return_hydra_config=False)
        return config
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(_composition_fault(error, overrides)) from error


def _check_optional(override: str) -> None:
    """Refuse an unknown entry of an optional group, which Hydra would leave out without a word."""
    group, _, entry = override.partition("=")
    if group not in OPTIONAL_GROUPS or entry in ("", "null"):
        return
    known = sorted(path.stem for path in (CONFIG_FOLDER / group).glob("*.yaml"))
    if entry not in known:
        raise InputError(f"{override}: no such entry; there are {', '.join(known)}")


def _composition_fault(error: Exception, overrides: list[str]) -> str:
    """Hydra's message on one line, without its hint on stack traces."""
    message = " ".join(str(error).split())
    cause = error.__cause__
    if cause is not None and str(cause).strip() and str(cause).split()[0] not in message:
        message = f"{message} ({' '.join(str(cause).split())})"
    return f"configuration: {message}"


def require(config: DictConfig, *keys: str) -> None:
    """Check that mandatory keys have a value.

    Raises:
        InputError: the first of `keys` without one.
    """
    for key in keys:
        holder, _, leaf = key.rpartition(".")
        parent = OmegaConf.select(config, holder) if holder else config
        if parent is None or OmegaConf.is_missing(parent, leaf) or parent.get(leaf) is None:
            raise InputError(f"{key} is not set: add {key}=VALUE to the command line")


def name_gpus_once(environment: MutableMapping[str, str]) -> None:
    """Leave GPUs their CUDA name: SLURM may set AMD's variable beside it, which verl refuses."""
    if "CUDA_VISIBLE_DEVICES" in environment:
        environment.pop("ROCR_VISIBLE_DEVICES", None)


def set_environment(config: DictConfig) -> None:
    """Set the variables of ``cluster.env`` that are not set yet; before verl is imported."""
    name_gpus_once(os.environ)
    for name, value in config.cluster.env.items():
        os.environ.setdefault(str(name), str(value))


def run(name: str, program: Callable[[DictConfig], None]) -> None:
    """Compose, check and run a Hydra program.

    Args:
        name: root configuration, a file of ``configs/`` without its ending.
        program: takes the composed configuration; an `InputError` of it ends with code 2.
    """
    register_resolvers()
    arguments = sys.argv[1:]
    try:
        for argument in arguments:
            _check_optional(argument)
        if not any(argument.startswith("-") for argument in arguments):
            compose_config(name, arguments)
            GlobalHydra.instance().clear()
    except InputError as error:
        fail(str(error))

    def guarded(config: DictConfig) -> None:
        try:
            program(config)
        except InputError as error:
            fail(str(error))

    entry = hydra.main(config_path=str(Path(CONFIG_FOLDER)), config_name=name, version_base="1.3")
    entry(guarded)()
