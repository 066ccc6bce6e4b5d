"""``python -m recipe.train``: GRPO on verl, with Ray, vLLM rollouts and an FSDP actor."""

import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from data_prep.program import InputError
from recipe import cluster, console, program
from recipe.preflight.checklist import refuse_faulty
from recipe.run import fork_server, series
from recipe.run.checkpoints import last_step, start_from
from recipe.run.folder import STOPPED, STOPPED_AFTER, EndedEarly, StopRequest, open_run, take_run
from recipe.run.watches import ActorWatch, StuckWatch
from recipe.train.early_start import EarlyStorage
from recipe.train.failures import NoSignal, RolloutsFailing
from reward.judge.settings import JudgeFailing

LIBRARIES = ("transformers.models.qwen2_5_vl.modeling_qwen2_5_vl", "tensordict", "datasets")
ENGINE = (
    "recipe.verl_fixes.actor_ids",
    "recipe.train.trainer",
    "vllm.v1.engine.core",
    "recipe.verl_fixes.rollout_server",
)
"""What the processes of a run import, without and with Ray."""

FINISHED = "finished.json"
"""File in the folder of a run that has done all its steps."""


def train(config: DictConfig) -> None:
    """Check a run, then run it.

    Raises:
        InputError: the input has faults (all are named), or the judge fails too often.
        SystemExit: with the code `STOPPED` after a request to stop; with 1 where a part of the
            engine failed.
    """
    # A private cluster, unless the user names one: Ray would join any that runs on this machine.
    os.environ.setdefault("RAY_ADDRESS", "local")
    is_alone = config.cluster.fork_processes and not cluster.joins_a_cluster()
    python = fork_server.start(LIBRARIES, ENGINE) if is_alone else None
    start_from(config)
    series.tell(config, series.continue_series(config, "train"))
    refuse_faulty(config, "train")
    prepare(config)
    if python is not None:
        with open_dict(config):
            runtime = config.ray_kwargs.ray_init.runtime_env
            runtime.py_executable = runtime.env_vars[fork_server.VARIABLE] = python
    finished = Path(config.run_dir) / FINISHED
    # A validation of a run that has begun says nothing about the run's end.
    trains = not (config.trainer.val_only and last_step(Path(config.trainer.default_local_dir)))
    if trains:
        finished.unlink(missing_ok=True)
    if cluster.joins_a_cluster():
        console.say("waiting for the Ray cluster to offer what the run needs")
        cluster.wait_for_cluster(config)
    run_engine(config)
    step = StopRequest(config.stop_file).answered()
    if step is not None:
        import ray

        ray.shutdown()
        console.say(STOPPED_AFTER.format(step))
        raise SystemExit(STOPPED)
    if trains:
        finished.write_text("{}\n", encoding="utf-8")
    series.end_series(config)
    console.say(f"finished: {config.run_dir}")


def prepare(config: DictConfig) -> None:
    """Open and take the run's folder, and resolve the configuration for workers on any node."""
    open_run(config)
    with open_dict(config):
        for key in ("train_files", "val_files"):
            config.data[key] = str(Path(config.data[key]).resolve())
        for model in (config.model, config.actor_rollout_ref.model):
            if Path(model.path).exists():
                model.path = str(Path(model.path).resolve())
        if cluster.joins_a_cluster():
            # Ray refuses declared resources for a running cluster.
            config.ray_kwargs.ray_init.num_cpus = None
            config.ray_kwargs.ray_init.num_gpus = None
    # Workers do not have this process's resolvers.
    OmegaConf.resolve(config)
    # On a running cluster the process that trains and logs inherits nothing from this one.
    variables = take_run(config, "train") | console.variables()
    runtime = config.ray_kwargs.ray_init.runtime_env
    # Ray refuses a variable that the job's own runtime environment has as well.
    job_variables = cluster.variables_of_the_job()
    with open_dict(config):
        runtime.env_vars = {
            name: value
            for name, value in {**_worker_variables(runtime.env_vars), **variables}.items()
            if name not in job_variables
        }


def _worker_variables(configured: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables of Ray's workers; what the user has set in this process comes first.

    Ray takes texts only, and a variable without a value (null) is left out.
    """
    return {
        name: os.environ.get(name, str(value))
        for name, value in configured.items()
        if value is not None
    }


def run_engine(config: DictConfig) -> None:
    """Run the training with verl.

    Where a part of the engine is stuck, the program ends with the code `STOPPED`
    (`recipe.run.watches`), and where one failed, with 1 and one line.

    Raises:
        InputError: the judge failed too often.
    """
    import ray
    from ray.exceptions import RayError
    from verl.trainer.main_ppo import run_ppo
    from verl.utils.device import auto_set_device

    auto_set_device(config)
    console.say("starting Ray; the model and vLLM follow, which takes a minute or more")
    try:
        start = float(config.trainer.v1.thinkvg.stuck.start)
        with ActorWatch() as watch, StuckWatch(start, before_end=watch.stop):
            run_ppo(
                config, task_runner_class=EarlyStorage(task_runner_class(), config.transfer_queue)
            )
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, JudgeFailing):
            ray.shutdown()
            raise InputError(str(cause)) from None
        traceback.print_exc()
        fault = watch.cause() or _description(cause)
        # Ray prints its last messages now, so that the user sees the fault last.
        ray.shutdown()
        # The same command would fail again.
        remedy = "" if isinstance(cause, NoSignal | EndedEarly) else f"; {_how_to_resume(config)}"
        console.error(f"the run failed: {fault}{remedy}")
        raise SystemExit(1) from None


def task_runner_class() -> Any:
    """Return verl's task runner, a Ray actor class, with the trainer of this recipe."""
    import ray
    from verl.trainer.main_ppo import TaskRunnerV1

    # A Ray actor class cannot be subclassed; the plain class beneath it can.
    plain = TaskRunnerV1.__ray_metadata__.modified_class.__ray_actor_class__

    class TaskRunner(plain):  # type: ignore[misc, valid-type]
        def run(self, config: Any) -> None:
            # Registers the trainer in the process in which verl looks it up.
            import recipe.train.trainer  # noqa: F401

            super().run(config)

    return ray.remote(TaskRunner)


def _description(error: BaseException) -> str:
    description = program.describe(error)
    is_ours = isinstance(error, RolloutsFailing | NoSignal | EndedEarly)
    return description.partition(": ")[2] if is_ours else description


def _how_to_resume(config: DictConfig) -> str:
    if config.trainer.get("resume_mode", "auto") == "auto":
        step = last_step(Path(config.trainer.default_local_dir))
    else:
        step = series.step_of_series(config, "train")
    if not step:
        return "there is no checkpoint yet"
    return f"run the same command to resume from step {step}"


def main() -> None:
    program.run("train", train)


if __name__ == "__main__":
    main()
