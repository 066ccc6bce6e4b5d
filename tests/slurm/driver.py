"""A run without an engine: one actor on each node, a step a second, checkpoints, W&B, resuming.

Its arguments are KEY=VALUE like those of `recipe.train`; it takes the place of that command in
`train.sbatch` (THINKVG_DRIVER), so that what the launcher does can be tested in seconds.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import ray
import wandb
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from data_prep.program import write_whole
from recipe.loggers import AppendingFileLogger, continue_from
from recipe.run.folder import VARIABLE, StopRequest, set_variables

SAVE_EVERY = 5


@ray.remote(num_gpus=1)
class Worker:
    """One on each node."""

    def work(self) -> int:
        """A step's share."""
        time.sleep(float(os.environ.get("STEP_SECONDS", "1")))
        return os.getpid()


def start_workers(count: int) -> list[Any]:
    """A worker on each of the cluster's nodes."""
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    assert len(nodes) == count, f"{len(nodes)} nodes instead of {count}"
    places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    return [Worker.options(scheduling_strategy=place).remote() for place in places]


def main() -> None:
    """Train, so to speak."""
    settings = dict(argument.split("=", 1) for argument in sys.argv[1:])
    run_dir, steps = Path(settings["run_dir"]), int(settings["steps"])
    run_dir.mkdir(parents=True, exist_ok=True)
    checkpoint = run_dir / "checkpoint"
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    request = StopRequest(os.environ.get(VARIABLE, run_dir / "stop"))
    request.begin()
    ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
    workers = start_workers(int(settings["cluster.nodes"]))
    set_variables(run_dir)
    # As the trainer logs: a file that is written at once beside W&B, which is not.
    continue_from(done)
    file = AppendingFileLogger("launcher", "trivial")
    run = wandb.init(project="launcher")
    print(f"driver begins behind step {done}", flush=True)
    for step in range(done + 1, steps + 1):
        if step == int(settings.get("fail_at", 0)):
            raise RuntimeError("the trivial driver fails as it was told to")
        pids = ray.get([worker.work.remote() for worker in workers])
        file.log({"workers": len(pids)}, step)
        run.log({"workers": len(pids)}, step=step)
        print(f"driver step {step}", flush=True)
        asked = request.asked() and step < steps
        if asked or step % SAVE_EVERY == 0:
            write_whole(checkpoint, str(step))
        if asked:
            run.finish()
            request.answer(step)
            raise SystemExit(75)
    run.finish()


if __name__ == "__main__":
    main()
