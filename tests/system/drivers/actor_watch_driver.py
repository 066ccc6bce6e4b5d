"""A program that waits for an actor without end: ``HOW`` says how the actor ends."""

import os
import signal
import sys
import time

import ray

from recipe.run import watches


@ray.remote
class Idle:
    """Does nothing."""

    def pid(self) -> int:
        """Its process."""
        return os.getpid()


def main() -> None:
    """Start an actor, have it end, and wait."""
    how = sys.argv[1]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    watches.ACTOR_POLL_S, watches.PATIENCE_S = 0.2, 2.0
    with watches.ActorWatch() as watch:
        actor = Idle.remote()
        pid = ray.get(actor.pid.remote())
        if how == "killed":
            os.kill(pid, signal.SIGKILL)
        elif how == "meant":
            ray.kill(actor)
        else:
            del actor
        time.sleep(12)
        print(f"found: {watch.death!r}", flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
