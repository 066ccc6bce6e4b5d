"""The prompt of a question, from template files, and lengths in tokens."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.program import InputError
from reward.ground_truth import QUESTION_TYPES, Coordinates

PROMPT_FOLDER = Path(__file__).resolve().parents[2] / "configs" / "prompts"
UNITS: dict[Coordinates, str] = {"absolute": "in pixels", "norm1000": "from 0 to 1000"}
IMAGE = "<image>"
_FIELDS = ("{question}", "{units}", IMAGE)


@dataclass(frozen=True)
class PromptTemplates:
    """Templates by question type, each with `{question}`, `{units}` and `<image>` once."""

    name: str
    texts: Mapping[str, str]

    @property
    def version(self) -> str:
        """The name with a hash of all texts that the model reads."""
        words = "\n".join([*(self.texts[kind] for kind in QUESTION_TYPES), *UNITS.values()])
        return f"{self.name}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"

    def render(self, question: str, question_type: str, coordinates: Coordinates) -> str:
        text = self.texts[question_type].replace("{units}", UNITS[coordinates])
        # The question comes last, since it may hold "{units}".
        return text.replace("{question}", question)


def load_templates(name: str = "thinkvg", folder: Path = PROMPT_FOLDER) -> PromptTemplates:
    """Read `NAME/TYPE.txt` of each type; raise InputError if a file or a field is missing."""
    if not (folder / name).is_dir():
        known = ", ".join(sorted(path.name for path in folder.glob("*") if path.is_dir())) or "none"
        raise InputError(f"--prompts {name}: no folder {folder / name}; known are {known}")
    return PromptTemplates(name, {kind: _read(folder / name, kind) for kind in QUESTION_TYPES})


def _read(folder: Path, kind: str) -> str:
    path = folder / f"{kind}.txt"
    if not path.is_file():
        raise InputError(f"prompt template {path} is missing: there is one for each question type")
    text = path.read_text(encoding="utf-8").strip()
    for field in _FIELDS:
        if text.count(field) != 1:
            raise InputError(f"prompt template {path} must hold {field} once")
    return text


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer in a Hugging Face folder; raise InputError if it holds none."""
    if not folder.is_dir():
        raise InputError(f"--tokenizer {folder} is not a folder")
    # Slow to import, and needed for this option only.
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        first_line = str(error).splitlines()[0]
        raise InputError(f"--tokenizer {folder} holds no tokenizer: {first_line}") from None


class Lengths:
    """Counts tokens as training does: a prompt with its chat template and its image.

    An image has one token for each `factor` x `factor` pixels at the size that the model sees.
    Without a chat template, only the texts and images are counted.
    """

    def __init__(self, tokenizer: Any, factor: int) -> None:
        self._tokenizer = tokenizer
        self._pixels_of_token = factor**2

    def prompts(self, prompts: Sequence[str], sizes: Sequence[Sequence[int]]) -> list[int]:
        """Return the number of tokens of each prompt; `sizes` are (width, height) of its image."""
        if self._tokenizer.chat_template:
            texts, placeholders = [self._templated(prompt) for prompt in prompts], 1
        else:
            texts, placeholders = [prompt.replace(IMAGE, "") for prompt in prompts], 0
        lengths = token_lengths(self._tokenizer, texts)
        return [
            length - placeholders + width * height // self._pixels_of_token
            for length, (width, height) in zip(lengths, sizes, strict=True)
        ]

    def responses(self, responses: Sequence[str | None]) -> list[int | None]:
        """Return the number of tokens of each response, without the end token; None for none."""
        lengths = iter(token_lengths(self._tokenizer, [text for text in responses if text]))
        return [next(lengths) if text else None for text in responses]

    def _templated(self, prompt: str) -> str:
        before, _, after = prompt.partition(IMAGE)
        content = [{"type": "text", "text": before}] if before else []
        content += [{"type": "image"}, {"type": "text", "text": after}]
        messages = [{"role": "user", "content": content}]
        return str(
            self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        )


def token_lengths(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Return the number of tokens of each text, without special tokens around it."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [len(ids) for ids in encoded]
