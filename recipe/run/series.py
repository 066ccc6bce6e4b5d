"""Whether a start begins a run's steps anew, or continues what the same command has begun.

`trainer.resume_mode=disable` and `resume_path` say where a series of starts begins. A requeued job
repeats these settings, and so does a user who runs the same command to resume. The steps that the
series has done must not be lost. So the run's folder has a file that names the settings
with which the series began. The file goes when the run is finished.
"""

import json
import os
from pathlib import Path

from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from data_prep.program import write_whole
from recipe import console
from recipe.run.checkpoints import last_step, load_json, mark_step
from recipe.run.folder import differences, replace_run, resume_mode

FILE = "begun.json"


def continue_series(config: DictConfig, program: str) -> int:
    """Let the start resume from the last checkpoint of its series, if the series has one.

    Returns:
        The step of that checkpoint; 0 if the start follows its own ``trainer.resume_mode``.

    Raises:
        InputError: the marker of the last checkpoint holds something other than a step.
    """
    step = step_of_series(config, program)
    if step:
        with open_dict(config):
            config.trainer.resume_mode = "auto"
            config.trainer.resume_from_path = None
    return step


def tell(config: DictConfig, step: int) -> None:
    """Say that the start continues, since the settings ask for something else."""
    if step:
        console.say(
            f"this command has begun the run already: it resumes from step {step} (to begin again, "
            f"remove {Path(config.run_dir) / FILE})"
        )


def step_of_series(config: DictConfig, program: str) -> int:
    """Return the last saved step of the series that this command began; 0 without one."""
    beginning = _beginning(config, program)
    if beginning["mode"] == "auto" or config.trainer.get("val_only"):
        return 0
    try:
        is_same = load_json(Path(config.run_dir) / FILE) == beginning
        if not is_same or differences(config, program):
            return 0
    except OmegaConfBaseException:
        return 0  # a value is missing: the checks of the run name it
    return last_step(Path(config.trainer.default_local_dir))


def begin_series(config: DictConfig, program: str, step: int) -> None:
    """Record how a series begins at `step`; call it where the metrics after `step` are removed.

    The marker of the last checkpoint of an earlier series is removed as well, or put to `step`: it
    must not be taken for one of this series. From here on the folder is this run's.
    """
    beginning = _beginning(config, program)
    file = Path(config.run_dir) / FILE
    if beginning["mode"] == "auto":
        if not step:
            file.unlink(missing_ok=True)
        return
    holder = Path(config.trainer.default_local_dir)
    path = beginning["path"]
    is_here = path is not None and os.path.dirname(path) == os.path.realpath(holder)
    mark_step(holder, step if is_here else 0)
    replace_run(Path(config.run_dir))
    write_whole(file, json.dumps(beginning) + "\n")


def end_series(config: DictConfig) -> None:
    """Forget how a finished run began: the same command may then begin it again."""
    if not config.trainer.get("val_only"):
        (Path(config.run_dir) / FILE).unlink(missing_ok=True)


def _beginning(config: DictConfig, program: str) -> dict[str, str | None]:
    mode, path = resume_mode(config, program), config.trainer.get("resume_from_path")
    is_path = mode == "resume_path" and path
    return {"mode": mode, "path": os.path.realpath(path) if is_path else None}
