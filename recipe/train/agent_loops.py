"""verl's agent loops by group: the rollouts of a prompt share its preparation and their requests.

For each rollout, verl 0.9.1 loads the picture, runs processor and chat template, sends the picture
to the engine, computes features and position ids twice, and calls the reward and the storage. The
rollouts of a prompt differ only in their answers: here all of this is done once for a group, with
one call of the engine, one of the reward worker and one of the storage. What is stored for each
rollout is the same, but for the multimodal inputs (`recipe.verl_fixes.group_features`). Multi-turn
loops are verl's.

verl knows of a rollout only that it is running, not whether it waits for the engine, the reward or
the storage. These agent loops know, and `recipe.run.watches` asks them.
"""

import asyncio
import copy
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar
from uuid import uuid4

import numpy as np
import ray
import torch
import transfer_queue as tq
from tensordict import TensorDict
from torch.nn.utils.rnn import pad_sequence
from verl.experimental.agent_loop.agent_loop import DictConfigWrap
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.protocol import DataProto
from verl.trainer.distillation import is_distillation_enabled
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils.profiler import simple_timer
from verl.utils.ray_utils import auto_await
from verl.utils.tensordict_utils import list_of_dict_to_tensordict
from verl.utils.tokenizer import get_processor_token_id

from recipe.verl_fixes import group_features

SINGLE_TURN = "single_turn_agent"

# A Ray actor class cannot be subclassed; the plain class beneath it can.
_Plain: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class.__ray_actor_class__


class GroupLoop(SingleTurnAgentLoop):
    """verl's single-turn loop, whose `run` is called for one rollout of a prompt after the other.

    The first call prepares the prompt and asks the engine for all answers.
    """

    _client: Any
    _count: int
    _pictures: dict[str, Any] | None
    _prompt: list[int] | None
    _answers: Iterator[Any] | None

    async def run_group(
        self, count: int, sampling_params: dict[str, Any], row: dict[str, Any]
    ) -> list[Any]:
        """Return verl's outputs of `count` rollouts of the prompt in a row of the data."""
        loop = copy.copy(self)
        loop._client, loop.server_manager, loop._count = self.server_manager, loop, count
        loop._pictures = loop._prompt = loop._answers = None
        return [await loop.run(sampling_params, **row) for _ in range(count)]

    async def process_multi_modal_info(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """Load the pictures of the prompt, see verl's."""
        if self._pictures is None:
            self._pictures = await super().process_multi_modal_info(messages)
        return dict(self._pictures)

    async def ct_build_initial_tokens(self, *args: Any, **kwargs: Any) -> list[int]:
        """Build the tokens of the prompt, see verl's."""
        if self._prompt is None:
            self._prompt = await super().ct_build_initial_tokens(*args, **kwargs)
        return list(self._prompt)

    async def generate(self, request_id: str, **request: Any) -> Any:
        """Return the next answer; verl's `run` calls this as a method of its client."""
        if self._answers is None:
            self._answers = iter(await self._ask(request_id, request))
        return next(self._answers)

    async def _ask(self, request_id: str, request: dict[str, Any]) -> list[Any]:
        request = {name: value for name, value in request.items() if value}
        request.pop("mm_processor_output", None)  # of SGLang
        server_id, server = await self._client._acquire_server(request_id, **request)
        try:
            outputs: list[Any] = await server.generate_group.remote(
                self._count, request_id=uuid4().hex, **request
            )
        finally:
            self._client._release_server(server_id, request_id=request_id)
        for output in outputs:
            for name in ("min_global_steps", "max_global_steps"):
                output.extra_fields.setdefault(name, output.extra_fields["global_steps"])
        return outputs


def continued_positions(positions: torch.Tensor, more: int) -> torch.Tensor:
    """Continue the position ids of a prompt by `more` tokens of text.

    Args:
        positions: of shape (..., P), of a prompt whose last token is text.
        more: number of tokens after the prompt.
    """
    following = positions[..., -1:] + 1 + torch.arange(more)
    return torch.cat([positions, following], dim=-1)


class AgentLoopWorkerByGroup(_Plain):
    """verl's worker, with groups; it records the part that each of its rollouts waits for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._parts: dict[str, tuple[str, int]] = {}  # by prompt: the part and its rollouts
        self._sizes: dict[str, int] = {}
        self._loop: GroupLoop | None = None
        tokens = [get_processor_token_id(self.processor, name) for name in ("image", "video")]
        self._vision = torch.tensor([token for token in tokens if token is not None])

    def connect(
        self, llm_client: Any, teacher_client: Any, reward_loop_worker_handles: Any
    ) -> None:
        """Set what the worker asks, where it started before those."""
        self.llm_client = llm_client
        self.teacher_client = teacher_client
        self.reward_loop_worker_handles = reward_loop_worker_handles

    async def _run_prompt(
        self, prompt: dict[str, Any], sampling_params: Any, trajectory: Any, trace: bool = False
    ) -> None:
        settings = self.config.actor_rollout_ref.rollout
        # With full determinism verl gives each rollout a request of its own, all with one seed.
        is_shared = prompt["agent_name"] == SINGLE_TURN and not self.distillation_enabled
        if is_shared and not settings.get("full_determinism", False):
            size = settings.val_kwargs.n if trajectory["validate"] else settings.n
            self._sizes[prompt["uid"]] = int(prompt.get("__rollout_n__", size))
            prompt["__rollout_n__"] = 1  # for verl the group is one rollout
        await super()._run_prompt(prompt, sampling_params, trajectory, trace)

    async def _run_agent_loop(
        self, sampling_params: dict[str, Any], trajectory: dict[str, Any], **kwargs: Any
    ) -> Any:
        uid = kwargs["uid"]
        size = self._sizes.pop(uid, 0)
        part = f"{uid}_{kwargs['session_id']}"
        try:
            self._parts[part] = "engine", max(size, 1)
            if not size:
                return await super()._run_agent_loop(sampling_params, trajectory, **kwargs)
            del kwargs["agent_name"], kwargs["trace"], kwargs["session_id"]
            outputs = await self._single_turn().run_group(size, sampling_params, kwargs)
            self._parts[part] = "reward", size
            await self._score_group(outputs, kwargs)
            self._parts[part] = "storage", size
            await self._store_group(outputs, kwargs, "val" if trajectory["validate"] else "train")
        finally:
            self._parts.pop(part, None)

    def _single_turn(self) -> GroupLoop:
        if self._loop is None:
            self._loop = GroupLoop(
                trainer_config=DictConfigWrap(self.config),
                server_manager=self.llm_client,
                tokenizer=self.tokenizer,
                processor=self.processor,
                hf_model_type=self.hf_model_type,
                dataset_cls=self.dataset_cls,
                data_config=DictConfigWrap(self.config.data),
            )
        return self._loop

    async def _score_group(self, outputs: Sequence[Any], row: dict[str, Any]) -> None:
        """Set the rewards of a group by one call of a reward worker; otherwise as verl."""
        if self.reward_loop_worker_handles is None:  # a reward model scores the batch later
            return
        timing: dict[str, float] = {}
        with simple_timer("compute_score", timing):
            worker = random.choice(self.reward_loop_worker_handles)
            results = await worker.compute_score_batch.remote(_to_score(outputs, row))
        for output, result in zip(outputs, results, strict=True):
            output.reward_score = result["reward_score"]
            output.extra_fields["reward_extra_info"] = result["reward_extra_info"]
            output.metrics.compute_score = timing["compute_score"]

    async def _store_group(
        self, outputs: Sequence[Any], row: dict[str, Any], partition: str
    ) -> None:
        """Store the rollouts of a group by one call; keys, fields and tags are verl's."""
        keys = [f"{row['uid']}_{session}_0" for session in range(len(outputs))]
        fields = [output.as_dict() for output in outputs]
        prompt = fields[0]["prompts"]
        features = self._compute_multi_modal_inputs(outputs[0], prompt)
        mask = torch.ones_like(prompt)[None]
        # verl takes an entry of the features out, which only the position ids need.
        positions = self._compute_position_ids(prompt[None], mask, features).squeeze(0)
        for session, (output, field) in enumerate(zip(outputs, fields, strict=True)):
            field.update(row, session_id=session)
            field.pop("multi_modal_data", None)
            field["loss_mask"] = field["response_mask"]
            field["input_ids"] = torch.cat([prompt, field["responses"]])
            if torch.isin(field["responses"], self._vision).any():
                self._complete_alone(output, field)
                continue
            field["position_ids"] = continued_positions(positions, len(field["responses"]))
            field["multi_modal_inputs"] = features
            if not group_features.is_stored_elsewhere(features):
                features = group_features.stored_with(keys[session])
        tags = [_tags(field) for field in fields]
        await tq.async_kv_batch_put(
            keys=keys, fields=list_of_dict_to_tensordict(fields), tags=tags, partition_id=partition
        )

    def _complete_alone(self, output: Any, field: dict[str, Any]) -> None:
        """Add features and positions of an answer that holds tokens of pictures, as verl does."""
        ids = field["input_ids"]
        features = self._compute_multi_modal_inputs(output, ids)
        positions = self._compute_position_ids(ids[None], torch.ones_like(ids)[None], features)
        field["position_ids"], field["multi_modal_inputs"] = positions.squeeze(0), features

    async def _compute_score(self, outputs: Any, kwargs: dict[str, Any]) -> None:
        part = f"{kwargs['uid']}_{kwargs['session_id']}"
        self._parts[part] = "reward", 1
        await super()._compute_score(outputs, kwargs)
        self._parts[part] = "storage", 1

    async def waiting_rollouts(self) -> Counter[str]:
        """Count the rollouts that wait for the engine, the reward and the storage."""
        waiting: Counter[str] = Counter()
        for part, rollouts in self._parts.values():
            waiting[part] += rollouts
        return waiting


def _to_score(outputs: Sequence[Any], row: dict[str, Any]) -> DataProto:
    """Return the rollouts of a group in verl's form for reward workers, padded on the right."""
    count, prompt = len(outputs), torch.tensor(outputs[0].prompt_ids)
    answers = [torch.tensor(output.response_ids, dtype=torch.int64) for output in outputs]
    responses = pad_sequence(answers, batch_first=True)
    is_answer = pad_sequence([torch.ones_like(answer) for answer in answers], batch_first=True)
    prompts = prompt.expand(count, -1)
    batch = {
        "prompts": prompts,
        "responses": responses,
        "attention_mask": torch.cat([torch.ones_like(prompts), is_answer], dim=1),
        "input_ids": torch.cat([prompts, responses], dim=1),
    }
    columns = {name: _column([copy.copy(value) for _ in outputs]) for name, value in row.items()}
    columns |= {
        "__num_turns__": np.array([output.num_turns for output in outputs]),
        "tool_extra_fields": _column([output.extra_fields for output in outputs]),
        "prompt_len": np.array([len(prompt)] * count),
        "response_len": np.array([len(answer) for answer in answers]),
    }
    return DataProto(batch=TensorDict(batch, batch_size=count), non_tensor_batch=columns)


def _column(values: Sequence[Any]) -> np.ndarray:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _tags(field: dict[str, Any]) -> dict[str, Any]:
    """Return verl's tags of a rollout."""
    lengths = field["prompts"].size(0), field["responses"].size(0)
    names = ("min_global_steps", "max_global_steps")
    return {
        "status": "success",
        "prompt_len": lengths[0],
        "response_len": lengths[1],
        "seq_len": sum(lengths),
        "global_steps": field["global_steps"],
        **{name: field["extra_fields"].get(name) for name in names},
    }


class AgentLoopManagerByGroup(AgentLoopManagerTQ):
    """verl's manager with these workers, an object of the trainer's process.

    Attributes:
        rows: for each prompt that was sent out, by verl's key, its row in the data file.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(AgentLoopWorkerByGroup)
        self.rows: dict[str, int] = {}

    _early: ClassVar["AgentLoopManagerByGroup | None"] = None

    @classmethod
    def start_early(cls, config: Any) -> None:
        """Start the workers' processes before the engine, whose client they get in `create`.

        On several nodes they wait: they must not take the CPUs that the actors need on each node.
        verl's constructor uses the client where it distils or traces.
        """
        traces = config.actor_rollout_ref.rollout.trace.get("token2text", False)
        distils = is_distillation_enabled(config.distillation)
        if config.cluster.nodes == 1 and not traces and not distils:
            cls._early = cls(config, None)
            asyncio.run(cls._early._init_agent_loop_workers())

    @classmethod
    @auto_await
    async def create(cls, *args: Any, **clients: Any) -> "AgentLoopManagerByGroup":
        """Create the manager and its workers, or complete those that started early."""
        manager, cls._early = cls._early, None
        if manager is None:
            return await super().create(*args, **clients)
        del clients["config"]
        connected = [worker.connect.remote(**clients) for worker in manager.agent_loop_workers]
        await asyncio.gather(*connected)
        return manager

    def generate_sequences(self, prompts: Any) -> None:
        """Send prompts to the workers as verl does, and record their rows."""
        rows = zip(list(prompts["uid"]), list(prompts["index"]), strict=True)
        self.rows.update((str(uid), int(index)) for uid, index in rows)
        super().generate_sequences(prompts)
