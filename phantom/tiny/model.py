"""A tiny Qwen2.5-VL with about 1.9 million random weights, and its tokenizer."""

import math
import re
from collections import Counter
from collections.abc import Sequence

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from recipe.algorithms.soft_targets import LARGEST_COORDINATE

TAGS = ("think", "answer", "location", "ref", "box")
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
SPECIAL_TOKENS = (PAD, START, END, VISION_START, VISION_END, IMAGE, VIDEO)

# Words include the space before them, and consecutive lower-case words are one piece, within which
# BPE merges. A comma includes the space after it: a box is "[", x1, ", ", y1, ", ", x2, ", ", …
_PIECES = r", |(?:(?!{names}) ?\p{{Ll}}+)+| ?\p{{L}}+|\n+| ?[^\s\p{{L}}\p{{N}}]|\p{{N}}| +"
_REFS = re.compile(r"<ref>([^<]*)</ref>")
SHARED_LINE = 0.02  # share of the texts that must hold a line for it to become one token

WIDTH = 128
# With two, the model does not learn to find the letter of the choice that it has just named.
LAYERS = 4
HEADS = 4  # of 32 channels each: the smallest head that vLLM's CPU attention supports
LEARNED_PIECES = 1500
IMAGE_CELL = 28  # side in pixels of what becomes one image token: a patch of 14, merged 2 x 2
EMBEDDING_SCALE = 0.1  # standard deviation

CHAT_TEMPLATE = (
    "{%- for message in messages -%}{{ '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string -%}{{ message.content }}"
    "{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{ '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)


def coordinate_tokens() -> list[str]:
    """Return the numbers from 0 to `LARGEST_COORDINATE`, which are one token each."""
    return [str(number) for number in range(LARGEST_COORDINATE + 1)]


def shared_lines(texts: Sequence[str]) -> list[str]:
    """Return long lines with a tag that more than `SHARED_LINE` of the texts hold, sorted."""
    counts = Counter(line for text in texts for line in set(text.split("\n")) if "</" in line)
    threshold = SHARED_LINE * len(texts)
    return sorted(line for line, count in counts.items() if count > threshold and len(line) > 80)


def region_names(texts: Sequence[str]) -> list[str]:
    """Return the names in the ``<ref>`` tags of the texts, the longer ones first."""
    refs = {ref for text in texts for ref in _REFS.findall(text)}
    names = {name.strip() for ref in refs for name in re.split("[,;]", ref)}
    return sorted(names - {""}, key=lambda name: (-len(name), name))


def _pieces(names: Sequence[str]) -> Regex:
    """Return the pattern of pieces for BPE; a name with the space before it is one piece."""
    if not names:
        return Regex(_PIECES.format(names=r"\0"))
    any_name = rf" ?(?:{'|'.join(map(re.escape, names))})\b"
    return Regex(f"{any_name}|{_PIECES.format(names=any_name)}")


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Learn a tokenizer of at most `vocabulary` pieces, besides added tokens, from all texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_pieces(region_names(texts)), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tags = [f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")]
    single_tokens = [*tags, *coordinate_tokens(), *shared_lines(texts)]
    added = [AddedToken(text, normalized=False) for text in single_tokens]
    tokenizer.add_tokens(added)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(added)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(SPECIAL_TOKENS),
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
    )


def build_processor(texts: list[str]) -> Qwen2_5_VLProcessor:
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
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 6, 6],
            },
            "bos_token_id": None,
            "eos_token_id": ids(END),
            "pad_token_id": ids(PAD),
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
        image_token_id=ids(IMAGE),
        video_token_id=ids(VIDEO),
        vision_start_token_id=ids(VISION_START),
        vision_end_token_id=ids(VISION_END),
        tie_word_embeddings=True,
    )


def _coordinate_embeddings(count: int, generator: torch.Generator) -> torch.Tensor:
    """Return embeddings of the numbers 0..count-1 with similar neighbours, (count, WIDTH).

    They are random Fourier features at wavelengths from 8 pixels to the whole range, at the scale
    of the other embeddings.
    """
    half = WIDTH // 2
    wavelengths = torch.logspace(math.log10(8), math.log10(2 * count), half)
    phases = 2 * math.pi * torch.rand(half, generator=generator)
    angles = 2 * math.pi * torch.arange(count)[:, None] / wavelengths + phases
    return EMBEDDING_SCALE * torch.cat([angles.sin(), angles.cos()], dim=1) * math.sqrt(2)


def _initialise(model: Qwen2_5_VLForConditionalGeneration) -> None:
    """Initialise embeddings and linear layers for a narrow model.

    transformers uses a standard deviation of 0.02, which suits wide models: at this width, the
    attention would start almost uniform. Here layers keep the scale of their input, and those that
    add to the residual stream are smaller by sqrt(2 x layers) (Radford et al., Language Models are
    Unsupervised Multitask Learners, 2019). Text and image tokens enter at the same scale, so that
    the output of the first layer does not hide which word a token is.
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
    """Return a model with random weights whose vocabulary is exactly the tokenizer's.

    The rollout engine masks ids that the tokenizer lacks and the actor does not, so with a larger
    vocabulary their probabilities would differ.
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
