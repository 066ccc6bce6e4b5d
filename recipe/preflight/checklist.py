"""All checks of a run, in order, and what they found."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from recipe import checks, resources
from recipe.errors import InputError
from recipe.preflight import machine, services
from recipe.preflight.batch import batch_faults, layout_faults
from recipe.preflight.communication import Traffic, traffic
from recipe.preflight.data import DataFile, data_faults, enough_rows, rows_of
from recipe.preflight.memory import Estimate, estimate
from recipe.preflight.problems import Problems
from recipe.preflight.shape import ModelShape, read_shape
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
    problems.collect(lambda: checks.check_settings(config))
    if problems.messages:
        return Plan(program, problems=tuple(problems.messages))
    if not elsewhere and not (program == "train" and resources.gpus_are_elsewhere()):
        problems.collect(lambda: checks.check_accelerator(config))
    model = problems.collect(lambda: checks.check_model_folder(config.model.path, "model.path"))
    shape = None
    if model is not None:
        shape = problems.collect(lambda: read_shape(config.model.path))
    files = _check_files(config, program, model or {}, shape, problems)
    _check_program(config, program, problems)
    problems.collect(lambda: check_same_run(config, program))
    problems.collect(lambda: check_resumable(config, program))
    if program == "train":
        for fault in services.picture_faults(config, [f.metadata.get("notice") for f in files]):
            problems.add(fault)
    pixels = max((int(file.metadata.get("max_pixels", 0)) for file in files), default=0)
    work = problems.collect(lambda: _workload(config, program, pixels))
    if work is None:
        return Plan(program, files, shape, problems=tuple(problems.messages))
    for fault in batch_faults(config, work):
        problems.add(fault)
    memory = _check_memory(config, shape, work, problems)
    if not elsewhere:
        _check_machine(config, shape, work, problems)
    moved = traffic(shape, work) if shape else None
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
    processor = _processor(config.model.path) if model else None
    files = []
    for key in checks.DATA_KEYS:
        metadata = problems.collect(
            lambda key=key: checks.check_data_file(config, key, columns, model)  # type: ignore[misc]
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
        for fault in data_faults(file, shape, processor):
            problems.add(fault)
        for fault in enough_rows(file, int(config.data.train_batch_size)):
            problems.add(fault)
    return tuple(files)


def _processor(path: str) -> Any:
    """The processor of a local model folder; None where there is none to be loaded."""
    from transformers import AutoProcessor

    if not Path(path).is_dir():
        return None
    try:
        return AutoProcessor.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError):
        return None  # check_model_folder names what is missing


def _check_program(config: DictConfig, program: str, problems: Problems) -> None:
    """The checks that the program itself makes before it starts."""
    if program == "sft":
        problems.collect(lambda: checks.check_smoothing(config))
        return
    known = len(problems.messages)
    problems.collect(lambda: checks.check_reward(config))
    if len(problems.messages) == known:
        for fault in services.judge_faults(config):
            problems.add(fault)
    problems.collect(lambda: checks.check_gdpo(config))
    if not resources.joins_a_cluster():
        problems.collect(lambda: resources.check_declared(config))


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
    faults = [*machine.gpu_faults(work), *machine.package_faults(config, work)]
    if shape is not None:
        faults += machine.disk_faults(config, shape, work)
    for fault in [*faults, *services.wandb_faults(config)]:
        problems.add(fault)
