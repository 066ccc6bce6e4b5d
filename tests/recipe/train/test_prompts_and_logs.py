"""Prompt lengths without opening images, and the metrics file of a resumed run."""

import json
from pathlib import Path

import pytest
from PIL import Image

from phantom.tiny.model import build_processor
from recipe.data.datasets import prompt_length
from recipe.data.prompts import content_parts, prompt_text
from recipe.loggers import lines_up_to

TEXTS = ["Is the heart enlarged?\nAnswer <answer>Yes</answer> [12, 30, 44, 50]"] * 4


@pytest.mark.parametrize(
    ("content", "kinds"),
    [
        ("<image>\nWhat is seen?", ["image", "text"]),
        ("Look: <image> What is seen?", ["text", "image", "text"]),
        ("no picture", ["text"]),
    ],
)
def test_prompts_are_split_at_images(content: str, kinds: list[str]) -> None:
    assert [part["type"] for part in content_parts(content)] == kinds


@pytest.mark.parametrize("size", [(112, 112), (84, 112), (140, 56), (28, 28)])
def test_length_is_what_the_processor_makes(size: tuple[int, int]) -> None:
    processor = build_processor(TEXTS)
    processor.image_processor.size = {"shortest_edge": 28 * 28, "longest_edge": 10**6}
    row = {
        "prompt": [{"role": "user", "content": "<image>\nIs the heart enlarged?"}],
        "images": [{"image": "unopened.jpg"}],
        "reward_model": {"ground_truth": json.dumps({"image_size": list(size)})},
    }
    text = prompt_text(row["prompt"], processor)
    real = processor(text=[text], images=[Image.new("RGB", size)])["input_ids"][0]
    assert prompt_length(row, processor) == len(real)


def test_a_resumed_run_keeps_the_lines_up_to_its_step(tmp_path: Path) -> None:
    text = "".join(json.dumps({"step": step, "data": {}}) + "\n" for step in (1, 2, 3))
    cut_off = '{"step": 4, "da'
    kept = lines_up_to(text + cut_off, step=2)
    assert [json.loads(line)["step"] for line in kept.splitlines()] == [1, 2]
