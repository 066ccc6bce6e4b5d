"""verl's task runner, which also knows the trainer of this recipe."""

from typing import Any

import ray
from verl.trainer.main_ppo import TaskRunnerV1


def task_runner_class() -> Any:
    """Ray actor class that runs the training on the head node."""
    # A Ray actor class cannot be subclassed; the plain class beneath it can.
    plain = TaskRunnerV1.__ray_metadata__.modified_class.__ray_actor_class__

    class TaskRunner(plain):  # type: ignore[misc, valid-type]
        def run(self, config: Any) -> None:
            # Registers the trainer with verl in the process that looks it up.
            import recipe.trainer  # noqa: F401

            super().run(config)

    return ray.remote(TaskRunner)
