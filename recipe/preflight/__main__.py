"""``python -m recipe.preflight``: check a run before it starts; print its plan and all problems."""

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from omegaconf import OmegaConf

from data_prep.program import InputError
from recipe.evaluate.checks import follow_training
from recipe.preflight.checklist import ALL, TRAIN, TRAINING, Plan, examine
from recipe.preflight.machine import checkpoint_bytes
from recipe.preflight.values import GIB
from recipe.program import compose_config, fail, set_environment
from recipe.run.checkpoints import start_from
from recipe.run.series import continue_series

EPILOG = """\
OVERRIDES are those of recipe.train, or of the program that --program names. Exit code 0 without a
problem, 2 with one or more; a warning is no problem. Memory is calculated, by the formulas in
recipe/preflight/memory.py."""


def main() -> None:
    options = _options()
    try:
        config = compose_config(options.program, options.overrides)
        set_environment(config)
        if options.program in TRAINING:
            start_from(config)
            continue_series(config, options.program)
        else:
            follow_training(config)
    except InputError as error:
        if not options.json:
            fail(str(error))
        plan = Plan(OmegaConf.create(), options.program, problems=[str(error)])
    else:
        plan = examine(config, options.program, options.elsewhere)
    print(as_json(plan) if options.json else as_text(plan))
    sys.exit(2 if plan.problems else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m recipe.preflight",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDES", help="of the configuration")
    parser.add_argument("--program", choices=ALL, default=TRAIN, help=f"to check ({TRAIN})")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--elsewhere",
        action="store_true",
        help="the run is for other machines: do not check GPUs, limits, packages, disk of this one",
    )
    return parser.parse_intermixed_args()


def as_text(plan: Plan) -> str:
    """Format the plan in a few lines, then each warning and each problem on a line."""
    lines = [*_model_lines(plan), *_data_lines(plan), *_memory_lines(plan)]
    lines += [f"warning: {text}" for text in plan.warnings]
    count = len(plan.problems)
    lines.append(f"{count} problem{'s' * (count > 1)}:" if count else "no problem found")
    lines += [f"  {number}. {text}" for number, text in enumerate(plan.problems, 1)]
    return "\n".join(lines)


def as_json(plan: Plan) -> str:
    """Format the plan as one JSON object, with memory in GiB and traffic in bytes."""
    values: dict[str, Any] = {
        "ok": not plan.problems,
        "problems": plan.problems,
        "warnings": plan.warnings,
        "program": plan.program,
        "model": asdict(plan.shape) if plan.shape else None,
        "workload": asdict(plan.work) if plan.work else None,
        "memory_gib": plan.memory.as_gib() if plan.memory else None,
        "traffic": asdict(plan.traffic) if plan.traffic else None,
        "data": [
            {"key": file.key, "path": file.path, "rows": file.rows, "left_out": file.left_out}
            for file in plan.files
        ],
    }
    return json.dumps(values, indent=2)


def _model_lines(plan: Plan) -> list[str]:
    lines = []
    if plan.shape:
        lines.append(f"model     {plan.shape.name}, {plan.shape.parameters / 1e9:.3g} B parameters")
    if plan.work:
        work = plan.work
        lines.append(
            f"run       {plan.program}, {work.nodes} x {work.gpus_per_node} GPUs, "
            f"{work.prompts} prompts x {work.group}, {work.tokens} tokens a micro-batch"
        )
    return lines


def _data_lines(plan: Plan) -> list[str]:
    return [
        f"data      {file.key}: {file.rows} rows"
        + (f", {file.left_out} of them too long and left out" if file.left_out else "")
        + f", {file.path}"
        for file in plan.files
    ]


def _memory_lines(plan: Plan) -> list[str]:
    if not (plan.memory and plan.shape and plan.work):
        return []
    memory = plan.memory
    parts = ", ".join(f"{name} {value / GIB:.1f}" for name, value in memory.moments.items())
    where = "process" if plan.work.on_cpu else "GPU"
    lines = [
        f"memory    GiB a {where}: {parts}, of {memory.available / GIB:.1f} "
        f"(calculated); host {memory.host / GIB:.0f} a node",
        f"disk      {checkpoint_bytes(plan.shape, plan.work) / GIB:.1f} GiB a checkpoint",
    ]
    if memory.serving:
        lines.append(
            f"rollout   {memory.serving.cache_tokens} tokens in the cache of a replica, "
            f"{memory.serving.cache_tokens // plan.work.sequence} sequences of full length"
        )
    if plan.traffic and plan.traffic.total:
        lines.append(
            f"traffic   {plan.traffic.total / 1e9:.0f} GB to each GPU a step (calculated, for "
            f"{plan.traffic.micro_batches} micro-batches of full length)"
        )
    return lines


if __name__ == "__main__":
    main()
