"""The runs of a sweep: their names, their command lines, and which are finished."""

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from recipe.errors import InputError
from recipe.evaluation.files import write_text_atomically
from recipe.program import compose_config
from recipe.settings import CONFIG_FOLDER
from recipe.train import FINISHED

BASE = "base"
OVERRIDES = "overrides.json"


@dataclass(frozen=True)
class Run:
    """One training run; `own` is what it differs by, `overrides` its whole command line."""

    name: str
    folder: Path
    own: tuple[str, ...]
    overrides: tuple[str, ...]

    @property
    def is_finished(self) -> bool:
        """Whether this very run came to its end."""
        return (self.folder / FINISHED).is_file() and self.is_as_before

    @property
    def is_as_before(self) -> bool:
        """Whether the folder holds a run with the same overrides, or none at all."""
        file = self.folder / OVERRIDES
        return not file.is_file() or _apart_from_place(json.loads(file.read_text())) == (
            _apart_from_place(self.overrides)
        )

    def note_overrides(self) -> None:
        """Keep the overrides in the run's folder, which tells a later sweep what it holds."""
        text = json.dumps(list(self.overrides), indent=2) + "\n"
        write_text_atomically(self.folder / OVERRIDES, text)

    @property
    def metrics(self) -> Path:
        """The metrics of the run."""
        return self.folder / "metrics.jsonl"


def _apart_from_place(overrides: Sequence[str]) -> list[str]:
    return [override for override in overrides if not override.startswith("run_dir=")]


def ablations() -> list[str]:
    """Names of the shipped ablations."""
    return sorted(path.stem for path in (CONFIG_FOLDER / "ablation").glob("*.yaml"))


def plan_runs(out: Path, variants: Iterable[str], shared: Sequence[str]) -> list[Run]:
    """The runs of a sweep, checked: every configuration composes, every name is its own.

    Args:
        out: folder of the sweep.
        variants: each an ablation's name or ``base``, overrides behind it, or overrides alone,
            quoted as in a shell.
        shared: overrides of all runs.

    Raises:
        InputError: an unknown ablation or key, two runs of one name, or a folder that holds a run
            with other overrides.
    """
    runs = [_run(out, variant, shared) for variant in variants]
    for position, run in enumerate(runs):
        if run.name in [other.name for other in runs[:position]]:
            raise InputError(f"two runs are called {run.name}: name each variant once")
        if not run.is_as_before:
            raise InputError(
                f"{run.folder}: holds a run with other overrides ({OVERRIDES}): choose another "
                "--out, or remove that folder"
            )
        compose_config("train", list(run.overrides))
    return runs


def _run(out: Path, variant: str, shared: Sequence[str]) -> Run:
    own = _overrides_of(variant)
    name = run_name(own)
    folder = out.resolve() / name
    named = (f"run_dir={folder}", f"trainer.experiment_name={out.resolve().name}-{name}")
    return Run(name, folder, own, (*shared, *own, *named))


def _overrides_of(variant: str) -> tuple[str, ...]:
    try:
        own = shlex.split(variant)
    except ValueError as error:
        raise InputError(f"{variant}: {error}: quote a variant as in a shell") from error
    if own and "=" not in own[0]:
        first = own.pop(0)
        if first != BASE and first not in ablations():
            raise InputError(
                f"{first}: no such ablation; there are {BASE}, {', '.join(ablations())}"
            )
        own = own if first == BASE else [f"ablation={first}", *own]
    return tuple(own)


def run_name(own: Sequence[str]) -> str:
    """A name made of what a run differs by: ``dapo``, ``n4-kl_loss_coef0.1``, ``base``."""
    parts = []
    for override in own:
        key, _, value = override.lstrip("+~").partition("=")
        prefix = "" if key == "ablation" else key.rpartition(".")[2]
        parts.append(re.sub(r"[^A-Za-z0-9_.]+", "_", f"{prefix}{value}").strip("_"))
    return "-".join(parts) or BASE
