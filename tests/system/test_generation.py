"""Text of the evaluation's engine, which is to be that of verl's rollout to the last byte."""

from pathlib import Path
from typing import Any

import pytest

from phantom.tiny.model import CHAT_TEMPLATE

BEGINNING = "<think>\n"


def save_stuttering_model(start: Path, folder: Path) -> None:
    """Save a model that says nothing but the first byte of ``é``, which has two.

    The embeddings are the head as well. Their first entry stays in the residual stream, so every
    hidden state has it, and the head weighs it the most for this token. The template writes
    `BEGINNING` into the prompt, as those of thinking models do.
    """
    import torch
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(start)
    processor = AutoProcessor.from_pretrained(start)
    first, _ = processor.tokenizer("é", add_special_tokens=False)["input_ids"]
    embeddings = model.get_input_embeddings().weight
    with torch.no_grad():
        embeddings[:, 0] = 3
        embeddings[first, 0] = 30
    assistant = "<|im_start|>assistant\n"
    processor.chat_template = CHAT_TEMPLATE.replace(assistant, assistant + BEGINNING)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


@pytest.fixture(scope="module")
def stuttering(tmp_path_factory: pytest.TempPathFactory, workspace: Path) -> Path:
    """Folder of `save_stuttering_model`'s model."""
    folder = tmp_path_factory.mktemp("stuttering")
    save_stuttering_model(workspace / "model", folder)
    return folder


@pytest.mark.parametrize("library", ["vllm", "transformers"])
def test_halves_of_characters_at_the_end_are_text(
    stuttering: Path, greedy_answers: Any, library: str
) -> None:
    answers = greedy_answers(library, stuttering, limit=24)
    assert {text for texts in answers.values() for text in texts} == {BEGINNING + "\ufffd" * 24}
