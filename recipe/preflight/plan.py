"""The plan of a run, for people and for machines."""

import json
from dataclasses import asdict
from typing import Any

from recipe.preflight.checklist import Plan
from recipe.preflight.machine import checkpoint_bytes
from recipe.preflight.workload import GIB


def as_text(plan: Plan) -> str:
    """A few lines, then every problem on one of its own."""
    lines = [*_model_lines(plan), *_data_lines(plan), *_memory_lines(plan)]
    count = len(plan.problems)
    lines.append("no problem found" if not count else f"{count} problem{'s' * (count > 1)}:")
    lines += [f"  {number}. {text}" for number, text in enumerate(plan.problems, 1)]
    return "\n".join(lines)


def as_json(plan: Plan) -> str:
    """The same as one object; memory in GiB, traffic in bytes."""
    found: dict[str, Any] = {
        "ok": not plan.problems,
        "problems": list(plan.problems),
        "program": plan.program,
        "model": asdict(plan.shape) if plan.shape else None,
        "workload": asdict(plan.work) if plan.work else None,
        "memory_gib": plan.memory.as_gib() if plan.memory else None,
        "traffic": asdict(plan.traffic) if plan.traffic else None,
        "data": [{"key": file.key, "path": file.path, "rows": file.rows} for file in plan.files],
    }
    return json.dumps(found, indent=2)


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
    return [f"data      {file.key}: {file.rows} rows, {file.path}" for file in plan.files]


def _memory_lines(plan: Plan) -> list[str]:
    """Memory, disk and traffic, as far as they are known."""
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
