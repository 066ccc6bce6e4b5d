"""Text of the evaluation's engine, which is to be that of verl's rollout to the last byte."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

GREEDY = Path(__file__).with_name("greedy_driver.py")
RESPONSE_LENGTH = 24  # of the driver


def save_stuttering_model(start: Path, folder: Path) -> None:
    """Save a model that says nothing but the first byte of ``é``, which has two.

    The embeddings are the head as well. Their first entry stays in the residual stream, so every
    hidden state has it, and the head weighs it the most for this token.
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
    stuttering: Path, workspace: Path, tmp_path: Path, library: str
) -> None:
    answers = tmp_path / "answers.json"
    arguments: list[Any] = [GREEDY, library, stuttering, workspace / "data", answers]
    finished = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ,
    )
    assert finished.returncode == 0, (finished.stdout + finished.stderr)[-8000:]
    texts = {text for found in json.loads(answers.read_text()).values() for text in found}
    assert texts == {"\ufffd" * RESPONSE_LENGTH}
