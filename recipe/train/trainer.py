"""GRPO trainer: verl's synchronous V1 trainer with every reward component in the training log.

verl 0.9.1 logs the total reward while training and the components only in validation. Rollout
workers put the components of each row into TransferQueue (field ``extra_fields``, key
``reward_extra_info``). This trainer reads them there and logs ``reward/NAME/mean`` and
``reward/NAME/std`` at every step, over all rows and by question type, and histograms
(`recipe.train.metrics`). A judge that fails too often ends the run (`recipe.train.failures`).
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
import transfer_queue as tq
from omegaconf import open_dict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.workers.rollout.replica import RolloutReplicaRegistry

from recipe import console, loggers
from recipe.algorithms.advantages import Scored, rollouts_of_step
from recipe.cluster import check_queue
from recipe.data.loader_state import for_workers
from recipe.export import add_older_forms
from recipe.program import GDPO, SEGMENTS
from recipe.run.checkpoints import last_step, mark_step, prune
from recipe.run.folder import StopRequest, check_steps
from recipe.run.host import cores_for_each
from recipe.run.phases import Phases, publish, watch_trainer
from recipe.run.series import begin_series
from recipe.train import metrics as step_metrics
from recipe.train.agent_loops import AgentLoopManagerByGroup
from recipe.train.early_start import import_early
from recipe.train.failures import JudgeWatch, Redraws, failed_rollouts
from reward.ground_truth import GroundTruth
from reward.judge.settings import JudgeFailing
from reward.response import whole_response

TRAINER_NAME = "thinkvg"


def log_prob_gap(rollout: torch.Tensor, actor: torch.Tensor) -> float:
    """Return the mean absolute difference of nested tensors with a value for each token."""
    return float((rollout.values() - actor.values()).abs().mean())


def with_all_cores(worker: Any, processes: int) -> Any:
    """Return a class of verl's worker that computes with the cores which wait while it does.

    The machine's cores are shared by that many `processes`.
    """
    plain = worker.__ray_metadata__.modified_class.__ray_actor_class__

    class WorkerWithThreads(plain):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            torch.set_num_threads(cores_for_each(processes))
            super().__init__(*args, **kwargs)

    return WorkerWithThreads


def _rollouts(batch: KVBatchMeta) -> list[str]:
    """Return the keys of the rows that are no padding."""
    rows = zip(batch.keys, batch.tags, strict=True)
    return [key for key, tag in rows if not tag.get("is_padding", False)]


def _load_replica() -> Any:
    from recipe.verl_fixes.rollout_server import WatchedReplica

    return WatchedReplica


# Replaces verl's own loader of this name; vLLM is imported when the first replica starts.
RolloutReplicaRegistry.register("vllm", _load_replica)


@register_trainer(TRAINER_NAME)
class ThinkVGTrainer(PPOTrainerSync):
    """verl's synchronous trainer; ``trainer.v1.trainer_mode=thinkvg`` picks it."""

    global_steps: int
    total_training_steps: int
    role_worker_mapping: dict[Any, Any]
    train_dataloader: Any

    def __init__(self, config: Any) -> None:
        check_queue()
        # The registry name has picked this class; from here on verl compares the mode with "sync".
        settings = config.trainer.v1[TRAINER_NAME]
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"
        self._poll_interval = float(settings.poll_interval)
        self._most_failed = float(settings.max_failed_rollouts)
        self._log_probs = settings.old_log_probs
        self._judge = JudgeWatch(config)
        self._stop = StopRequest(config.stop_file)
        self._stops = False
        self._unmarked = 0
        self._redraws = Redraws(config)
        self._phases = Phases(settings.stuck.start, settings.stuck.factor, publish)
        super().__init__(config)
        files = {"train": config.data.train_files, "val": config.data.val_files}
        watch_trainer(self, self._phases, self._rows_under_way, files)

    def _init_resource_pool_mgr(self) -> None:
        # The last part of the set-up before this process waits for the actor to start.
        super()._init_resource_pool_mgr()
        if self.config.cluster.platform == "cpu":
            self.role_worker_mapping = {
                role: ray.remote(with_all_cores(worker, self.config.cluster.gpus_per_node))
                for role, worker in self.role_worker_mapping.items()
            }
        import_early("recipe.verl_fixes.rollout_server")
        AgentLoopManagerByGroup.start_early(self.config)

    def fit(self, agent_loop_manager: Any) -> None:
        """Train from the loaded step on, see verl's trainer."""
        if self.config.trainer.val_only:
            # Nothing is trained: the steps after the loaded one stay as they are.
            loggers.continue_from(sys.maxsize)
            loggers.continue_tensorboard(self.config.run_dir, None)
        else:
            begin_series(self.config, "train", self.global_steps)
            loggers.continue_from(self.global_steps)
            loggers.continue_tensorboard(self.config.run_dir, self.global_steps)
        # W&B would stage the pictures of tables in the home folder until they are synced.
        os.environ.setdefault("WANDB_DATA_DIR", str(self.config.run_dir))
        if self.global_steps > 0 and not self.config.trainer.val_only:
            # The loaded step is logged already: validating it would log it a second time.
            with open_dict(self.config):
                self.config.trainer.val_before_train = False
        console.hide_secrets(self.config)
        console.log_to_console(
            self.total_training_steps, self.global_steps, bool(self.config.trainer.val_only)
        )
        super().fit(agent_loop_manager)
        self._mark_logged()
        if not self.config.trainer.val_only:
            # verl's counter is at the next step
            check_steps(self.global_steps - 1, self.total_training_steps)

    def _rows_under_way(self) -> dict[str, int]:
        """Return the rows of prompts sent out; only `recipe.train.agent_loops` knows them."""
        return getattr(self.agent_loop_manager, "rows", {})

    def on_train_begin(self) -> None:
        """Lower the time limit of phases from that of the start to that of a step."""
        self._phases.least = self.config.trainer.v1[TRAINER_NAME].stuck.least
        super().on_train_begin()

    def on_step_begin(self) -> None:
        """Mark the checkpoint of the step before, which is logged by now."""
        self._mark_logged()
        self._phases.step = self.global_steps
        self._redraws.begin_step()
        self._rows_under_way().clear()
        super().on_step_begin()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        loader = self.train_dataloader
        if loader.next_iter_state is not None:
            # The machine, and with it the number of workers, may be another one.
            loader.next_iter_state = for_workers(loader.next_iter_state, loader.num_workers)

    def _save_checkpoint(self) -> None:
        # verl logs a step about a second after its checkpoint. A run that is killed in between must
        # not resume from a step that is missing in the log: the checkpoint is marked only then.
        holder = Path(self.config.trainer.default_local_dir)
        marked_step = last_step(holder)
        super()._save_checkpoint()
        add_older_forms(holder / f"global_step_{self.global_steps}" / "actor" / "huggingface")
        if marked_step and not (holder / f"global_step_{marked_step}" / "actor").is_dir():
            return  # verl keeps one checkpoint and has removed that one: the new one stays marked
        mark_step(holder, marked_step)
        self._unmarked = self.global_steps

    def _mark_logged(self) -> None:
        if self._unmarked:
            mark_step(Path(self.config.trainer.default_local_dir), self._unmarked)
            self._unmarked = 0
            # verl counts only the checkpoints that it has saved since this start.
            prune(self.config, "train")

    def on_step_end(self) -> None:
        """Save and stop after this step if that is requested; then copy the weights."""
        # Before the rollout engine wakes up for its new weights and takes its memory again.
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
        with open_dict(self.config):
            # The time until the end of the job may not be enough for a validation.
            self.config.trainer.test_freq = -1

    def on_train_end(self) -> None:
        """Answer the request to stop, once the last step is logged."""
        super().on_train_end()
        self._mark_logged()
        if self._stops:
            self._stop.answer(self.total_training_steps)

    def _build_replay_buffer(self) -> ReplayBuffer:
        # verl has no setting for the interval of 2 s, which is long for a small model's step.
        buffer = super()._build_replay_buffer()
        buffer.poll_interval = self._poll_interval
        return buffer

    def _add_prompts_to_generate(self, num_prompts: int) -> int:
        # verl's synchronous trainer calls this only to replace groups that it has filtered out.
        differing = len(self.replay_buffer.finished_keys["train"])
        self._redraws.add(num_prompts, differing, self.global_steps)
        return int(super()._add_prompts_to_generate(num_prompts))

    def _balance_batch(self, batch: KVBatchMeta, metrics: dict[str, Any], **kwargs: Any) -> Any:
        # verl calls this for each batch of rollouts, before it pads the batch.
        group, step = int(self.config.actor_rollout_ref.rollout.n), self.global_steps
        expected = self.config.data.train_batch_size * group
        metrics.update(failed_rollouts(len(batch.keys), expected, self._most_failed, step, group))
        metrics.update(self._redraws.metrics())
        return super()._balance_batch(batch, metrics=metrics, **kwargs)

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Log the gap of rollout and actor; take the rollout's log-probabilities if that is asked.

        The actor then computes those of `checked_rows` rows only, for the gap and the entropy.
        """
        if self._log_probs.source == "actor":
            batch = super()._compute_old_log_prob(batch, metrics)
            checked = batch
        else:
            checked = self._some_rows(batch, int(self._log_probs.checked_rows))
            super()._compute_old_log_prob(checked, metrics)
        if self.config.actor_rollout_ref.rollout.calculate_log_probs:
            metrics["training/rollout_actor_log_prob_diff/mean"] = self._gap(checked)
        if checked is not batch:
            partition, fields = batch.partition_id, ["rollout_log_probs"]
            data = tq.kv_batch_get(batch.keys, partition, select_fields=fields)
            data["old_log_probs"] = data.pop("rollout_log_probs")
            tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=data)
        return batch

    def _some_rows(self, batch: KVBatchMeta, count: int) -> KVBatchMeta:
        """Return about `count` rows of the batch, evenly spaced, one micro-batch for each rank."""
        ranks = max(self.actor_rollout_wg._dispatch_info["actor"]) + 1
        each = min(-(-count // ranks), len(batch) // ranks)
        rows = [row * len(batch) // (each * ranks) for row in range(each * ranks)]
        micro_batch = {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": each}
        return KVBatchMeta(
            partition_id=batch.partition_id,
            keys=[batch.keys[row] for row in rows],
            tags=[batch.tags[row] for row in rows],
            extra_info={**batch.extra_info, **micro_batch},
        )

    def _gap(self, batch: KVBatchMeta) -> float:
        """Return `log_prob_gap` of the rows that are no padding."""
        data = tq.kv_batch_get(
            keys=_rollouts(batch),
            partition_id=batch.partition_id,
            select_fields=["rollout_log_probs", "old_log_probs"],
        )
        return log_prob_gap(data["rollout_log_probs"], data["old_log_probs"])

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        estimator = self.config.algorithm.adv_estimator
        if estimator not in (GDPO, SEGMENTS):
            return super()._compute_advantage(batch, metrics)
        fields = ["extra_fields", *(["responses"] if estimator == SEGMENTS else [])]
        data = tq.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=fields
        )
        rows = [row["reward_extra_info"] for row in list(data["extra_fields"])]
        responses = list(data["responses"].unbind()) if estimator == SEGMENTS else []
        with rollouts_of_step(Scored(rows, responses, self.tokenizer)):
            return super()._compute_advantage(batch, metrics)

    def _compute_metrics(
        self, batch: KVBatchMeta, metrics: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        super()._compute_metrics(batch, metrics, *args, **kwargs)
        metrics.update(self._row_metrics(batch))
        try:
            self._judge.check()
        except JudgeFailing:
            # The user needs the metrics of the step in which the run ends.
            self.logger.log(data=metrics, step=self.global_steps)
            raise

    def _val_metrics_update(
        self,
        data_sources: Any,
        sample_uids: Any,
        rewards: Mapping[str, list[Any]],
        sample_turns: Any,
        expected_acc_counts: Mapping[Any, int],
    ) -> dict[str, float]:
        # verl takes the means over the rollouts that came: a failed one would not be seen.
        asked, came = sum(expected_acc_counts.values()), len(sample_uids)
        group, step = int(self.config.actor_rollout_ref.rollout.val_kwargs.n), self.global_steps
        failed = failed_rollouts(came, asked, self._most_failed, step, group, of="validation")
        metrics: dict[str, float] = super()._val_metrics_update(
            data_sources, sample_uids, rewards, sample_turns, expected_acc_counts
        )
        keys = ("judge_used", "judge_failed")
        columns = zip(*(rewards.get(key, []) for key in keys), strict=True)
        counts = self._judge.count(dict(zip(keys, row, strict=True)) for row in columns)
        self._judge.check()
        return metrics | failed | {f"val-{name}": value for name, value in counts.items()}

    def _row_metrics(self, batch: KVBatchMeta) -> dict[str, float]:
        """Return metrics of rewards, groups and texts, without padding."""
        keys = _rollouts(batch)
        fields = ["extra_fields", "uid", "reward_model", "extra_info", "responses"]
        data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=fields)
        extra_fields = list(data["extra_fields"])
        rows = [step_metrics.numbers(row["reward_extra_info"]) for row in extra_fields]
        groups = [str(uid) for uid in list(data["uid"])]
        metrics = step_metrics.component_metrics(rows)
        metrics |= step_metrics.group_metrics([row["score"] for row in rows], groups)
        metrics |= self._judge.count(rows)
        metrics |= self._text_metrics(batch.partition_id, keys, data, rows)
        return metrics

    def _text_metrics(
        self, partition: str, keys: list[str], data: Any, rows: Sequence[Mapping[str, float]]
    ) -> dict[str, float]:
        """Return metrics of question types and reasonings; log histograms and, if due, a table."""
        truths = [GroundTruth.parse(model["ground_truth"]) for model in list(data["reward_model"])]
        types = [str(truth.question_type) for truth in truths]
        generated = self.tokenizer.batch_decode(
            list(data["responses"].unbind()), skip_special_tokens=True
        )
        texts = [
            whole_response(text, info)
            for text, info in zip(generated, list(data["extra_info"]), strict=True)
        ]
        histograms = step_metrics.histograms(rows, types)
        step_metrics.log_histograms(self.logger, histograms, self.global_steps)
        table = self.config.trainer.v1[TRAINER_NAME].rollout_table
        if table.every and self.global_steps % table.every == 0:
            prompts = tq.kv_batch_get(
                keys=keys[: table.rows], partition_id=partition, select_fields=["raw_prompt"]
            )
            scores = [float(row["score"]) for row in rows]
            columns = (list(prompts["raw_prompt"]), texts, truths, scores)
            samples = [step_metrics.sample(*row) for row in zip(*columns, strict=False)]
            step_metrics.log_table(self.logger, samples, self.global_steps)
        thoughts = self.tokenizer(step_metrics.reasonings(texts), add_special_tokens=False)
        lengths = [len(ids) for ids in thoughts["input_ids"]]
        return step_metrics.type_metrics(rows, types) | step_metrics.length_metrics(lengths)
