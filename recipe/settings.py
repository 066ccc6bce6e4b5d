"""Hydra's side of the programs: where verl's configuration lies, and resolvers the files use."""

import importlib.util
from pathlib import Path

from omegaconf import OmegaConf

CONFIG_FOLDER = Path(__file__).resolve().parent.parent / "configs"
GDPO = "thinkvg_gdpo"
"""Name of the advantage estimator in `recipe.gdpo`."""

FRACTIONS = ("full", "1of2", "1of4", "1of8", "1of16")


def verl_configs() -> str:
    """Folder of verl's own trainer configuration, found without importing verl.

    Raises:
        ModuleNotFoundError: verl is not installed.
    """
    spec = importlib.util.find_spec("verl")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("verl is not installed: run `make setup`")
    return str(Path(spec.origin).parent / "trainer" / "config")


def fraction_file(folder: str, name: str, fraction: str) -> str:
    """Training file of a data fraction, for example ``DIR/train-1of8.parquet``.

    Raises:
        ValueError: `fraction` is none of `FRACTIONS`.
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
