"""Tiny twins of families of models, with about 2 million random weights, and their tokenizer.

A twin has the architecture, the processor and the coordinates of its family, and a chat template
that ends prompts like that of its family.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

from data_prep.coordinates import MODEL_FAMILIES
from recipe.algorithms.soft_targets import LARGEST_PIXEL

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
HEAD_WIDTH = WIDTH // HEADS
VISION_LAYERS = 3
LEARNED_PIECES = 1500
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
# In the manner of Qwen3-VL-Thinking and Qwen3.5: a prompt ends with <think>, closed at once if
# thinking is off; the reasoning of an answer is kept where it is the last message and a question
# came before it, and moved into a block of the template's own.
THINKING_TEMPLATE = (
    "{%- macro text(content) -%}{%- if content is string -%}{{ content }}{%- else -%}"
    "{%- for part in content -%}{%- if part.type == 'image' -%}"
    "<|vision_start|><|image_pad|><|vision_end|>{%- elif part.type == 'text' -%}"
    "{{ part.text }}{%- endif -%}{%- endfor -%}{%- endif -%}{%- endmacro -%}"
    "{%- for message in messages -%}{%- set content = text(message.content) -%}"
    "{{ '<|im_start|>' + message.role + '\n' }}{%- if message.role == 'assistant' -%}"
    "{%- set parts = content.split('</think>') -%}"
    "{%- if loop.last and not loop.first -%}"
    "{{ '<think>\n' + (parts[0].split('<think>')[-1].strip() if parts|length > 1 else '')"
    " + '\n</think>\n\n' }}{%- endif -%}{{ parts[-1].lstrip() }}"
    "{%- else -%}{{ content }}{%- endif -%}{{ '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and not enable_thinking -%}"
    "{{ '<think>\n\n</think>\n\n' }}{%- else -%}{{ '<think>\n' }}{%- endif -%}{%- endif -%}"
)


@dataclass(frozen=True)
class Twin:
    """What a family's twin has beside the sizes that all share."""

    classes: str  # of transformers: their names before "Config", "ForConditionalGeneration"
    processors: tuple[str, str]  # of the family, and of videos
    rope: Mapping[str, Any]
    text: Mapping[str, Any] = field(default_factory=dict)
    vision: Mapping[str, Any] = field(default_factory=dict)
    template: str = CHAT_TEMPLATE


_INTERLEAVED = {"mrope_interleaved": True}
# 8 x 8 position embeddings: as many as patches in a picture of 128 x 128 pixels
_VISION_3: dict[str, Any] = {"patch_size": 16, "num_position_embeddings": 64}
_QWEN3_VL: dict[str, Any] = {
    "processors": ("Qwen3VLProcessor", "Qwen3VLVideoProcessor"),
    "rope": {"mrope_section": [6, 5, 5], **_INTERLEAVED},
    "vision": {**_VISION_3, "deepstack_visual_indexes": [0, 1]},
}
TWINS = {
    "qwen2_5_vl": Twin(
        classes="Qwen2_5_VL",
        processors=("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor"),
        rope={"mrope_section": [4, 6, 6]},
        vision={"fullatt_block_indexes": list(range(VISION_LAYERS))},
    ),
    # vLLM 0.28 on a CPU reads the architecture of the text part, which published models lack.
    "qwen3_vl": Twin(
        classes="Qwen3VL",
        text={"head_dim": HEAD_WIDTH, "architectures": ["Qwen3ForCausalLM"]},
        **_QWEN3_VL,
    ),
    "qwen3_vl_moe": Twin(
        classes="Qwen3VLMoe",
        text={
            "head_dim": HEAD_WIDTH,
            "architectures": ["Qwen3MoeForCausalLM"],
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": WIDTH,
        },
        **_QWEN3_VL,
    ),
    "qwen3_5": Twin(
        classes="Qwen3_5",
        processors=("Qwen3VLProcessor", "Qwen3VLVideoProcessor"),
        # of the channels of a head, half have a position
        rope={"mrope_section": [3, 3, 2], "partial_rotary_factor": 0.5, **_INTERLEAVED},
        text={
            "head_dim": HEAD_WIDTH,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": HEADS,
            "linear_key_head_dim": HEAD_WIDTH,
            "linear_value_head_dim": HEAD_WIDTH,
        },
        vision=_VISION_3,
        template=THINKING_TEMPLATE,
    ),
}
"""By `model_type`."""


def coordinate_tokens(family: str) -> list[str]:
    """Return the numbers from 0 to the family's largest coordinate, which are one token each."""
    is_relative = MODEL_FAMILIES[family].coordinates == "norm1000"
    return [str(number) for number in range((1000 if is_relative else LARGEST_PIXEL) + 1)]


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


def train_tokenizer(
    texts: Sequence[str], vocabulary: int, family: str = "qwen2_5_vl"
) -> PreTrainedTokenizerFast:
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
    single_tokens = [*tags, *coordinate_tokens(family), *shared_lines(texts)]
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
        chat_template=TWINS[family].template,
        model_max_length=4096,
    )


def build_processor(texts: list[str], family: str = "qwen2_5_vl") -> ProcessorMixin:
    twin = TWINS[family]
    image_processor = transformers.Qwen2VLImageProcessor(**_patches(twin))
    name, videos = twin.processors
    return getattr(transformers, name)(
        image_processor=image_processor,
        tokenizer=train_tokenizer(texts, LEARNED_PIECES, family),
        video_processor=getattr(transformers, videos)(**_patches(twin)),
        chat_template=twin.template,
    )


def _patches(twin: Twin) -> dict[str, int]:
    return {"patch_size": twin.vision["patch_size"]} if "patch_size" in twin.vision else {}


def _config(tokenizer: PreTrainedTokenizerFast, twin: Twin) -> Any:
    ids = tokenizer.convert_tokens_to_ids
    return getattr(transformers, f"{twin.classes}Config")(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "intermediate_size": 3 * WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, **twin.rope},
            "bos_token_id": None,
            "eos_token_id": ids(END),
            "pad_token_id": ids(PAD),
            "tie_word_embeddings": True,
            **twin.text,
        },
        vision_config={
            "depth": VISION_LAYERS,
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_heads": HEADS,
            "out_hidden_size": WIDTH,
            **twin.vision,
        },
        image_token_id=ids(IMAGE),
        video_token_id=ids(VIDEO),
        vision_start_token_id=ids(VISION_START),
        vision_end_token_id=ids(VISION_END),
        tie_word_embeddings=True,
    )


def _coordinate_embeddings(count: int, generator: torch.Generator) -> torch.Tensor:
    """Return embeddings of the numbers 0..count-1 with similar neighbours, (count, WIDTH).

    They are random Fourier features at wavelengths from a 42nd of the range to twice the range, at
    the scale of the other embeddings.
    """
    half = WIDTH // 2
    wavelengths = torch.logspace(math.log10(8 * count / 337), math.log10(2 * count), half)
    phases = 2 * math.pi * torch.rand(half, generator=generator)
    angles = 2 * math.pi * torch.arange(count)[:, None] / wavelengths + phases
    return EMBEDDING_SCALE * torch.cat([angles.sin(), angles.cos()], dim=1) * math.sqrt(2)


# ends of the names of weights whose output is added to the residual stream, or is an image token
_ADDED = (
    *("o_proj.weight", "attn.proj.weight", "down_proj.weight"),
    *("mlp.linear_fc2.weight", "linear_attn.out_proj.weight"),
)
_IMAGE_TOKENS = ("merger.mlp.2.weight", "merger.linear_fc2.weight")


def _initialise(model: PreTrainedModel) -> None:
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
            if name.endswith(_ADDED):
                scale /= math.sqrt(2 * next(n for tower, n in blocks.items() if tower in name))
            elif name.endswith(_IMAGE_TOKENS):
                scale *= EMBEDDING_SCALE
            torch.nn.init.normal_(parameter, std=scale)


def build_model(
    tokenizer: PreTrainedTokenizerFast, seed: int, family: str = "qwen2_5_vl"
) -> PreTrainedModel:
    """Return a model with random weights whose vocabulary is exactly the tokenizer's.

    The rollout engine masks ids that the tokenizer lacks and the actor does not, so with a larger
    vocabulary their probabilities would differ.
    """
    torch.manual_seed(seed)
    twin = TWINS[family]
    model_class = getattr(transformers, f"{twin.classes}ForConditionalGeneration")
    model: PreTrainedModel = model_class(_config(tokenizer, twin))
    _initialise(model)
    ids = tokenizer.convert_tokens_to_ids(coordinate_tokens(family))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        embeddings[ids] = _coordinate_embeddings(len(ids), generator).to(embeddings.dtype)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.float()
