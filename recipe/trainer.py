"""GRPO trainer: verl's synchronous V1 trainer with every reward component in the training log.

verl 0.9.1 logs the total reward while training and the components only in validation. Rollout
workers leave the components of each row in TransferQueue (field ``extra_fields``, key
``reward_extra_info``); this trainer reads them there and logs ``reward/NAME/mean`` and
``reward/NAME/std`` at every step, the same by question type, and histograms (`recipe.rich_logs`).
A judge that fails too often ends the run (`recipe.judge_watch`).
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transfer_queue as tq
from omegaconf import open_dict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.workers.rollout.replica import RolloutReplicaRegistry

from recipe import rich_logs, step_metrics, tensorboard_file
from recipe.checkpoints import last_step, mark_step
from recipe.failed_rollouts import failed_rollouts
from recipe.gdpo import components_of_step
from recipe.judge_watch import JudgeWatch
from recipe.metrics_file import continue_from
from recipe.redaction import hide_secrets
from recipe.settings import GDPO
from recipe.stop_request import StopRequest
from reward.ground_truth import GroundTruth
from reward.judge.failures import JudgeFailing

TRAINER_NAME = "thinkvg"


def component_metrics(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean and population standard deviation of every reward component over the rows of a step.

    Args:
        rows: one mapping of component to value for each rollout, all with the same keys.

    Returns:
        ``reward/NAME/mean`` and ``reward/NAME/std`` for every component.

    Raises:
        ValueError: rows with different components.
    """
    rows = list(rows)
    names = set(rows[0]) if rows else set()
    if any(set(row) != names for row in rows):
        raise ValueError("rollouts of one step carry different reward components")
    metrics: dict[str, float] = {}
    for name in sorted(names):
        values = np.array([float(row[name]) for row in rows])
        metrics[f"reward/{name}/mean"] = float(values.mean())
        metrics[f"reward/{name}/std"] = float(values.std())
    return metrics


def group_metrics(scores: Sequence[float], groups: Sequence[str]) -> dict[str, float]:
    """How much signal the groups of a step carry.

    Args:
        scores: total reward of each rollout.
        groups: the prompt that each rollout answers.

    Returns:
        ``reward/group_std/mean`` over groups, and ``reward/group_std/zero``, the share of groups
        whose rollouts all got the same reward and so have no advantage.
    """
    spreads = [
        float(np.std([score for score, name in zip(scores, groups, strict=True) if name == group]))
        for group in dict.fromkeys(groups)
    ]
    return {
        "reward/group_std/mean": float(np.mean(spreads)),
        "reward/group_std/zero": float(np.mean([spread < 1e-6 for spread in spreads])),
    }


def log_prob_gap(rollout: torch.Tensor, actor: torch.Tensor) -> float:
    """Mean absolute difference between the log-probabilities of rollout and actor.

    Args:
        rollout, actor: nested tensors of the same rows, one value for each response token.
    """
    return float((rollout.values() - actor.values()).abs().mean())


def _reward_rows(batch: KVBatchMeta, keys: Sequence[str]) -> list[Mapping[str, float]]:
    """The result of the reward function for some rows of a batch."""
    data = tq.kv_batch_get(
        keys=keys, partition_id=batch.partition_id, select_fields=["extra_fields"]
    )
    return [row["reward_extra_info"] for row in list(data["extra_fields"])]


def _load_replica() -> Any:
    from recipe.rollout_server import WatchedReplica

    return WatchedReplica


# The place of verl's own loader under this name; vLLM is imported when the first replica starts.
RolloutReplicaRegistry.register("vllm", _load_replica)


@register_trainer(TRAINER_NAME)
class ThinkVGTrainer(PPOTrainerSync):
    """verl's synchronous trainer; ``trainer.v1.trainer_mode=thinkvg`` picks it."""

    global_steps: int
    total_training_steps: int

    def __init__(self, config: Any) -> None:
        # The registry name has picked this class; from here on verl compares the mode with "sync".
        own = config.trainer.v1[TRAINER_NAME]
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"
        self._poll_interval = float(own.poll_interval)
        self._most_failed = float(own.max_failed_rollouts)
        self._judge = JudgeWatch(config)
        self._stop = StopRequest(config.stop_file)
        self._stops = False
        self._unmarked = 0
        super().__init__(config)

    def fit(self, agent_loop_manager: Any) -> None:
        """Train from the step that was loaded; see verl's trainer."""
        continue_from(self.global_steps)
        tensorboard_file.continue_from(self.config.run_dir, self.global_steps)
        # W&B would stage the pictures of tables in the home folder until they are synced.
        os.environ.setdefault("WANDB_DATA_DIR", str(self.config.run_dir))
        if self.global_steps > 0 and not self.config.trainer.val_only:
            # The step that was loaded is logged already: validating it would log it a second time.
            with open_dict(self.config):
                self.config.trainer.val_before_train = False
        hide_secrets(self.config)
        super().fit(agent_loop_manager)
        self._mark_logged()

    def on_step_begin(self) -> None:
        """Count the checkpoint of the step before, which is logged by now."""
        self._mark_logged()
        super().on_step_begin()

    def _save_checkpoint(self) -> None:
        # verl logs a step about a second after its checkpoint. A run that is killed in between must
        # not go on behind a step that no curve has, so the checkpoint does not count until then.
        holder = Path(self.config.trainer.default_local_dir)
        before = last_step(holder)
        super()._save_checkpoint()
        mark_step(holder, before)
        self._unmarked = self.global_steps

    def _mark_logged(self) -> None:
        if self._unmarked:
            mark_step(Path(self.config.trainer.default_local_dir), self._unmarked)
            self._unmarked = 0

    def on_step_end(self) -> None:
        """Save and make this step the last one, where someone has asked; then sync the weights."""
        # Before the rollout engine wakes up for its new weights and takes its memory back.
        self._save_on_request()
        super().on_step_end()

    def _save_on_request(self) -> None:
        if self.global_steps >= self.total_training_steps or not self._stop.asked():
            return
        frequency = self.config.trainer.save_freq
        if frequency <= 0 or self.global_steps % frequency:
            self._save_checkpoint()
        self.total_training_steps = self.global_steps
        self._stops = True

    def on_train_end(self) -> None:
        """Answer the request, once the last step is logged."""
        super().on_train_end()
        self._mark_logged()
        if self._stops:
            self._stop.answer(self.total_training_steps)

    def _build_replay_buffer(self) -> ReplayBuffer:
        # No setting of verl reaches the interval; 2 s is a large part of a small model's step.
        buffer = super()._build_replay_buffer()
        buffer.poll_interval = self._poll_interval
        return buffer

    def _balance_batch(self, batch: KVBatchMeta, metrics: dict[str, Any], **kwargs: Any) -> Any:
        # verl calls this for each batch of rollouts, before it fills up what is missing.
        wanted = self.config.data.train_batch_size * self.config.actor_rollout_ref.rollout.n
        metrics.update(failed_rollouts(batch.keys, wanted, self._most_failed, self.global_steps))
        return super()._balance_batch(batch, metrics=metrics, **kwargs)

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        if self.config.algorithm.adv_estimator != GDPO:
            return super()._compute_advantage(batch, metrics)
        with components_of_step(_reward_rows(batch, batch.keys)):
            return super()._compute_advantage(batch, metrics)

    def _compute_metrics(
        self, batch: KVBatchMeta, metrics: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        super()._compute_metrics(batch, metrics, *args, **kwargs)
        metrics.update(self._row_metrics(batch))
        try:
            self._judge.check()
        except JudgeFailing:
            # The step that the run ends with is the one to look at.
            self.logger.log(data=metrics, step=self.global_steps)
            raise

    def _val_metrics_update(
        self,
        data_sources: Any,
        sample_uids: Any,
        rewards: Mapping[str, list[Any]],
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, float]:
        metrics: dict[str, float] = super()._val_metrics_update(
            data_sources, sample_uids, rewards, *args, **kwargs
        )
        keys = ("judge_used", "judge_failed")
        columns = zip(*(rewards.get(key, []) for key in keys), strict=True)
        counts = self._judge.count(dict(zip(keys, row, strict=True)) for row in columns)
        self._judge.check()
        return metrics | {f"val-{name}": value for name, value in counts.items()}

    def _row_metrics(self, batch: KVBatchMeta) -> dict[str, float]:
        """Reward components, groups and the gap to the rollout, of the rows that are no padding."""
        keys = [
            key
            for key, tag in zip(batch.keys, batch.tags, strict=True)
            if not tag.get("is_padding", False)
        ]
        gap = self.config.actor_rollout_ref.rollout.calculate_log_probs
        fields = ["extra_fields", "uid", "reward_model", "responses"]
        fields += ["rollout_log_probs", "old_log_probs"] if gap else []
        data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=fields)
        rows = [row["reward_extra_info"] for row in list(data["extra_fields"])]
        groups = [str(uid) for uid in list(data["uid"])]
        metrics = component_metrics(rows) | group_metrics([row["score"] for row in rows], groups)
        metrics |= self._judge.count(rows)
        metrics |= self._text_metrics(batch.partition_id, keys, data, rows)
        if gap:
            difference = log_prob_gap(data["rollout_log_probs"], data["old_log_probs"])
            metrics["training/rollout_actor_log_prob_diff/mean"] = difference
        return metrics

    def _text_metrics(
        self, partition: str, keys: list[str], data: Any, rows: Sequence[Mapping[str, float]]
    ) -> dict[str, float]:
        """Metrics by type and of reasonings; logs histograms and, where it is due, the table."""
        truths = [GroundTruth.parse(model["ground_truth"]) for model in list(data["reward_model"])]
        types = [str(truth.question_type) for truth in truths]
        texts = self.tokenizer.batch_decode(
            list(data["responses"].unbind()), skip_special_tokens=True
        )
        rich_logs.log_histograms(
            self.logger, step_metrics.histograms(rows, types), self.global_steps
        )
        table = self.config.trainer.v1[TRAINER_NAME].rollout_table
        if table.every and self.global_steps % table.every == 0:
            shown = keys[: table.rows]
            prompts = tq.kv_batch_get(
                keys=shown, partition_id=partition, select_fields=["raw_prompt"]
            )
            scores = [float(row["score"]) for row in rows]
            columns = (list(prompts["raw_prompt"]), texts, truths, scores)
            samples = [rich_logs.sample(*row) for row in zip(*columns, strict=False)]
            rich_logs.log_table(self.logger, samples, self.global_steps)
        thoughts = self.tokenizer(step_metrics.reasonings(texts), add_special_tokens=False)
        lengths = [len(ids) for ids in thoughts["input_ids"]]
        return step_metrics.type_metrics(rows, types) | step_metrics.length_metrics(lengths)
