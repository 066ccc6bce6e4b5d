"""The tiny model: Qwen2.5-VL's architecture with about 1.4 million random weights."""

import math

import torch
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from recipe.tiny import tokenizer as names
from recipe.tiny.tokenizer import CHAT_TEMPLATE, coordinate_tokens, train_tokenizer

WIDTH = 128
HEADS = 4  # of 32 channels each: the smallest head that vLLM's CPU attention knows
LEARNED_PIECES = 1500


def build_processor(texts: list[str]) -> Qwen2_5_VLProcessor:
    """Processor with a tokenizer learned from `texts` and Qwen2.5-VL's image processing."""
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(),
        tokenizer=train_tokenizer(texts, LEARNED_PIECES),
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )


def _config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    ids = tokenizer.convert_tokens_to_ids
    depth = 3
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "intermediate_size": 3 * WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": HEADS,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 6, 6],
            },
            "bos_token_id": None,
            "eos_token_id": ids(names.END),
            "pad_token_id": ids(names.PAD),
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": depth,
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_heads": HEADS,
            "out_hidden_size": WIDTH,
            "fullatt_block_indexes": list(range(depth)),
        },
        image_token_id=ids(names.IMAGE),
        video_token_id=ids(names.VIDEO),
        vision_start_token_id=ids(names.VISION_START),
        vision_end_token_id=ids(names.VISION_END),
        tie_word_embeddings=True,
    )


def _coordinate_embeddings(count: int, generator: torch.Generator) -> torch.Tensor:
    """Embeddings of the numbers 0..count-1 in which neighbours are alike, (count, WIDTH).

    Random Fourier features at wavelengths from 8 pixels to the whole range, at the scale of the
    other embeddings.
    """
    half = WIDTH // 2
    wavelengths = torch.logspace(math.log10(8), math.log10(2 * count), half)
    phases = 2 * math.pi * torch.rand(half, generator=generator)
    angles = 2 * math.pi * torch.arange(count)[:, None] / wavelengths + phases
    return 0.02 * torch.cat([angles.sin(), angles.cos()], dim=1) * math.sqrt(2)


def _widen_initialisation(model: Qwen2_5_VLForConditionalGeneration) -> None:
    """Draw the linear layers anew with standard deviation 1 / sqrt(WIDTH).

    transformers draws them with 0.02, which suits wide models. At this width the attention would
    start almost uniform.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and "embed_tokens" not in name and "lm_head" not in name:
            torch.nn.init.normal_(parameter, std=1 / math.sqrt(WIDTH))


def build_model(
    tokenizer: PreTrainedTokenizerFast, seed: int
) -> Qwen2_5_VLForConditionalGeneration:
    """A model with random weights whose vocabulary is exactly the tokenizer's.

    The rollout masks ids that the tokenizer lacks, the actor does not: with a larger vocabulary
    their probabilities would differ.
    """
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(_config(tokenizer))
    _widen_initialisation(model)
    ids = tokenizer.convert_tokens_to_ids(coordinate_tokens())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        embeddings[ids] = _coordinate_embeddings(len(ids), generator).to(embeddings.dtype)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.float()
