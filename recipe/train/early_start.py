"""Parts of the engine that begin while others do.

verl 0.9.1 starts the processes of a run one after the other, and each of them imports torch,
transformers, verl or vLLM for 5 to 9 s. What needs nothing of the others begins earlier here. A
part that fails early fails again, with its message, when verl starts it.
"""

import contextlib
import importlib
import threading
from typing import Any

from omegaconf import DictConfig


class EarlyStorage:
    """A task runner class for verl's ``run_ppo``, which starts TransferQueue as well."""

    def __init__(self, task_runner: Any, settings: DictConfig) -> None:
        self._task_runner = task_runner
        self._settings = settings

    def options(self, **options: Any) -> "EarlyStorage":
        return EarlyStorage(self._task_runner.options(**options), self._settings)

    def remote(self) -> Any:
        """Start the task runner; the storage starts while its process imports verl."""
        threading.Thread(target=self._start_storage, daemon=True).start()
        return self._task_runner.remote()

    def _start_storage(self) -> None:
        with contextlib.suppress(Exception):
            import transfer_queue as tq

            tq.init(self._settings)


def import_early(module: str) -> None:
    """Import a module in a thread, while this one waits for other processes."""

    def import_it() -> None:
        with contextlib.suppress(Exception):
            importlib.import_module(module)

    threading.Thread(target=import_it, daemon=True).start()
