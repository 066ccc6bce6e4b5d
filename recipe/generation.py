"""Answers questions of a rollout parquet with vLLM, as the rollout of the training does.

Images go through the same loader as in training (qwen_vl_utils with the row's pixel limits), so the
model sees them in the size that the boxes were written for.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from recipe.evaluation.controls import other_patients
from recipe.messages import prompt_text

BLANK: dict[str, Any] = {}
CHUNK = 256  # questions whose images are held in memory at a time


@dataclass(frozen=True)
class Prompt:
    """A row of a rollout parquet, as far as answering it goes.

    `instead` replaces the picture for a control: another row's `images` entry, or `BLANK`.
    """

    index: int
    messages: list[dict[str, Any]]
    images: list[dict[str, Any]]
    ground_truth: str
    extra_info: dict[str, Any]
    instead: dict[str, Any] | None = None


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


def with_other_pictures(prompts: Sequence[Prompt], control: str, seed: int) -> list[Prompt]:
    """The prompts with blank pictures (`blank`), or each with another patient's (`shuffled`)."""
    if control == "blank":
        return [replace(prompt, instead=BLANK) for prompt in prompts]
    patients = [str(p.extra_info.get("patient") or p.index) for p in prompts]
    return [
        replace(prompt, instead=prompts[other].images[0])
        for prompt, other in zip(prompts, other_patients(patients, seed), strict=True)
    ]


def load_image(prompt: Prompt, patch_size: int) -> Image.Image:
    """The prompt's picture in the size that its boxes were written for.

    One that stands in for it gets that size too, and a blank one is mid-grey.
    """
    from verl.utils.dataset.vision_utils import process_image

    own: Image.Image = process_image(dict(prompt.images[0]), image_patch_size=patch_size)
    if prompt.instead is None:
        return own
    if not prompt.instead:
        return Image.new("RGB", own.size, (128, 128, 128))
    other: Image.Image = process_image(dict(prompt.instead), image_patch_size=patch_size)
    return other.resize(own.size, Image.Resampling.BICUBIC)


def start_engine(config: DictConfig, own_process: bool = True) -> Any:
    """A vLLM engine for the configured model.

    Args:
        config: composed ``configs/evaluate.yaml``; ``cluster.env`` is in the environment already.
        own_process: the engine runs beside this process, which then prepares pictures meanwhile.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(own_process))
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


class LocalModel:
    """A model in a vLLM engine of this process."""

    def __init__(self, config: DictConfig) -> None:
        from transformers import AutoProcessor

        self._engine = start_engine(config)
        self._processor = AutoProcessor.from_pretrained(config.model.path)
        self._limit = config.data.max_response_length

    def answer(
        self, prompts: Sequence[Prompt], *, temperature: float, samples: int, progress: Any
    ) -> list[list[str]]:
        """`samples` responses to each prompt, in order; `progress` is moved by one for each."""
        from vllm import SamplingParams

        # Seeded by the engine: a generator for each request fails on vLLM 0.28's CPU sampler.
        params = SamplingParams(
            temperature=temperature, n=samples, max_tokens=self._limit, detokenize=False
        )
        return answer(self._engine, self._processor, prompts, params, progress)


def _request(prompt: Prompt, processor: Any) -> dict[str, Any]:
    text = prompt_text(prompt.messages, processor)
    image = load_image(prompt, processor.image_processor.patch_size)
    return {"prompt": text, "multi_modal_data": {"image": [image]}}


def answer(
    engine: Any, processor: Any, prompts: Sequence[Prompt], params: Any, progress: Any
) -> list[list[str]]:
    """The responses to each prompt, in order.

    Tokens become text as in verl's rollout: all of a response at once. vLLM's own text is built
    token by token and lacks a character that the response ends in the middle of.

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
            tokens = [list(completion.token_ids) for completion in output.outputs]
            responses.append(processor.tokenizer.batch_decode(tokens, skip_special_tokens=True))
        progress.update(len(chunk))
    return responses
