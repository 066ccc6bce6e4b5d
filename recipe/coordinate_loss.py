"""Soft coordinate targets as a loss function of verl's engine."""

from typing import Any

import torch
from verl.workers.utils.losses import sft_loss

from recipe.soft_targets import soft_log_probs, soft_targets

SOFT_LOG_PROBS = "soft_log_probs"


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
