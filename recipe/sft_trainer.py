"""verl's SFT trainer with this recipe's loss."""

from typing import Any

from omegaconf import DictConfig
from verl.trainer.sft_trainer import SFTTrainer
from verl.utils import tensordict_utils as tu
from verl.utils.distributed import destroy_global_process_group, initialize_global_process_group

from recipe.coordinate_loss import CoordinateLoss
from recipe.metrics_file import continue_from
from recipe.soft_targets import LARGEST_COORDINATE, coordinate_ids


class ThinkVGSFTTrainer(SFTTrainer):
    """verl's SFT trainer, with soft coordinate targets where the configuration asks for them."""

    def _build_engine(self) -> None:
        super()._build_engine()
        width = float(self.config.coordinate_smoothing)
        self._soft_targets = width > 0
        if self._soft_targets:
            ids = coordinate_ids(self.model_config.tokenizer, LARGEST_COORDINATE)
            self.training_client.set_loss_fn(CoordinateLoss(ids, width))

    def _get_batch_seqlens(self, data: Any) -> Any:
        # verl calls this once for each training batch and for no other: the place to mark it.
        if self._soft_targets:
            tu.assign_non_tensor(data, distillation_use_topk=True, distillation_only=True)
        return super()._get_batch_seqlens(data)

    def fit(self) -> None:
        """Train from the step that was loaded; see verl's trainer."""
        if self.rank == 0:
            continue_from(self.resume_global_step)
        super().fit()


def run(config: DictConfig) -> None:
    """Train in this process, one of those that torchrun started."""
    initialize_global_process_group()
    ThinkVGSFTTrainer(config=config).fit()
    destroy_global_process_group()
