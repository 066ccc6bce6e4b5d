"""Bytes that each GPU sends and receives in a step, calculated.

FSDP2 gathers every parameter once for a forward and once more for a backward pass (it is freed in
between) and scatters its gradient once in each micro-batch: with P parameters on N ranks a gather
moves (N - 1) / N P c bytes to each GPU, a scatter (N - 1) / N P 4 (reduced in float32). A step of
GRPO has a pass for the old log-probabilities, one for the reference, and the update. A weight sync
gathers all parameters once for vLLM.
"""

import math
from dataclasses import dataclass

from recipe.preflight.shape import ModelShape
from recipe.preflight.workload import Workload


@dataclass(frozen=True)
class Traffic:
    """Bytes received by one GPU in a step, and the micro-batches they come from."""

    micro_batches: int
    gathers: float
    scatters: float
    weight_sync: float

    @property
    def total(self) -> float:
        """All of a step."""
        return self.gathers + self.scatters + self.weight_sync


def traffic(shape: ModelShape, work: Workload, mean_tokens: float | None = None) -> Traffic:
    """Traffic of one step.

    Args:
        mean_tokens: of a sequence, prompt and response; the limit where it is not given.
    """
    share = (work.shards - 1) / work.shards
    sequences = work.prompts * work.group / work.gpus
    micro = max(1, math.ceil(sequences * (mean_tokens or work.sequence) / work.tokens))
    # forward and backward of the update; log-probabilities of the actor, and of the reference
    passes = 2 + (1 if work.program == "train" else 0) + work.reference
    gather = share * shape.parameters * work.compute_bytes
    return Traffic(
        micro_batches=micro,
        gathers=gather * micro * passes,
        scatters=share * shape.parameters * 4 * micro,
        weight_sync=gather if work.program == "train" else 0.0,
    )
