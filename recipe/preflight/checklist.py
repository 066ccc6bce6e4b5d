"""The one list of checks of train, SFT, evaluation and preflight.

`CHECKS` is the list, in order. A fault that is certain to end or spoil a run stops it; one that is
calculated or only likely is a warning. All checks are made, so that every problem is shown at once;
only a wrong basic setting ends the list early. The programs make the checks when they start,
`recipe.preflight` before a job. It also asks services and imports the engine's libraries, which
takes long or may change until the job starts.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from omegaconf import DictConfig

from data_prep.program import InputError
from recipe import cluster, console
from recipe.data.prompts import check_chat_template
from recipe.evaluate import checks as evaluation
from recipe.preflight import choices, data, machine, memory, values
from recipe.preflight.data import DATA_KEYS, DataFile
from recipe.preflight.memory import Estimate, Traffic
from recipe.preflight.model import (
    ModelShape,
    check_model_folder,
    family_fault,
    load_processor,
    read_shape,
)
from recipe.preflight.values import Workload, read_workload
from recipe.run.checkpoints import check_resumable
from recipe.run.folder import check_same_run
from recipe.run.host import check_outputs

TRAIN, SFT, EVALUATE = "train", "sft", "evaluate"
TRAINING = (TRAIN, SFT)
ALL = (TRAIN, SFT, EVALUATE)

MODE = "THINKVG_PREFLIGHT"
"""Environment variable: what becomes of problems, one of `MODES`."""

MODES = ("on", "warn", "off")


@dataclass
class Plan:
    """A run as the checks read it, with their results; a part that could not be read is None."""

    config: DictConfig
    program: str  # one of `ALL`
    elsewhere: bool = False  # for other machines: this one is not checked
    files: list[DataFile] = field(default_factory=list)
    model: dict[str, Any] | None = None  # its config.json
    processor: Any = None
    shape: ModelShape | None = None
    work: Workload | None = None
    memory: Estimate | None = None
    traffic: Traffic | None = None
    # for rollouts: tokens of prompts and of responses, by the key of the file
    lengths: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)  # certain faults, a line each
    warnings: list[str] = field(default_factory=list)  # likely faults

    @property
    def starts_engine(self) -> bool:
        """Whether the program starts an engine; an evaluation may ask a server instead."""
        return self.program != EVALUATE or evaluation.uses_engine(self.config)


@dataclass(frozen=True)
class Check:
    """One line of the list."""

    subject: str  # in words that follow "could not check"
    # yields faults or raises an InputError; it may set a part of the plan
    faults: Callable[[Plan], Iterable[str] | None]
    programs: tuple[str, ...] = ALL
    is_certain: bool = True  # its faults stop a run; otherwise they are warnings
    protects: bool = False  # patients or another run: its faults stop a run in every mode
    is_basic: bool = False  # after a fault of it the later checks are impossible
    of_machine: bool = False
    only_ahead: bool = False  # only `recipe.preflight` makes it

    def applies(self, plan: Plan, ahead: bool) -> bool:
        is_here = not (self.of_machine and plan.elsewhere)
        return plan.program in self.programs and is_here and (ahead or not self.only_ahead)

    def collect(self, plan: Plan) -> Iterator[str]:
        """Yield the faults, each on one line."""
        try:
            for fault in self.faults(plan) or ():
                yield " ".join(fault.split())
        except InputError as error:
            yield " ".join(str(error).split())
        except Exception as error:  # a check that fails must not prevent the others
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            yield f"could not check {self.subject}: {reason}"


def read_mode() -> str:
    """Return the value of ``THINKVG_PREFLIGHT``, one of `MODES`."""
    mode = os.environ.get(MODE, "on")
    if mode not in MODES:
        raise InputError(f"{MODE}={mode}: choose on, warn (problems do not end the run) or off")
    return mode


def refuse_faulty(config: DictConfig, program: str) -> None:
    """Refuse a run of one of the programs if it has problems; name all of them on one line.

    With ``THINKVG_PREFLIGHT=warn`` those are warnings that harm nobody else, with ``off`` they are
    not shown.
    """
    mode = read_mode()
    plan = examine(config, program, ahead=False, insists=mode == "on")
    if len(plan.problems) > 1:
        numbered = (f"({number}) {text}" for number, text in enumerate(plan.problems, 1))
        raise InputError(f"{len(plan.problems)} problems: {' '.join(numbered)}")
    if plan.problems:
        raise InputError(plan.problems[0])
    for warning in plan.warnings if mode != "off" else ():
        console.say(f"warning: {warning}")


def examine(
    config: DictConfig,
    program: str,
    elsewhere: bool = False,
    ahead: bool = True,
    insists: bool = True,
) -> Plan:
    """Make the checks of a program (one of `ALL`), and return the plan with their results.

    `ahead` includes the checks that only `recipe.preflight` makes. Without `insists`, only the
    faults of checks that protect patients or another run are problems, and all others warnings.
    """
    plan = Plan(config, program, elsewhere)
    for check in CHECKS:
        if not check.applies(plan, ahead):
            continue
        stops = check.protects or (check.is_certain and insists)
        lines = plan.problems if stops else plan.warnings
        lines += [fault for fault in dict.fromkeys(check.collect(plan)) if fault not in lines]
        if check.is_basic and plan.problems:
            break
    return plan


def _read_model(plan: Plan) -> Iterator[str]:
    path = plan.config.model.path
    if plan.program == EVALUATE:
        model = evaluation.read_model(plan.config)
    else:
        model = check_model_folder(path, "model.path")
    if fault := family_fault(model, path):
        yield fault
    else:
        plan.model = model


def _read_processor(plan: Plan) -> None:
    if plan.model is not None:
        plan.processor = load_processor(plan.config.model.path)


def _read_files(plan: Plan) -> Iterator[str]:
    if plan.program == EVALUATE:
        plan.files = evaluation.read_data_files(plan.config, plan.model or {})
        return
    for key in DATA_KEYS:
        try:
            file = data.read_data_file(plan.config, plan.program, key, plan.model or {})
        except InputError as error:
            yield str(error)
        else:
            plan.files.append(file)


def _row_faults(plan: Plan) -> Iterator[str]:
    for file in plan.files:
        yield from data.data_faults(file, plan.model or {}, plan.processor)


def _long_row_faults(plan: Plan) -> Iterator[str]:
    """Yield a fault for rows that are too long; count them if the run leaves them out."""
    if plan.processor is None or not data.is_measured(plan.config, plan.program):
        return
    for number, file in enumerate(plan.files):
        rows = data.rows_too_long(plan.config, file.key, plan.program, plan.processor)
        if rows and data.leaves_out(plan.config, plan.program):
            plan.files[number] = replace(file, left_out=len(rows))
        elif rows:
            yield data.overlong_row_fault(plan.config, file.key, plan.program, rows)


def _step_faults(plan: Plan) -> Iterator[str]:
    for file in plan.files:
        yield from data.step_faults(file, plan.config)


def _validation_warnings(plan: Plan) -> Iterator[str]:
    for file in plan.files:
        yield from data.validation_warnings(file, plan.config)


def _read_lengths(plan: Plan) -> Iterator[str]:
    for file in plan.files:
        plan.lengths[file.key] = data.measure_lengths(file, plan.processor)
        yield from data.overlong_prompt_faults(file, plan.lengths[file.key][0])


def _length_warnings(plan: Plan) -> Iterator[str]:
    for file in plan.files:
        yield from data.length_warnings(file, *plan.lengths.get(file.key, ((), ())))


def _picture_faults(plan: Plan) -> Iterator[str]:
    yield from choices.picture_faults(plan.config, [file.path for file in plan.files])


def _judge_faults(plan: Plan) -> Iterator[str]:
    # wrong settings of the judge are a problem already
    if not any("custom_reward_function" in problem for problem in plan.problems):
        yield from choices.judge_faults(plan.config)


def _read_work(plan: Plan) -> None:
    pixels = max((int(file.metadata.get("max_pixels", 0)) for file in plan.files), default=0)
    plan.work = read_workload(plan.config, plan.program, pixels)


def _read_shape(plan: Plan) -> None:
    if plan.model is not None:
        plan.shape = read_shape(plan.config.model.path)


def _memory_warnings(plan: Plan) -> Iterator[str]:
    if plan.shape and plan.work:
        plan.memory = memory.estimate(plan.shape, plan.work)
        plan.traffic = memory.traffic(plan.shape, plan.work)
        yield from memory.memory_warnings(plan.memory, plan.work)


def _of(check: Callable[..., Iterable[str] | None], *parts: str) -> Callable[[Plan], Any]:
    """Return a check of these parts of a plan; if one of them is None, nothing is checked."""

    def faults(plan: Plan) -> Iterable[str] | None:
        arguments = [getattr(plan, part) for part in parts]
        return () if any(argument is None for argument in arguments) else check(*arguments)

    return faults


def _of_engine(check: Callable[..., Iterable[str] | None]) -> Callable[[Plan], Any]:
    """Return a check of configuration and program for runs that start an engine."""
    return lambda plan: check(plan.config, plan.program) if plan.starts_engine else ()


_warning_of_machine = partial(Check, programs=TRAINING, is_certain=False, of_machine=True)

CHECKS = (
    # settings
    Check("the settings", _of(values.check_settings, "config"), TRAINING, is_basic=True),
    Check("the settings", _of(evaluation.check_settings, "config"), (EVALUATE,), is_basic=True),
    Check("the numbers", _of(values.value_faults, "config", "program"), TRAINING, is_basic=True),
    Check("the numbers", _of(evaluation.value_faults, "config"), (EVALUATE,)),
    # this machine
    Check("the accelerator", _of_engine(machine.check_accelerator), of_machine=True),
    Check("the folder of results", _of(check_outputs, "config"), of_machine=True),
    Check("the limits", _of_engine(machine.limit_faults), of_machine=True),
    Check("the limits", _of_engine(machine.limit_warnings), is_certain=False, of_machine=True),
    # model and data
    Check("the model", _read_model),
    Check("the processor", _read_processor, TRAINING),
    Check("the data", _read_files),
    Check("the rows", _row_faults),
    Check("the lengths of rows", _long_row_faults, TRAINING),
    Check("the number of rows", _step_faults, TRAINING),
    Check("the number of rows", _validation_warnings, (SFT,), is_certain=False),
    Check("the lengths of prompts", _read_lengths, (TRAIN,)),
    Check("the lengths of prompts", _length_warnings, (TRAIN,), is_certain=False),
    Check("the chat template", _of(check_chat_template, "config", "program"), TRAINING),
    # the run and its folder
    Check("the run's folder", _of(check_same_run, "config", "program"), TRAINING, protects=True),
    Check("the checkpoint", _of(check_resumable, "config", "program"), TRAINING, protects=True),
    # what one of the programs has
    Check("the soft targets", _of(choices.check_smoothing, "config"), (SFT,)),
    Check("the loggers", _picture_faults, (TRAIN,), protects=True),
    Check("the reward", _of(choices.check_reward, "config"), (TRAIN,)),
    Check("GDPO", _of(choices.check_gdpo, "config"), (TRAIN,)),
    Check("Ray's resources", _of(cluster.check_declared, "config"), (TRAIN,)),
    Check("Ray's resources", _of(cluster.check_cpus, "config"), (TRAIN,), of_machine=True),
    Check("the judges", _of(evaluation.judge_faults, "config"), (EVALUATE,)),
    Check("the server", _of(evaluation.check_server, "config"), (EVALUATE,)),
    Check(
        "the predictions", _of(evaluation.prediction_faults, "config"), (EVALUATE,), protects=True
    ),
    # the work of a GPU
    Check("the workload", _read_work, TRAINING),
    Check("batch sizes", _of(values.batch_faults, "config", "work"), TRAINING),
    Check("the names", _of(choices.choice_faults, "config", "program", "work"), TRAINING),
    Check("GPUs", _of(machine.gpu_faults, "work"), TRAINING, of_machine=True),
    _warning_of_machine("the GPUs' memory", _of(machine.gpu_warnings, "config", "work")),
    Check("the model's shape", _read_shape, TRAINING, is_certain=False),
    Check("the layout", _of(values.layout_faults, "shape", "work"), TRAINING),
    Check("memory", _memory_warnings, TRAINING, is_certain=False),
    _warning_of_machine("the host's memory", _of(memory.host_warnings, "memory", "work")),
    _warning_of_machine("the disk", _of(machine.disk_warnings, "config", "shape", "work")),
    # packages and services
    Check("packages", _of(machine.package_faults, "config", "program"), TRAINING, of_machine=True),
    Check("W&B", _of(choices.wandb_faults, "config"), TRAINING, of_machine=True),
    Check(
        "the engine",
        _of(machine.engine_faults, "program"),
        TRAINING,
        of_machine=True,
        only_ahead=True,
    ),
    Check("the judge", _judge_faults, (TRAIN,), only_ahead=True),
)
