"""Whether a model was trained on patients whose questions it answers."""

from collections.abc import Collection, Iterator
from pathlib import Path

from data_prep.earlier import patients_of
from data_prep.program import InputError
from recipe.run.checkpoints import find_model, load_json, run_folder
from recipe.run.folder import FILE

BASES = ("actor_rollout_ref.model.path", "model.path")
"""Keys of a run's settings: the model that GRPO or SFT began with."""


def training_files(model: str | Path) -> list[Path]:
    """Return the training files of a checkpoint's run, and of the runs that it began with.

    They are empty for a model of which no run is known, such as one of the hub or an exported one.
    """
    return [Path(file) for settings in _runs(model) for file in _listed(settings)]


def patients_seen(model: str | Path, patients: Collection[str]) -> int | None:
    """Return how many of the patients a model was trained on; None if its data is not known."""
    files = training_files(model)
    if not files or not all(file.is_file() for file in files):
        return None
    try:
        trained = set().union(*(patients_of(file) for file in files))
    except InputError:
        return None
    return len(trained & set(patients))


def _runs(model: str | Path) -> Iterator[dict[str, object]]:
    """Yield the settings of the run that wrote a model, and of those before it."""
    visited: set[Path] = set()
    while model and Path(model).is_dir():
        try:
            folder = run_folder(find_model(model, "model.path"))
        except InputError:
            return  # an earlier model that is not there any more
        if folder is None or folder in visited:
            return
        visited.add(folder)
        settings = load_json(folder / FILE)
        yield settings
        model = next((str(settings[key]) for key in BASES if settings.get(key)), "")


def _listed(settings: dict[str, object]) -> list[str]:
    files = settings.get("data.train_files") or []
    return [str(file) for file in files] if isinstance(files, list) else [str(files)]
