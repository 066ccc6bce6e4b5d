"""Answers questions of a rollout parquet with vLLM, as the rollout of the training does.

Images go through the same loader as in training (qwen_vl_utils with the row's pixel limits), so the
model sees them in the size that the boxes were written for.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

from recipe.messages import prompt_text

CHUNK = 256  # questions whose images are held in memory at a time


@dataclass(frozen=True)
class Prompt:
    """A row of a rollout parquet, as far as answering it goes."""

    index: int
    messages: list[dict[str, Any]]
    images: list[dict[str, Any]]
    ground_truth: str
    extra_info: dict[str, Any]


def read_prompts(path: str | Path) -> list[Prompt]:
    """The rows of a rollout parquet, in order."""
    columns = ["prompt", "images", "reward_model", "extra_info"]
    return [
        Prompt(
            index=row["extra_info"]["index"],
            messages=row["prompt"],
            images=row["images"],
            ground_truth=row["reward_model"]["ground_truth"],
            extra_info=row["extra_info"],
        )
        for row in pq.read_table(path, columns=columns).to_pylist()
    ]


def start_engine(config: DictConfig) -> Any:
    """A vLLM engine for the configured model.

    Args:
        config: composed ``configs/evaluate.yaml``; ``cluster.env`` is in the environment already.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm import LLM

    kwargs = OmegaConf.to_container(config.cluster.engine_kwargs, resolve=True)
    extra = cast("dict[str, Any]", kwargs)
    extra.pop("worker_extension_cls", None)  # evaluation writes no weights
    return LLM(
        model=str(config.model.path),
        dtype=config.cluster.dtype,
        tensor_parallel_size=config.cluster.tensor_parallel,
        gpu_memory_utilization=config.cluster.gpu_memory_utilization,
        enforce_eager=config.cluster.enforce_eager,
        max_num_seqs=config.cluster.max_num_seqs,
        max_model_len=config.data.max_prompt_length + config.data.max_response_length,
        limit_mm_per_prompt={"image": 1},
        seed=config.seed,
        **extra,
    )


def _request(prompt: Prompt, processor: Any) -> dict[str, Any]:
    from verl.utils.dataset.vision_utils import process_image

    text = prompt_text(prompt.messages, processor)
    patch = processor.image_processor.patch_size
    images = [process_image(dict(image), image_patch_size=patch) for image in prompt.images]
    return {"prompt": text, "multi_modal_data": {"image": images}}


def answer(
    engine: Any, processor: Any, prompts: Sequence[Prompt], params: Any, progress: Any
) -> list[list[str]]:
    """The responses to each prompt, in order.

    Args:
        engine: of `start_engine`.
        processor: the model's processor.
        prompts: questions.
        params: vLLM ``SamplingParams``; its ``n`` is the number of responses to each prompt.
        progress: a tqdm bar that is moved by one for each prompt.
    """
    responses: list[list[str]] = []
    for start in range(0, len(prompts), CHUNK):
        chunk = prompts[start : start + CHUNK]
        requests = [_request(prompt, processor) for prompt in chunk]
        for output in engine.generate(requests, params, use_tqdm=False):
            responses.append([completion.text for completion in output.outputs])
        progress.update(len(chunk))
    return responses
