"""verl's SFT trainer with this recipe's loss."""

from typing import Any

from omegaconf import DictConfig
from verl.trainer.sft_trainer import SFTTrainer
from verl.utils.distributed import destroy_global_process_group, initialize_global_process_group


class ThinkVGSFTTrainer(SFTTrainer):
    """verl's SFT trainer."""


def run(config: DictConfig) -> Any:
    """Train in this process, one of those that torchrun started."""
    initialize_global_process_group()
    ThinkVGSFTTrainer(config=config).fit()
    destroy_global_process_group()
