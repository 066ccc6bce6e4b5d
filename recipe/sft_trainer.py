"""verl's SFT trainer with this recipe's loss."""

import contextlib
from typing import Any

import torch
from omegaconf import DictConfig
from verl.trainer.sft_trainer import SFTTrainer
from verl.utils import tensordict_utils as tu
from verl.utils.distributed import destroy_global_process_group, initialize_global_process_group

from recipe.coordinate_loss import CoordinateLoss
from recipe.metrics_file import continue_from
from recipe.redaction import hide_secrets
from recipe.soft_targets import LARGEST_COORDINATE, coordinate_ids
from recipe.stop_request import StopRequest


class _Stopped(Exception):
    """The training has saved a checkpoint on request and ends before the next step."""


class ThinkVGSFTTrainer(SFTTrainer):
    """verl's SFT trainer, with soft coordinate targets where the configuration asks for them."""

    _steps_begun: int
    _saves_at: int = 0

    def _build_engine(self) -> None:
        super()._build_engine()
        width = float(self.config.coordinate_smoothing)
        self._soft_targets = width > 0
        if self._soft_targets:
            ids = coordinate_ids(self.model_config.tokenizer, LARGEST_COORDINATE)
            self.training_client.set_loss_fn(CoordinateLoss(ids, width))

    def _get_batch_seqlens(self, data: Any) -> Any:
        # verl calls this at the start of each training step and nowhere else: the place to mark the
        # batch, and to ask for a checkpoint after the step (verl's loop offers no hook for either).
        self._save_on_request()
        if self._soft_targets:
            tu.assign_non_tensor(data, distillation_use_topk=True, distillation_only=True)
        return super()._get_batch_seqlens(data)

    def _save_on_request(self) -> None:
        """Have this step save, where someone has asked; end before the next one."""
        if self._saves_at:
            raise _Stopped
        self._steps_begun += 1
        # One process looks: a file on a shared disk may show to some before others.
        asked = [self.rank == 0 and self._stop.asked()]
        torch.distributed.broadcast_object_list(asked, src=0, device=torch.device("cpu"))
        if asked[0] and self._steps_begun < self.total_training_steps:
            self._saves_at, self.save_freq = self._steps_begun, 1

    def fit(self) -> None:
        """Train from the step that was loaded, to the end or until asked; see verl's trainer."""
        self._stop = StopRequest(self.config.stop_file)
        self._steps_begun = self.resume_global_step
        hide_secrets(self.config)
        if self.rank == 0:
            continue_from(self.resume_global_step)
        with contextlib.suppress(_Stopped):
            super().fit()
            return
        if self.rank == 0:
            self._stop.answer(self._saves_at)
            print(f"ended on request after step {self._saves_at}, its checkpoint is saved")


def run(config: DictConfig) -> None:
    """Train in this process, one of those that torchrun started."""
    initialize_global_process_group()
    ThinkVGSFTTrainer(config=config).fit()
    destroy_global_process_group()
