"""``python -m recipe.sft``: supervised cold start on verl's SFT trainer."""

import os
import sys

from omegaconf import DictConfig

from recipe import console, program
from recipe.preflight.checklist import refuse_faulty
from recipe.run import fork_server, series
from recipe.run.checkpoints import start_from
from recipe.run.folder import STOPPED, EndedEarly, StopRequest, open_run, resolve_paths, take_run
from recipe.run.host import leave_on_sigterm, run_child

IMPORTS = ("recipe.sft.trainer", "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl")
"""What a training process imports."""

CHECKED = "THINKVG_SFT_CHECKED"
"""Set for processes whose run has been checked by the process that started them."""
ALONE = {
    **{"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"},
    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"},
}
"""Variables of torch.distributed for a process that trains alone."""


def train(config: DictConfig) -> None:
    """Check a run, then train in this process, or start a process for each GPU of this node.

    Raises:
        InputError: the input has faults (all are named).
        SystemExit: with 1, where the run ended with fewer steps than asked for.
    """
    python = sys.executable
    if "RANK" not in os.environ and config.cluster.fork_processes:
        python = fork_server.start(IMPORTS)
    start_from(config)
    step = series.continue_series(config, "sft")
    # Where the user starts torchrun on each node, one process of each node checks.
    if CHECKED not in os.environ and os.environ.get("LOCAL_RANK", "0") == "0":
        series.tell(config, step)
        refuse_faulty(config, "sft")
    if "RANK" not in os.environ:
        _launch_processes(config, python)
        return
    prepare(config)
    from verl.utils.device import auto_set_device

    from recipe.sft.trainer import run

    auto_set_device(config)
    try:
        run(config)
    except EndedEarly as error:
        if int(os.environ["RANK"]) == 0:
            console.error(str(error))
        raise SystemExit(1) from None


def _launch_processes(config: DictConfig, python: str) -> None:
    """Start a process for each GPU of this node, with the same overrides."""
    open_run(config)
    processes = int(config.trainer.n_gpus_per_node)
    command, environment = [python, "-m", "recipe.sft"], {**os.environ, CHECKED: "1"}
    if processes == 1:
        environment |= ALONE
    else:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"]
        command = [*torchrun, "--nproc-per-node", str(processes), *command]
    leave_on_sigterm()
    console.say("starting a process for each GPU; loading the model takes half a minute or more")
    code = run_child([*command, *sys.argv[1:]], env=environment)
    if code:
        console.error(f"a training process ended with code {code}")
        raise SystemExit(code)
    if StopRequest(config.stop_file).answered() is not None:
        raise SystemExit(STOPPED)
    console.say(f"finished: {config.run_dir}")


def prepare(config: DictConfig) -> None:
    """Make the run's paths absolute; in the first process, which logs, take the run's folder."""
    resolve_paths(config)
    if int(os.environ["RANK"]) == 0:
        take_run(config, "sft")


def main() -> None:
    program.run("sft", train)


if __name__ == "__main__":
    main()
