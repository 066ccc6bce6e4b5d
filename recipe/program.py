"""Compose configurations and run Hydra programs; a faulty input ends in one line and code 2."""

import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, cast

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_prep import splits
from data_prep.program import InputError
from recipe import console
from recipe.run import host

CONFIG_FOLDER = Path(__file__).resolve().parent.parent / "configs"
GDPO, SEGMENTS = "thinkvg_gdpo", "thinkvg_segments"
"""Names of the advantage estimators in `recipe.algorithms.advantages`."""

FRACTIONS = ("full", *(f"1of{part}" for part in splits.FRACTIONS))
OPTIONAL_GROUPS = ("experiment", "ablation")


def verl_configs() -> str:
    """Return the folder of verl's own trainer configuration, without importing verl."""
    spec = importlib.util.find_spec("verl")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("verl is not installed: run `make setup`")
    return str(Path(spec.origin).parent / "trainer" / "config")


def fraction_file(folder: str, name: str, fraction: str) -> str:
    """Return the training file of a data fraction, for example ``DIR/train-1of8.parquet``.

    Raises:
        ValueError: `fraction` is not among `FRACTIONS`.
    """
    if fraction not in FRACTIONS:
        raise ValueError(f"data.fraction={fraction}: choose one of {', '.join(FRACTIONS)}")
    suffix = "" if fraction == "full" else f"-{fraction}"
    return f"{folder}/{name}{suffix}.parquet"


def register_resolvers() -> None:
    """Register the resolvers with OmegaConf; doing it again changes nothing."""
    OmegaConf.register_new_resolver("verl_configs", verl_configs, replace=True)
    OmegaConf.register_new_resolver("fraction_file", fraction_file, replace=True)
    OmegaConf.register_new_resolver("add", lambda *terms: sum(terms), replace=True)


def fail(message: str) -> NoReturn:
    """Print `message` as one line on standard error and end the program with code 2."""
    console.error(message)
    raise SystemExit(2)


@contextmanager
def one_line_at_the_end(interrupted: str = "interrupted") -> Iterator[None]:
    """End the program with one line and code 2 at an `InputError`, 130 at Ctrl-C.

    Any other exception ends it with a line and code 1, and with its trace in the program's log. A
    program without a log shows the trace.
    """
    try:
        yield
    except InputError as error:
        fail(str(error))
    except Exception as error:
        if not console.has_log():
            raise
        traceback.print_exc()
        console.error(describe(error))
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        if not console.is_part_of_a_run():
            console.say(interrupted)
        raise SystemExit(130) from None  # a shell's code for SIGINT


def compose_config(name: str, overrides: list[str]) -> DictConfig:
    """Compose ``configs/NAME.yaml`` with `overrides`.

    Raises:
        InputError: a group entry, key or value is unknown.
    """
    register_resolvers()
    GlobalHydra.instance().clear()
    for override in overrides:
        _check_optional(override)
    try:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            return compose(name, overrides=overrides, return_hydra_config=False)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(_composition_fault(error, overrides)) from error


def _check_optional(override: str) -> None:
    """Refuse an unknown entry of an optional group, which Hydra would silently ignore."""
    group, _, entry = override.partition("=")
    if group not in OPTIONAL_GROUPS or entry in ("", "null"):
        return
    entries = sorted(path.stem for path in (CONFIG_FOLDER / group).glob("*.yaml"))
    if entry not in entries:
        raise InputError(f"{override}: no such entry; choose one of {', '.join(entries)}")


def _composition_fault(error: Exception, overrides: list[str]) -> str:
    """Return Hydra's message and its cause on one line, without the hint on stack traces."""
    message = " ".join(str(error).split())
    cause = error.__cause__
    if cause is not None and str(cause).strip() and str(cause).split()[0] not in message:
        message = f"{message} ({' '.join(str(cause).split())})"
    return f"configuration: {message}"


def plain(config: DictConfig) -> dict[str, Any]:
    """Return a part of a configuration as a dictionary, with its values resolved."""
    return cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))


def require(config: DictConfig, *keys: str) -> None:
    """Refuse a configuration in which one of these keys has no value; name the first."""
    for key in keys:
        holder, _, leaf = key.rpartition(".")
        parent = OmegaConf.select(config, holder) if holder else config
        if parent is None or OmegaConf.is_missing(parent, leaf) or parent.get(leaf) is None:
            raise InputError(f"{key} is not set: add {key}=VALUE to the command line")


def name_gpus_once(environment: MutableMapping[str, str]) -> None:
    """Remove AMD's variable if CUDA's is set: SLURM may set both, and verl refuses that."""
    if "CUDA_VISIBLE_DEVICES" in environment:
        environment.pop("ROCR_VISIBLE_DEVICES", None)


def set_environment(config: DictConfig) -> None:
    """Set the variables of ``cluster.env`` that are not set yet, and adapt to the machine's limits.

    Call it before torch is imported: OpenMP reads its variables when it loads.

    Raises:
        InputError: a variable is a secret, or the temporary folder's path is too long.
    """
    console.refuse_secrets(config)
    name_gpus_once(os.environ)
    for name, value in config.cluster.env.items():
        if value is not None:
            os.environ.setdefault(str(name), str(value))
    host.adapt()


def run(name: str, program: Callable[[DictConfig], None]) -> None:
    """Compose, check and run a program; its `InputError` ends the process with code 2.

    `name` is that of its root configuration, a file of ``configs/``.
    """
    register_resolvers()
    arguments = sys.argv[1:]

    def guarded(config: DictConfig) -> None:
        with one_line_at_the_end():
            set_environment(config)
            program(config)

    start = hydra.main(config_path=str(CONFIG_FOLDER), config_name=name, version_base="1.3")
    with one_line_at_the_end():
        for argument in arguments:
            _check_optional(argument)
        if not any(argument.startswith("-") for argument in arguments):
            config = compose_config(name, arguments)
            console.refuse_secrets(config)
            # Hydra creates the run's folder itself, and would fail with a trace.
            host.check_outputs(config)
            GlobalHydra.instance().clear()
        start(guarded)()


def describe(error: BaseException) -> str:
    """Return an exception's type and first line; where that ends in a colon, also the second."""
    first, *later = str(error).strip().splitlines() or [""]
    line = f"{first} {later[0].strip()}" if later and first.endswith(":") else first
    return f"{type(error).__name__}: {line}"
