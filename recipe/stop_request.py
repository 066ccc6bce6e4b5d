"""A file that asks a running training to save a checkpoint after its step and to end.

The launcher makes it when SLURM announces the end of the job (`launch/slurm/lib.sh`); by hand,
``touch RUN_DIR/stop`` does the same. The trainer answers with the file ``stop.done``, which holds
the step that was saved. verl 0.9.1 has a like piece, ``trainer.esi_redundant_time``, for expiry
times that two clouds put into the environment; its V1 trainer does not look at it, and when SLURM's
signal will come is not known at the start.
"""

import os
from pathlib import Path

from recipe.evaluation.files import write_text_atomically

VARIABLE = "THINKVG_STOP_FILE"
STOPPED = 75
"""Exit code of a program that ended on request: EX_TEMPFAIL of sysexits.h, try again."""


class StopRequest:
    """The request at `path`, on a file system that all nodes share."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._done = Path(f"{path}.done")

    def asked(self) -> bool:
        """Whether someone has asked."""
        return self._path.exists()

    def answer(self, step: int) -> None:
        """Say that the checkpoint of `step` is whole and that the training ends."""
        write_text_atomically(self._done, f"{step}\n")
        self._path.unlink(missing_ok=True)

    def answered(self) -> int | None:
        """The step that was saved, or None where the training did not end on request."""
        return int(self._done.read_text()) if self._done.exists() else None

    def tell_marker(self, marker: Path) -> None:
        """Leave a launcher the path of the last checkpoint's marker, which says how far it is."""
        if VARIABLE in os.environ:
            write_text_atomically(Path(f"{self._path}.marker"), f"{marker}\n")

    def begin(self) -> None:
        """Forget an earlier run's answer, and an earlier run's request.

        A launcher's request (the variable is set) is a file of this one attempt: it stays, since it
        may come while the run is starting.
        """
        self._done.unlink(missing_ok=True)
        if VARIABLE not in os.environ:
            self._path.unlink(missing_ok=True)
