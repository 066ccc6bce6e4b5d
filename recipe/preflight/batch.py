"""Batch arithmetic: what has to divide what, with the numbers that would."""

from collections.abc import Iterator

from omegaconf import DictConfig

from recipe.preflight.shape import ModelShape
from recipe.preflight.workload import Workload


def batch_faults(config: DictConfig, work: Workload) -> Iterator[str]:
    """Faults of batch sizes, lengths and group size, one line each."""
    if work.program == "train":
        yield from _rollout_faults(config, work)
    rows, key = work.prompts * work.group, "data.train_batch_size"
    group = f" x actor_rollout_ref.rollout.n={work.group}" if work.group > 1 else ""
    if rows % work.gpus:
        yield (
            f"{key}={work.prompts}{group} are {rows} sequences, which {work.gpus} GPUs do not "
            f"share evenly: set {key}={_next_multiple(work.prompts, work.group, work.gpus)}"
        )
    if work.tokens < work.sequence:
        key = (
            "actor_rollout_ref.actor.ppo_max_token_len_per_gpu"
            if work.program == "train"
            else "data.max_token_len_per_gpu"
        )
        yield (
            f"{key}={work.tokens} is less than one sequence of {work.sequence} tokens: set it to "
            f"{2 * work.sequence} or shorten data.max_response_length or data.max_length"
        )


def _rollout_faults(config: DictConfig, work: Workload) -> Iterator[str]:
    actor = config.actor_rollout_ref.actor
    mini = int(actor.ppo_mini_batch_size)
    if mini > work.prompts or work.prompts % mini:
        yield (
            f"actor_rollout_ref.actor.ppo_mini_batch_size={mini} does not divide "
            f"data.train_batch_size={work.prompts}: set it to {_divisor(work.prompts, mini)}"
        )
    elif mini * work.group % work.gpus and not work.prompts * work.group % work.gpus:
        yield (
            f"actor_rollout_ref.actor.ppo_mini_batch_size={mini} x actor_rollout_ref.rollout.n="
            f"{work.group} are {mini * work.group} sequences, which {work.gpus} GPUs do not share "
            f"evenly: set actor_rollout_ref.actor.ppo_mini_batch_size={_shared(work, mini)}"
        )
    share = mini * work.group // work.gpus
    micro = int(actor.ppo_micro_batch_size_per_gpu or 1)
    if not actor.use_dynamic_bsz and share and share % micro:
        yield (
            f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={micro} does not divide the "
            f"{share} sequences that a GPU has in a mini-batch: set it to {_divisor(share, micro)}"
        )
    if work.group < 2 and config.algorithm.adv_estimator != "reinforce_plus_plus":
        yield (
            f"actor_rollout_ref.rollout.n={work.group}: an advantage relative to the group needs "
            "two rollouts of a prompt or more: set actor_rollout_ref.rollout.n=8"
        )


def layout_faults(shape: ModelShape, work: Workload) -> Iterator[str]:
    """Faults of how the model is laid out over GPUs, and of its longest sequence."""
    if work.rollout:
        parallel, key = work.rollout.tensor_parallel, "cluster.tensor_parallel"
        if work.gpus_per_node % parallel:
            yield (
                f"{key}={parallel} does not divide cluster.gpus_per_node={work.gpus_per_node}: set "
                f"{key}={_divisor(work.gpus_per_node, parallel)}"
            )
        elif shape.heads % parallel:
            yield (
                f"{key}={parallel} does not divide the {shape.heads} attention heads of "
                f"{shape.name}: set {key}={_divisor(shape.heads, parallel)}"
            )
    if work.sequence > shape.positions:
        yield (
            f"a sequence of {work.sequence} tokens is longer than the {shape.positions} that "
            f"{shape.name} knows: lower data.max_prompt_length, data.max_response_length or "
            "data.max_length"
        )


def _shared(work: Workload, wish: int) -> int:
    """The divisor of a batch's prompts next to `wish` whose sequences all GPUs share evenly."""
    fitting = [
        n
        for n in range(1, work.prompts + 1)
        if not work.prompts % n and not n * work.group % work.gpus
    ]
    return min(fitting, key=lambda n: abs(n - wish))


def _next_multiple(prompts: int, group: int, gpus: int) -> int:
    """The smallest number of prompts from `prompts` on whose sequences `gpus` share evenly."""
    return next(n for n in range(prompts, prompts + gpus + 1) if not n * group % gpus)


def _divisor(number: int, wish: int) -> int:
    """The largest divisor of `number` up to `wish`."""
    return next(n for n in range(min(number, max(wish, 1)), 0, -1) if not number % n)
