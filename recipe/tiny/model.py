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
IMAGE_CELL = 28  # side in pixels of what becomes one image token: a patch of 14, merged 2 x 2
EMBEDDING_SCALE = 0.1  # standard deviation


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
    return EMBEDDING_SCALE * torch.cat([angles.sin(), angles.cos()], dim=1) * math.sqrt(2)


def _initialise(model: Qwen2_5_VLForConditionalGeneration) -> None:
    """Draw embeddings and linear layers anew.

    transformers draws all with standard deviation 0.02, which suits wide models: at this width the
    attention would start almost uniform. Here layers keep the scale of their input, and those that
    add to the residual stream are smaller by sqrt(2 x layers) (Radford et al., Language Models are
    Unsupervised Multitask Learners, 2019). Text and image tokens enter at the same scale, so that
    what the first layer adds does not drown which word a token is.
    """
    blocks = {
        "language_model": model.config.text_config.num_hidden_layers,
        "visual": model.config.vision_config.depth,
    }
    for name, parameter in model.named_parameters():
        if "embed_tokens" in name:
            torch.nn.init.normal_(parameter, std=EMBEDDING_SCALE)
        elif parameter.dim() == 2 and "lm_head" not in name:
            scale = 1 / math.sqrt(parameter.shape[1])
            if name.endswith(("o_proj.weight", "attn.proj.weight", "down_proj.weight")):
                scale /= math.sqrt(2 * next(n for tower, n in blocks.items() if tower in name))
            elif "merger.mlp.2" in name:
                scale *= EMBEDDING_SCALE
            torch.nn.init.normal_(parameter, std=scale)


def build_model(
    tokenizer: PreTrainedTokenizerFast, seed: int
) -> Qwen2_5_VLForConditionalGeneration:
    """A model with random weights whose vocabulary is exactly the tokenizer's.

    The rollout masks ids that the tokenizer lacks, the actor does not: with a larger vocabulary
    their probabilities would differ.
    """
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(_config(tokenizer))
    _initialise(model)
    ids = tokenizer.convert_tokens_to_ids(coordinate_tokens())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        embeddings[ids] = _coordinate_embeddings(len(ids), generator).to(embeddings.dtype)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.float()
