"""verl's SFT trainer with this recipe's loss."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch.utils.data import DistributedSampler, Sampler
from verl.trainer.sft_trainer import SFTTrainer
from verl.utils import tensordict_utils as tu
from verl.utils.distributed import destroy_global_process_group, initialize_global_process_group
from verl.workers.utils.losses import sft_loss

from recipe import console
from recipe.algorithms.soft_targets import (
    coordinate_ids,
    soft_log_probs,
    soft_targets,
)
from recipe.export import add_older_forms
from recipe.loggers import continue_from
from recipe.run.checkpoints import prune
from recipe.run.folder import STOPPED_AFTER, StopRequest, check_steps
from recipe.run.host import cores_for_each
from recipe.run.series import begin_series, end_series

SOFT_LOG_PROBS = "soft_log_probs"
SEED_DISTANCE = 1_000_003
"""Of two seeds in the sampler, which adds the epoch: no epoch of one has the order of the other."""


class ResumedSampler(Sampler[int]):
    """The rows of verl's sampler, without those of the steps that are done.

    verl restores its loader's saved position. At the end of an epoch that position is after the
    last row, and the next epoch then has no rows (verl #7401). The saved position is also lost when
    the run is killed between two ranks' files, and is useless to another number of loader workers.
    Here the position follows from the number of steps alone. The order of the rows follows from
    `seed`, which verl gives to no sampler.
    """

    def __init__(self, sampler: "DistributedSampler[object]", seed: int = 0) -> None:
        sampler.seed = SEED_DISTANCE * seed
        self._sampler = sampler
        self._epoch = self._done = 0

    def begin_at(self, epoch: int, done: int) -> None:
        """Skip the first `done` rows of this process in `epoch`, and none in later ones."""
        self._epoch, self._done = epoch, done

    def set_epoch(self, epoch: int) -> None:
        self._sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        # The loader may iterate twice over the same epoch.
        done = self._done if self._sampler.epoch == self._epoch else 0
        return itertools.islice(iter(self._sampler), done, None)

    def __len__(self) -> int:
        """Return the rows of a complete epoch."""
        return len(self._sampler)


class CoordinateLoss:
    """Loss function of verl's engine, called twice for each micro batch.

    verl's engine passes logits to the loss only on its top-k distillation path, whose flag the
    trainer sets: the first call turns ``student_logits`` into a value for each token, the second
    gets these values as ``model_output``. A batch without the flag (validation) gets verl's plain
    SFT loss.
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
        """Return (1, N) log-probabilities for (1, N, V) logits of the packed tokens."""
        labels = torch.roll(data["input_ids"].values(), shifts=-1, dims=0)
        device = student_logits.device
        values = soft_log_probs(
            student_logits[0], labels, self.coordinate_ids.to(device), self.targets.to(device)
        )
        return {SOFT_LOG_PROBS: values[None]}


class _Stopped(Exception):
    """The training has saved a checkpoint on request and ends before the next step."""


class ThinkVGSFTTrainer(SFTTrainer):
    """verl's SFT trainer, with soft coordinate targets where the configuration asks for them."""

    save_freq: int
    test_freq: int
    _steps_begun: int
    _saves_at: int = 0

    def _build_engine(self) -> None:
        super()._build_engine()
        width = float(self.config.coordinate_smoothing)
        self._soft_targets = width > 0
        if self._soft_targets:
            ids = coordinate_ids(self.model_config.tokenizer)
            self.training_client.set_loss_fn(CoordinateLoss(ids, width))

    def _init_engine(self) -> None:
        super()._init_engine()
        # verl takes both as divisors
        self.save_freq, self.test_freq = self.save_freq or -1, self.test_freq or -1

    def _build_dataloader(self) -> None:
        super()._build_dataloader()
        sampler: DistributedSampler[object] = self.train_dataloader.sampler
        self.train_sampler = ResumedSampler(sampler, int(self.config.seed))
        self.train_dataloader.batch_sampler.sampler = self.train_sampler

    def _skip_done_steps(self) -> None:
        epoch, steps = divmod(self.resume_global_step, self.steps_per_epoch)
        self.train_sampler.begin_at(epoch, steps * self.train_batch_size_per_dp)
        # the loader's position in the checkpoint, see `ResumedSampler`
        self.train_dataloader.next_iter_state = None

    def _build_ckpt_handler(self) -> None:
        super()._build_ckpt_handler()
        save = self.ckpt_handler.save_checkpoint

        def save_readably(step: int) -> None:
            save(step)
            if self.rank == 0:
                folder = Path(self.config.trainer.default_local_dir) / f"global_step_{step}"
                add_older_forms(folder / "huggingface")
                # verl counts only the checkpoints that it has saved since this start.
                prune(self.config, "sft")

        self.ckpt_handler.save_checkpoint = save_readably

    def _get_batch_seqlens(self, data: Any) -> Any:
        # verl has no hook for the start of a training step, and calls this method only there.
        self._save_on_request()
        if self._soft_targets:
            tu.assign_non_tensor(data, distillation_use_topk=True, distillation_only=True)
        return super()._get_batch_seqlens(data)

    def _save_on_request(self) -> None:
        """Save after this step if a stop is requested, and stop before the next one."""
        if self._saves_at:
            raise _Stopped
        self._steps_begun += 1
        # Only one process looks: nodes may see a file on a shared disk at different times.
        requested = [self.rank == 0 and self._stop.asked()]
        torch.distributed.broadcast_object_list(requested, src=0, device=torch.device("cpu"))
        if requested[0] and self._steps_begun < self.total_training_steps:
            self._saves_at, self.save_freq = self._steps_begun, 1

    def fit(self) -> None:
        """Train from the loaded step to the last one or a request to stop, see verl's trainer."""
        if self.resume_global_step >= self.total_training_steps:
            # verl would do one more step.
            if self.rank == 0:
                console.say(
                    f"nothing to do: step {self.resume_global_step} of "
                    f"{self.total_training_steps} is done"
                )
                end_series(self.config)
            return
        self._stop = StopRequest(self.config.stop_file)
        self._steps_begun = self.resume_global_step
        console.hide_secrets(self.config)
        self._skip_done_steps()
        if self.rank == 0:
            begin_series(self.config, "sft", self.resume_global_step)
            continue_from(self.resume_global_step)
            console.log_to_console(self.total_training_steps, self.resume_global_step)
        try:
            super().fit()
        except _Stopped:
            if self.rank == 0:
                self._stop.answer(self._saves_at)
                console.say(STOPPED_AFTER.format(self._saves_at))
        else:
            check_steps(self._steps_begun, self.total_training_steps)
            if self.rank == 0:
                end_series(self.config)


def run(config: DictConfig) -> None:
    """Train in this process, one of those that train together."""
    # With verl's own limit processes would wait 10 hours for one that is stuck.
    initialize_global_process_group(timeout_second=int(config.stuck_s))
    if config.cluster.platform == "cpu":
        torch.set_num_threads(cores_for_each(int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    torch.manual_seed(int(config.seed))  # of LoRA's first weights
    ThinkVGSFTTrainer(config=config).fit()
    destroy_global_process_group()
