"""Cross-entropy with soft targets over neighbouring coordinates.

With one token for each coordinate, plain cross-entropy treats a box edge that is one pixel off like
one at the other end of the image. Here the target of a coordinate n is a Gaussian over all
coordinates k, q(k) proportional to exp(-(k - n)^2 / (2 width^2)); every other token keeps its
single target. Width 0 would be plain cross-entropy. The idea is that of Gaussian label smoothing
for ordinal classes (Diaz and Marathe, Soft Labels for Ordinal Regression, CVPR 2019).
"""

from typing import Any

import torch
from verl.workers.utils.losses import sft_loss

SOFT_LOG_PROBS = "soft_log_probs"


def soft_targets(count: int, width: float) -> torch.Tensor:
    """Target distributions of the coordinates 0..count-1.

    Args:
        count: number of coordinates.
        width: standard deviation of the target, pixels, above 0.

    Returns:
        (count, count) tensor whose row n is the target for coordinate n; rows sum to 1.
    """
    numbers = torch.arange(count, dtype=torch.float32)
    weights = torch.exp(-((numbers[:, None] - numbers) ** 2) / (2 * width**2))
    return weights / weights.sum(dim=1, keepdim=True)


def soft_log_probs(
    logits: torch.Tensor, labels: torch.Tensor, coordinate_ids: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Expected log-probability of each position under its target.

    Args:
        logits: (N, V).
        labels: (N,) token ids.
        coordinate_ids: (C,) token ids of the coordinates 0..C-1.
        targets: (C, C) of `soft_targets`.

    Returns:
        (N,) tensor: log p(label), or for a coordinate the mean of log p under its soft target.
    """
    log_probs = torch.log_softmax(logits, dim=-1)
    plain = log_probs.gather(1, labels[:, None]).squeeze(1)
    coordinate_of = torch.full((logits.shape[1],), -1, dtype=torch.long, device=logits.device)
    coordinate_of[coordinate_ids] = torch.arange(len(coordinate_ids), device=logits.device)
    coordinates = coordinate_of[labels]
    rows = (coordinates >= 0).nonzero(as_tuple=True)[0]
    soft = (log_probs[rows][:, coordinate_ids] * targets[coordinates[rows]]).sum(dim=1)
    return plain.index_put((rows,), soft)


class CoordinateLoss:
    """Loss function of verl's engine, called twice for each micro batch.

    verl's engine hands the logits to the loss only on its top-k distillation path, whose flag the
    trainer sets: first ``student_logits`` to turn into values per token, then these values as
    ``model_output``. A batch without the flag (validation) gets verl's plain SFT loss.
    """

    def __init__(self, coordinate_ids: list[int], width: float) -> None:
        self.coordinate_ids = torch.tensor(coordinate_ids)
        self.targets = soft_targets(len(coordinate_ids), width)

    def __call__(self, **inputs: Any) -> Any:
        if "student_logits" in inputs:
            return self._values(inputs["student_logits"], inputs["data"])
        outputs = inputs["model_output"]
        if SOFT_LOG_PROBS in outputs:
            outputs = {"log_probs": outputs[SOFT_LOG_PROBS]}
        return sft_loss(None, outputs, inputs["data"], inputs.get("dp_group"))

    def _values(self, student_logits: torch.Tensor, data: Any) -> dict[str, torch.Tensor]:
        """(1, N, V) logits of the packed tokens to (1, N) values."""
        labels = torch.roll(data["input_ids"].values(), shifts=-1, dims=0)
        device = student_logits.device
        values = soft_log_probs(
            student_logits[0], labels, self.coordinate_ids.to(device), self.targets.to(device)
        )
        return {SOFT_LOG_PROBS: values[None]}


def coordinate_ids(tokenizer: Any, largest: int) -> list[int] | None:
    """Token ids of the coordinates 0..largest, or None where one of them is not a single token."""
    ids = [tokenizer.encode(str(number), add_special_tokens=False) for number in range(largest + 1)]
    if any(len(pieces) != 1 for pieces in ids):
        return None
    return [pieces[0] for pieces in ids]
