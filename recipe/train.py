"""``python -m recipe.train``: GRPO on verl, with Ray, vLLM rollouts and an FSDP actor."""

import os
import sys
import traceback
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from recipe import checks, program, resources, run_identity
from recipe.actor_watch import ActorWatch
from recipe.checkpoints import LAST, last_step
from recipe.errors import InputError
from recipe.failed_rollouts import RolloutsFailing
from recipe.preflight.batch import batch_faults
from recipe.preflight.services import picture_faults
from recipe.preflight.values import value_faults
from recipe.preflight.workload import read_workload
from recipe.resuming import check_resumable, prune
from recipe.run_lock import lock
from recipe.same_run import check_same_run, note_settings
from recipe.stop_request import STOPPED, StopRequest
from reward.judge.failures import JudgeFailing

FINISHED = "finished.json"
"""In the folder of a run that came to its end."""


def check(config: DictConfig) -> None:
    """Check everything that can be checked before an engine starts.

    Raises:
        InputError: the first fault found.
    """
    away = resources.gpus_are_elsewhere()
    files = checks.check_training_input(config, checks.ROLLOUT_COLUMNS, elsewhere=away)
    for fault in picture_faults(config, [file.get("notice") for file in files]):
        raise InputError(fault)
    checks.check_reward(config)
    checks.check_gdpo(config)
    for fault in value_faults(config, "train"):
        raise InputError(fault)
    for fault in batch_faults(config, read_workload(config, "train")):
        raise InputError(fault)
    if not resources.joins_a_cluster():
        resources.check_declared(config)
    check_same_run(config, "train")
    check_resumable(config, "train")


def prepare(config: DictConfig) -> None:
    """Take the run's folder, make paths absolute for the workers, say where the logs go.

    Raises:
        InputError: another program is running in the folder.
    """
    run_dir = Path(config.run_dir).resolve()
    run_dir.mkdir(parents=True, exist_ok=True)
    lock(run_dir)
    with open_dict(config):
        config.run_dir = str(run_dir)
        config.stop_file = str(Path(config.stop_file).resolve())
        for key in ("train_files", "val_files"):
            config.data[key] = str(Path(config.data[key]).resolve())
        if Path(config.model.path).exists():
            config.model.path = str(Path(config.model.path).resolve())
        if resources.joins_a_cluster():
            # What a running cluster has is not ours to declare.
            config.ray_kwargs.ray_init.num_cpus = None
            config.ray_kwargs.ray_init.num_gpus = None
    # Workers know neither the resolvers of this process nor what was merged into what.
    OmegaConf.resolve(config)
    if config.cluster.platform == "cpu":
        # A private cluster, unless the user names one: logical resources are ours to declare.
        os.environ.setdefault("RAY_ADDRESS", "local")
    note_settings(config, "train")
    prune(config, "train")
    request = StopRequest(config.stop_file)
    request.begin()
    request.tell_marker(Path(config.trainer.default_local_dir).absolute() / LAST)
    # The process that trains and logs inherits nothing from this one on a running cluster.
    with open_dict(config):
        workers = config.ray_kwargs.ray_init.runtime_env
        wanted = {**workers.env_vars, **run_identity.set_variables(run_dir)}
        # Ray refuses a variable that the job's own runtime environment has as well.
        given = resources.variables_of_the_job()
        workers.env_vars = {name: value for name, value in wanted.items() if name not in given}


def run_engine(config: DictConfig) -> None:
    """Have verl run the training.

    Raises:
        InputError: the judge failed too often.
        SystemExit: with code 1 and one line, where a part of the engine failed.
    """
    import ray
    from ray.exceptions import RayError
    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config
    from verl.utils.device import auto_set_device

    from recipe.task_runner import task_runner_class

    auto_set_device(config)
    validate_config(
        config=config,
        use_reference_policy=need_reference_policy(config),
        use_critic=need_critic(config),
    )
    try:
        with ActorWatch() as watch:
            run_ppo(config, task_runner_class=task_runner_class())
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, JudgeFailing):
            ray.shutdown()
            raise InputError(str(cause)) from None
        traceback.print_exc()
        fault = watch.cause() or _told(cause)
        # Ray's last messages first, so that the fault is what the user sees last.
        ray.shutdown()
        print(f"error: the run failed: {fault}; {_onwards(config)}", file=sys.stderr)
        raise SystemExit(1) from None


def _told(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [""])[0]
    return line if isinstance(error, RolloutsFailing) else f"{type(error).__name__}: {line}"


def _onwards(config: DictConfig) -> str:
    """What the same command would do after a failure."""
    step = last_step(Path(config.trainer.default_local_dir))
    return f"the same command goes on behind step {step}" if step else "there is no checkpoint yet"


def train(config: DictConfig) -> None:
    """Check, validate and run.

    Raises:
        InputError: a fault of the input, or a judge that fails too often.
        SystemExit: with the code `STOPPED`, where the run was asked to save and end; with 1, where
            a part of the engine failed.
    """
    check(config)
    program.set_environment(config)
    prepare(config)
    finished = Path(config.run_dir) / FINISHED
    finished.unlink(missing_ok=True)
    if resources.joins_a_cluster():
        resources.wait_for_cluster(config)
    run_engine(config)
    step = StopRequest(config.stop_file).answered()
    if step is not None:
        import ray

        ray.shutdown()
        print(
            f"ended on request after step {step}, its checkpoint is saved: the same command goes on"
        )
        raise SystemExit(STOPPED)
    finished.write_text("{}\n", encoding="utf-8")


def main() -> Any:
    """Entry point."""
    program.run("train", train)


if __name__ == "__main__":
    main()
