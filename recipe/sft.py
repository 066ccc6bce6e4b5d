"""``python -m recipe.sft``: supervised cold start on verl's SFT trainer."""

import os
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from recipe import checks, program, run_identity
from recipe.checkpoints import LAST
from recipe.child import leave_on_sigterm, run_child
from recipe.resuming import check_resumable, prune
from recipe.run_lock import lock
from recipe.same_run import check_same_run, note_settings
from recipe.stop_request import STOPPED, StopRequest


def prepare(config: DictConfig) -> None:
    """Take the run's folder and say where the logs of this run go.

    Raises:
        InputError: another program is running in the folder.
    """
    run_dir = Path(config.run_dir).resolve()
    run_dir.mkdir(parents=True, exist_ok=True)
    with open_dict(config):
        config.run_dir = str(run_dir)
        config.stop_file = str(Path(config.stop_file).resolve())
    if int(os.environ["RANK"]) == 0:
        # the process that logs
        lock(run_dir)
        note_settings(config, "sft")
        prune(config, "sft")
        marker = Path(config.trainer.default_local_dir).absolute() / LAST
        StopRequest(config.stop_file).tell_marker(marker)
        run_identity.set_variables(run_dir)


def _launch_processes(config: DictConfig) -> None:
    """Start one process for each GPU of this node under torchrun, with the same overrides.

    Raises:
        SystemExit: with the code of torchrun, where it is not 0, or with `STOPPED`.
    """
    request = StopRequest(config.stop_file)
    request.begin()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(config.trainer.n_gpus_per_node), "-m", "recipe.sft"]
    leave_on_sigterm()
    code = run_child([*command, *sys.argv[1:]])
    if code:
        raise SystemExit(code)
    if request.answered() is not None:
        raise SystemExit(STOPPED)


def train(config: DictConfig) -> None:
    """Check, then train: in this process under torchrun, else start torchrun on this node."""
    checks.check_training_input(config, checks.SFT_COLUMNS)
    check_same_run(config, "sft")
    check_resumable(config, "sft")
    program.set_environment(config)
    if "RANK" not in os.environ:
        checks.check_smoothing(config)
        _launch_processes(config)
        return
    prepare(config)
    from verl.utils.device import auto_set_device

    from recipe.sft_trainer import run

    auto_set_device(config)
    run(config)


def main() -> Any:
    """Entry point."""
    program.run("sft", train)


if __name__ == "__main__":
    main()
