"""vLLM's rollout server, which answers a group in one request and ends with its engine.

verl's server gives one answer to a request. `generate_group` gives all answers of a prompt to one.

vLLM's engine is a separate process. If it dies while nothing is generated, the server continues,
and verl 0.9.1 waits forever for it to take the next weights. This server then ends as well, and the
run's watch notices the death of a Ray actor (`recipe.run.watches`).
"""

import asyncio
import multiprocessing
import os
import sys
from typing import Any

import ray
from verl.workers.rollout.replica import TokenOutput
from verl.workers.rollout.vllm_rollout.utils import (
    VLLM_LORA_INT_ID,
    VLLM_LORA_NAME,
    VLLM_LORA_PATH,
)
from verl.workers.rollout.vllm_rollout.vllm_async_server import (
    qwen2_5_vl_dedup_image_tokens,
    vLLMHttpServer,
    vLLMReplica,
)
from vllm import SamplingParams
from vllm.lora.request import LoRARequest
from vllm.outputs import CompletionOutput
from vllm.sampling_params import RequestOutputKind

from recipe import console
from recipe.run import fork_server
from recipe.verl_fixes.weight_socket import name_for_engine

POLL_S = 1.0
"""Seconds between two checks of the engine."""


class WatchedHttpServer(vLLMHttpServer):
    """verl's server with requests for groups, which watches its engine."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        name_for_engine()

    async def run_server(self, args: Any) -> None:
        """Start the engine and the server, see verl's."""
        if python := os.environ.get(fork_server.VARIABLE):
            multiprocessing.set_executable(python)
        await super().run_server(args)
        self._engine_watch = asyncio.create_task(self._end_with_engine())

    async def generate_group(
        self,
        answers: int,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        request_id: str,
        image_data: list[Any] | None = None,
        video_data: list[Any] | None = None,
        mm_processor_kwargs: dict[str, Any] | None = None,
        priority: int = 0,
    ) -> list[TokenOutput]:
        """Answer a prompt `answers` times in one request; otherwise as verl's `generate`."""
        pictures = {"image": image_data, "video": video_data}
        prompt = {
            "prompt_token_ids": qwen2_5_vl_dedup_image_tokens(
                prompt_ids, self.model_config.processor
            ),
            "multi_modal_data": {name: data for name, data in pictures.items() if data},
        }
        if mm_processor_kwargs:
            prompt["mm_processor_kwargs"] = mm_processor_kwargs
        lora = await self._lora()
        if (rejected := await self._park_until_admitted(request_id)) is not None:
            return [rejected.model_copy(deep=True) for _ in range(answers)]
        finished = None
        try:
            async for output in self.engine.generate(
                prompt=prompt,
                sampling_params=group_sampling(
                    self.config, answers, len(prompt_ids), sampling_params
                ),
                request_id=request_id,
                lora_request=lora,
                priority=priority,
            ):
                finished = output
        finally:
            self._admitting -= 1
        if finished is None or len(finished.outputs) not in (1, answers):  # verl ended it early
            steps = {"global_steps": self.global_steps}
            ended = TokenOutput(token_ids=[], stop_reason="aborted", extra_fields=steps)
            return [ended.model_copy(deep=True) for _ in range(answers)]
        outputs = finished.outputs * (answers // len(finished.outputs))
        return [self._answer(output, finished.num_cached_tokens) for output in outputs]

    async def _lora(self) -> LoRARequest | None:
        """Return the adapter of the actor, if the engine has loaded it."""
        if not self.lora_as_adapter or VLLM_LORA_INT_ID not in await self.engine.list_loras():
            return None
        return LoRARequest(
            lora_name=VLLM_LORA_NAME, lora_int_id=VLLM_LORA_INT_ID, lora_path=VLLM_LORA_PATH
        )

    def _answer(self, output: CompletionOutput, cached: int | None) -> TokenOutput:
        """Return an answer of vLLM in verl's form."""
        tokens = list(output.token_ids)
        log_probs = None
        if output.logprobs is not None:
            log_probs = [
                choices[token].logprob
                for token, choices in zip(tokens, output.logprobs, strict=True)
            ]
        replay = self.config.enable_rollout_routing_replay
        reason = output.finish_reason
        return TokenOutput(
            token_ids=tokens,
            log_probs=log_probs,
            routed_experts=output.routed_experts if replay else None,
            stop_reason={"abort": "aborted", "stop": "completed", "length": "completed"}.get(
                reason or "", reason
            ),
            num_preempted=getattr(output, "num_preempted", None),
            extra_fields={"global_steps": self.global_steps, "num_cached_tokens": cached},
        )

    async def _end_with_engine(self) -> None:
        while not self.engine.errored:
            await asyncio.sleep(POLL_S)
        print("vLLM's engine has ended, its server ends as well", file=sys.stderr, flush=True)
        os._exit(1)


def group_sampling(
    rollout: Any, answers: int, prompt_length: int, settings: dict[str, Any]
) -> SamplingParams:
    """Return verl's sampling for several answers, of which only the tokens are needed.

    Args:
        rollout: verl's configuration of the rollout.
        answers: number of answers.
        prompt_length: tokens of the prompt.
        settings: verl's, of a request.
    """
    options = dict(settings)
    room = rollout.prompt_length + rollout.response_length - prompt_length
    asked = options.pop("max_tokens", rollout.response_length)
    most = min(asked, room, rollout.max_model_len - prompt_length)
    if most < 1:
        raise ValueError(
            f"a prompt of {prompt_length} tokens leaves no room for an answer within "
            f"rollout.max_model_len={rollout.max_model_len}"
        )
    options["logprobs"] = 0 if options.pop("logprobs", False) else None
    options.setdefault("repetition_penalty", rollout.get("repetition_penalty", 1.0))
    options.setdefault("ignore_eos", rollout.get("ignore_eos", False))
    return SamplingParams(
        # Without chance all answers are the same: vLLM takes such a request for one answer only.
        n=answers if options.get("temperature", 1.0) > 0 else 1,
        max_tokens=most,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        **options,
    )


class WatchedReplica(vLLMReplica):
    """verl's replica of vLLM, with servers that end with their engines."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(WatchedHttpServer)
        if self.replica_rank == 0:
            console.say("starting vLLM" + " for the judge" * self.is_reward_model)
