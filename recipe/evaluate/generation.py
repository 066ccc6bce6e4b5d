"""Answer the questions of a rollout parquet with vLLM, as the rollout of training does.

Images go through the same loader as in training (qwen_vl_utils with the row's pixel limits), so the
model sees them in the size that the boxes were written for.
"""

import asyncio
import os
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from omegaconf import DictConfig
from PIL import Image

from data_prep.program import InputError
from recipe import console
from recipe.data.overlong import overlong_rows
from recipe.data.prompts import (
    prompt_text,
    response_prefix,
    template_faults,
    without_reasoning,
)
from recipe.evaluate.controls import other_patients
from recipe.program import plain

ENGINE = ("transformers.models.qwen2_5_vl.modeling_qwen2_5_vl", "vllm.v1.engine.core")
"""What the process of the engine imports."""

BLANK: dict[str, Any] = {}
CHUNK = 256  # questions whose images are held in memory at a time
PATCHES = 2
"""Patches per side of an image token, in all supported model families."""


@dataclass(frozen=True)
class Prompt:
    """A question, from a row of a rollout parquet.

    `instead` replaces the picture for a control: another row's `images` entry, or `BLANK`.
    """

    index: int
    messages: list[dict[str, Any]]
    images: list[dict[str, Any]]
    ground_truth: str
    extra_info: dict[str, Any]
    instead: dict[str, Any] | None = None


class Response(NamedTuple):
    """What a model wrote, and whether `data.max_response_length` cut it off."""

    text: str
    is_cut: bool = False


Keep = Callable[[Prompt, list[Response]], None]
"""Takes a prompt and its responses, when they are complete."""


def read_prompts(path: str | Path, reasoning: bool = True) -> list[Prompt]:
    """Read the questions of a split; without `reasoning`, prompts do not ask for one.

    Raises:
        InputError: `reasoning` cannot be taken out of the prompts.
    """
    columns = ["prompt", "images", "reward_model", "extra_info"]
    rows = pq.read_table(path, columns=columns).to_pylist()
    try:
        return [
            Prompt(
                index=row["extra_info"]["index"],
                messages=row["prompt"] if reasoning else without_reasoning(row["prompt"]),
                images=row["images"],
                ground_truth=row["reward_model"]["ground_truth"],
                extra_info=row["extra_info"],
            )
            for row in rows
        ]
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def with_other_pictures(prompts: Sequence[Prompt], control: str, seed: int) -> list[Prompt]:
    """Replace the pictures by blank ones (`blank`) or by another patient's (`shuffled`)."""
    if control == "blank":
        return [replace(prompt, instead=BLANK) for prompt in prompts]
    patients = [str(p.extra_info.get("patient") or p.index) for p in prompts]
    return [
        replace(prompt, instead=prompts[position].images[0])
        for prompt, position in zip(prompts, other_patients(patients, seed), strict=True)
    ]


def load_image(prompt: Prompt, patch_size: int) -> Image.Image:
    """Load the prompt's picture in the size that its boxes were written for.

    The picture of a control gets that size too; a blank one is mid-grey.
    """
    from verl.utils.dataset.vision_utils import process_image

    picture: Image.Image = process_image(dict(prompt.images[0]), image_patch_size=patch_size)
    if prompt.instead is None:
        return picture
    if not prompt.instead:
        return Image.new("RGB", picture.size, (128, 128, 128))
    instead: Image.Image = process_image(dict(prompt.instead), image_patch_size=patch_size)
    return instead.resize(picture.size, Image.Resampling.BICUBIC)


def image_tokens(picture: Image.Image, patch_size: int) -> int:
    """Return the number of tokens of a picture that the server does not resize."""
    side = PATCHES * patch_size
    return (picture.width // side) * (picture.height // side)


def prompt_length(tokenizer: Any, text: str, picture: Image.Image, patch_size: int) -> int:
    """Return the number of tokens of a prompt's text with its picture."""
    # One token of the text is the picture's placeholder.
    return len(tokenizer(text)["input_ids"]) - 1 + image_tokens(picture, patch_size)


def start_engine(config: DictConfig, own_process: bool = True) -> Any:
    """Start a vLLM engine for the configured model, when ``cluster.env`` is in the environment.

    In a separate process (`own_process`) it answers while this one prepares pictures.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    # At 1, vLLM's CPU platform gives the engine a worker process, and both spin while they wait for
    # each other; any other number but 0 means the same without it.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "2" if own_process else "0"
    from vllm import LLM

    return LLM(**engine_options(config))


def engine_options(config: DictConfig) -> dict[str, Any]:
    """Return vLLM's arguments of an engine for the configured model."""
    extra = plain(config.cluster.engine_kwargs)
    extra.pop("worker_extension_cls", None)  # no weights are written
    return {
        "model": str(config.model.path),
        "dtype": config.cluster.dtype,
        "tensor_parallel_size": config.cluster.tensor_parallel,
        "gpu_memory_utilization": config.cluster.gpu_memory_utilization,
        "enforce_eager": config.cluster.enforce_eager,
        "max_num_seqs": config.cluster.max_num_seqs,
        "max_model_len": config.data.max_prompt_length + config.data.max_response_length,
        "limit_mm_per_prompt": {"image": 1},
        "seed": config.seed,
        # As in training. With raw ones, vLLM 0.24 compiles FlashInfer's sampler when it starts, for
        # which it needs CUDA's compiler.
        "logprobs_mode": "processed_logprobs",
        **extra,
    }


class LocalModel:
    """A model in a vLLM engine of this process."""

    def __init__(self, config: DictConfig, split: Path | None = None) -> None:
        """Load the model.

        Raises:
            InputError: a prompt of `split` has more than `data.max_prompt_length` tokens.
        """
        from transformers import AutoProcessor

        self._processor = AutoProcessor.from_pretrained(config.model.path)
        self._limit = config.data.max_response_length
        self._template = plain(config.data.apply_chat_template_kwargs)
        reasoning = config.data.reasoning is not False
        for fault in template_faults(self._processor, self._template, "evaluate", reasoning):
            console.say(f"warning: model.path={config.model.path}: {fault}")
        if split is not None:
            check_lengths(split, config.data.max_prompt_length, self._processor, reasoning)
        self._engine = start_engine(config)

    def answer(
        self, prompts: Sequence[Prompt], *, temperature: float, samples: int, keep: Keep
    ) -> None:
        """Generate `samples` responses to each prompt, and `keep` them."""
        from vllm import SamplingParams

        # Seeded by the engine: a generator for each request fails on vLLM 0.28's CPU sampler.
        params = SamplingParams(
            temperature=temperature, n=samples, max_tokens=self._limit, detokenize=False
        )
        answer(self._engine, self._processor, prompts, params, keep, template=self._template)


def check_lengths(split: Path, limit: int, processor: Any, reasoning: bool) -> None:
    """Refuse a split with prompts of more than `limit` tokens, text and picture together.

    Their responses would be cut off earlier than others, or vLLM would end.
    """
    overlong = overlong_rows(split, "prompt", limit, processor, reasoning)
    if overlong:
        longest = max(row.tokens for row in overlong)
        raise InputError(
            f"{split}: {len(overlong)} prompts have more than data.max_prompt_length={limit} "
            f"tokens, the longest {longest}: set data.max_prompt_length={longest} or more"
        )


def answer(
    engine: Any,
    processor: Any,
    prompts: Sequence[Prompt],
    params: Any,
    keep: Keep,
    template: Mapping[str, Any] | None = None,
) -> None:
    """Generate the responses to each prompt, in order, and `keep` them; `params` say how many.

    A response starts with the part that the chat template writes into the prompt (`<think>`). Its
    tokens are decoded all at once, as in verl's rollout: vLLM's own text is built token by token
    and lacks a last character that is cut off.
    """
    for start in range(0, len(prompts), CHUNK):
        chunk = prompts[start : start + CHUNK]
        requests = [request_of(prompt, processor, template or {}) for prompt in chunk]
        outputs = engine.generate(requests, params, use_tqdm=False)
        for prompt, request, output in zip(chunk, requests, outputs, strict=True):
            tokens = [list(completion.token_ids) for completion in output.outputs]
            texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            prefix = response_prefix(request["prompt"])
            cut = [completion.finish_reason == "length" for completion in output.outputs]
            keep(prompt, [Response(prefix + text, c) for text, c in zip(texts, cut, strict=True)])


def request_of(prompt: Prompt, processor: Any, template: Mapping[str, Any]) -> dict[str, Any]:
    """Return what vLLM's engine takes for a prompt: its text, and its picture in the right size."""
    text = prompt_text(prompt.messages, processor, **template)
    image = load_image(prompt, processor.image_processor.patch_size)
    return {"prompt": text, "multi_modal_data": {"image": [image]}}


class StreamingModel:
    """A model in a vLLM engine, which answers several questions at a time, word by word."""

    def __init__(self, config: DictConfig) -> None:
        """Load the configured model, when ``cluster.env`` is in the environment."""
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from transformers import AutoProcessor
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._processor = AutoProcessor.from_pretrained(config.model.path)
        self._prompt_limit = config.data.max_prompt_length
        self._limit = config.data.max_response_length
        self._template = plain(config.data.apply_chat_template_kwargs)
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_options(config)))

    async def stream(self, prompt: Prompt, temperature: float) -> AsyncGenerator[str, None]:
        """Yield the whole response so far, after each of its tokens.

        Raises:
            InputError: the prompt is too long, or the engine's process has ended.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        # Beside the event loop, since a large picture takes long.
        request = await asyncio.to_thread(request_of, prompt, self._processor, self._template)
        text, picture = request["prompt"], request["multi_modal_data"]["image"][0]
        prefix, tokenizer = response_prefix(text), self._processor.tokenizer
        patch_size = self._processor.image_processor.patch_size
        length = await asyncio.to_thread(prompt_length, tokenizer, text, picture, patch_size)
        if length > self._prompt_limit:
            raise InputError(
                f"the question has {length} tokens with its picture, and the model reads "
                f"{self._prompt_limit} (data.max_prompt_length): shorten it"
            )
        params = SamplingParams(
            temperature=temperature,
            max_tokens=self._limit,
            detokenize=False,
            output_kind=RequestOutputKind.CUMULATIVE,
        )
        try:
            async for output in self._engine.generate(request, params, uuid.uuid4().hex):
                tokens = list(output.outputs[0].token_ids)
                yield prefix + tokenizer.decode(tokens, skip_special_tokens=True)
        except EngineDeadError:
            raise InputError(
                "vLLM's process has ended (its log may say why): start the program again"
            ) from None

    def close(self) -> None:
        """End the engine's process."""
        self._engine.shutdown()
