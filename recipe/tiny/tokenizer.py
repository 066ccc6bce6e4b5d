"""A byte-level BPE tokenizer learned from a rollout set, with one token for each coordinate.

Sequences are kept short, since time on a CPU goes with their length: pieces may span several words
("shows an opacity"), and a line that many prompts share (the instruction) is one token. A region's
name is a piece of its own wherever it stands, so that a region has one token and not one for each
phrase that it is part of.

Coordinates, tags and shared lines are plain added tokens, not special ones: rollouts are decoded
with special tokens skipped, and boxes and tags must survive that.
"""

import re
from collections import Counter
from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from recipe.soft_targets import LARGEST_COORDINATE

TAGS = ("think", "answer", "location", "ref", "box")
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
SPECIAL_TOKENS = (PAD, START, END, VISION_START, VISION_END, IMAGE, VIDEO)

# Words take the space before them, and lower-case words in a row make one piece that the merges
# work in. A comma takes the space behind it: a box is "[", x1, ", ", y1, ", ", x2, ", ", y2, "]".
_PIECES = r", |(?:(?!{names}) ?\p{{Ll}}+)+| ?\p{{L}}+|\n+| ?[^\s\p{{L}}\p{{N}}]|\p{{N}}| +"
_REFS = re.compile(r"<ref>([^<]*)</ref>")
SHARED_LINE = 0.02  # of the texts hold a line that becomes one token

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
    """The numbers that are one token each, in order."""
    return [str(number) for number in range(LARGEST_COORDINATE + 1)]


def shared_lines(texts: Sequence[str]) -> list[str]:
    """Lines of more than one word that more than `SHARED_LINE` of the texts hold, sorted."""
    counts = Counter(line for text in texts for line in set(text.split("\n")) if "</" in line)
    least = SHARED_LINE * len(texts)
    return sorted(line for line, count in counts.items() if count > least and len(line) > 80)


def region_names(texts: Sequence[str]) -> list[str]:
    """Names in the ``<ref>`` tags of the texts, the longer ones first."""
    listed = {name for text in texts for refs in _REFS.findall(text) for name in _split(refs)}
    return sorted(listed - {""}, key=lambda name: (-len(name), name))


def _split(refs: str) -> list[str]:
    return [name.strip() for name in re.split("[,;]", refs)]


def _pieces(names: Sequence[str]) -> Regex:
    """What the merges stay within; a name, with the space before it, is one piece."""
    if not names:
        return Regex(_PIECES.format(names=r"\0"))
    one = rf" ?(?:{'|'.join(map(re.escape, names))})\b"
    return Regex(f"{one}|{_PIECES.format(names=one)}")


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Learn a tokenizer from `texts`.

    Args:
        texts: prompts and responses.
        vocabulary: upper bound of the number of learned pieces, added tokens not counted.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_pieces(region_names(texts)), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tags = [f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")]
    whole = [*tags, *coordinate_tokens(), *shared_lines(texts)]
    plain = [AddedToken(text, normalized=False) for text in whole]
    tokenizer.add_tokens(plain)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(plain)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(SPECIAL_TOKENS),
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
    )
