"""All checks of a run, in order, and what they found."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from recipe import checks, resources
from recipe.errors import InputError
from recipe.preflight import machine, services
from recipe.preflight.batch import batch_faults, layout_faults
from recipe.preflight.choices import choice_faults
from recipe.preflight.communication import Traffic, traffic
from recipe.preflight.data import DataFile, data_faults, enough_rows, rows_of
from recipe.preflight.memory import Estimate, estimate
from recipe.preflight.problems import Problems
from recipe.preflight.shape import ModelShape, read_shape
from recipe.preflight.values import value_faults
from recipe.preflight.workload import GIB, Workload, read_workload
from recipe.resuming import check_resumable
from recipe.same_run import check_same_run


@dataclass(frozen=True)
class Plan:
    """What a run would do and take; a part that could not be found out is None."""

    program: str
    files: tuple[DataFile, ...] = ()
    shape: ModelShape | None = None
    work: Workload | None = None
    memory: Estimate | None = None
    traffic: Traffic | None = None
    problems: tuple[str, ...] = ()


def examine(config: DictConfig, program: str, elsewhere: bool = False) -> Plan:
    """Run every check of a composed configuration.

    Args:
        program: ``train`` or ``sft``.
        elsewhere: the run is to be on other machines: GPUs, packages and disk of this one are
            not looked at.
    """
    problems = Problems()
    problems.collect("the settings", lambda: checks.check_settings(config))
    if not problems.messages:
        problems.extend("numbers", lambda: value_faults(config, program))
    if problems.messages:
        return Plan(program, problems=tuple(problems.messages))
    if not elsewhere and not (program == "train" and resources.gpus_are_elsewhere()):
        problems.collect("the accelerator", lambda: checks.check_accelerator(config))
    path = config.model.path
    model = problems.collect("the model", lambda: checks.check_model_folder(path, "model.path"))
    shape = None
    if model is not None:
        shape = problems.collect("the model's shape", lambda: read_shape(path))
    files = _check_files(config, program, model or {}, shape, problems)
    _check_program(config, program, problems)
    notices = [file.metadata.get("notice") for file in files]
    if program == "train":
        problems.extend("loggers", lambda: services.picture_faults(config, notices))
    pixels = max((int(file.metadata.get("max_pixels", 0)) for file in files), default=0)
    work = problems.collect("the workload", lambda: _workload(config, program, pixels))
    if work is None:
        return Plan(program, files, shape, problems=tuple(problems.messages))
    problems.extend("batch sizes", lambda: batch_faults(config, work))
    problems.extend("names", lambda: choice_faults(config, program, work))
    memory = problems.collect("memory", lambda: _check_memory(config, shape, work, problems))
    if not elsewhere:
        _check_machine(config, shape, work, problems)
    moved = problems.collect("traffic", lambda: traffic(shape, work) if shape else None)
    return Plan(program, files, shape, work, memory, moved, tuple(problems.messages))


def _workload(config: DictConfig, program: str, pixels: int) -> Workload:
    try:
        return read_workload(config, program, pixels)
    except KeyError as error:
        raise InputError(
            f"a precision {error} is not known: choose fp32, bf16 or fp16 for cluster.param_dtype, "
            "cluster.dtype and the engine's model_dtype"
        ) from error


def _check_files(
    config: DictConfig,
    program: str,
    model: dict[str, Any],
    shape: ModelShape | None,
    problems: Problems,
) -> tuple[DataFile, ...]:
    columns = checks.ROLLOUT_COLUMNS if program == "train" else checks.SFT_COLUMNS
    processor = _processor(config.model.path, problems) if model else None
    files = []
    for key in checks.DATA_KEYS:
        metadata = problems.collect(
            f"data.{key}",
            lambda key=key: checks.check_data_file(config, key, columns, model),  # type: ignore[misc]
        )
        if metadata is None:
            continue
        path, training = str(config.data[key]), program == "train"
        file = DataFile(
            key=key,
            path=path,
            metadata=metadata,
            rows=rows_of(path),
            prompt_limit=config.data.max_prompt_length if training else config.data.max_length,
            response_limit=config.data.max_response_length if training else None,
        )
        files.append(file)
        batch = int(config.data.train_batch_size)
        problems.extend(f"data.{key}", partial(data_faults, file, shape, processor))
        problems.extend(f"data.{key}", partial(enough_rows, file, batch))
    return tuple(files)


def _processor(path: str, problems: Problems) -> Any:
    """The processor of a local model folder; None where there is none to be loaded."""
    from transformers import AutoProcessor

    if not Path(path).is_dir():
        return None
    try:
        processor = AutoProcessor.from_pretrained(path, local_files_only=True)
    except Exception as error:  # files that are broken fail in many ways
        problems.add(
            f"model.path={path}: its processor does not load ({type(error).__name__}: {error}): "
            "copy tokenizer and processor of the base model"
        )
        return None
    if not getattr(processor, "chat_template", None):
        problems.add(
            f"model.path={path}: no chat template: copy chat_template.jinja of the base model"
        )
        return None
    return processor


def _check_program(config: DictConfig, program: str, problems: Problems) -> None:
    """The checks that the program itself makes before it starts."""
    problems.collect("the run's folder", lambda: check_same_run(config, program))
    problems.collect("the checkpoint", lambda: check_resumable(config, program))
    if program == "sft":
        problems.collect("soft targets", lambda: checks.check_smoothing(config))
        return
    known = len(problems.messages)
    problems.collect("the reward", lambda: checks.check_reward(config))
    if len(problems.messages) == known:
        problems.extend("the judge", lambda: services.judge_faults(config))
    problems.collect("GDPO", lambda: checks.check_gdpo(config))
    if not resources.joins_a_cluster():
        problems.collect("Ray's resources", lambda: resources.check_declared(config))


def _check_memory(
    config: DictConfig, shape: ModelShape | None, work: Workload, problems: Problems
) -> Estimate | None:
    if shape is None:
        return None
    for fault in layout_faults(shape, work):
        problems.add(fault)
    memory = estimate(shape, work)
    for moment, needed in memory.moments.items():
        if needed > memory.available:
            problems.add(
                f"memory: {moment} takes {needed / GIB:.1f} GiB, of the "
                f"{memory.available / GIB:.1f} that a GPU has: {_remedy(moment, work)}"
            )
    if memory.serving and memory.serving.cache_tokens < work.sequence:
        problems.add(
            f"memory: vLLM's cache holds {memory.serving.cache_tokens} tokens, a sequence has "
            f"{work.sequence}: raise cluster.gpu_memory_utilization or cluster.tensor_parallel"
        )
    return memory


def _remedy(moment: str, work: Workload) -> str:
    """What to change first, by moment."""
    more = f"more nodes (cluster.nodes={2 * work.nodes})"
    if moment == "rollout":
        offload = "" if work.offload_optimizer else "set cluster.optimizer_offload=true, "
        return f"{offload}lower cluster.gpu_memory_utilization, or take {more}"
    if moment == "update":
        return f"take {more}, since parameters, gradients and optimizer meet there"
    if work.program == "train":
        tokens = "actor_rollout_ref.actor.ppo_max_token_len_per_gpu"
        rows = "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu"
    else:
        tokens, rows = "data.max_token_len_per_gpu", "data.micro_batch_size_per_gpu"
    offload = "" if work.offload_optimizer else "cluster.optimizer_offload=true, "
    return f"lower {tokens} (or {rows} without dynamic batches), set {offload}or take {more}"


def _check_machine(
    config: DictConfig, shape: ModelShape | None, work: Workload, problems: Problems
) -> None:
    problems.extend("GPUs", lambda: machine.gpu_faults(work))
    problems.extend("packages", lambda: machine.package_faults(config, work))
    if shape is not None:
        problems.extend("the disk", lambda: machine.disk_faults(config, shape, work))
    problems.extend("W&B", lambda: services.wandb_faults(config))
