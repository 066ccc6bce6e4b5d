"""Chat templates that take part in a response, under real tokenizers and verl's own data sets."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from PIL import Image

from data_prep.program import InputError
from phantom.tiny.model import CHAT_TEMPLATE, THINKING_TEMPLATE, build_processor
from recipe.data.datasets import GroundedRLHFDataset, GroundedSFTDataset, prompt_length
from recipe.data.prompts import (
    check_chat_template,
    final_turn,
    prompt_text,
    response_prefix,
    template_faults,
)
from reward.response import parse_response, whole_response
from reward.settings import load_preset
from reward.thinkvg import compute_score

THOUGHT = "The left lung [12, 30, 44, 50] is clear."
REST = "<answer>No</answer>\n<location><ref>left lung</ref><box>[12, 30, 44, 50]</box></location>"
RESPONSE = f"<think>{THOUGHT}</think>\n{REST}"
QUESTION = "<image>\nIs the heart enlarged? Reason in <think></think>."

# What the twin of Qwen3.5 has: it opens <think>, or closes it at once if thinking is off.
SWITCHED = THINKING_TEMPLATE
_MESSAGES, _, _ = SWITCHED.partition("{%- if add_generation_prompt -%}")
_PROMPT = "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}BEGINNING{%- endif -%}"
HYBRID = _MESSAGES + _PROMPT.replace("BEGINNING", "")
THINKING = _MESSAGES + _PROMPT.replace("BEGINNING", "{{ '<think>\n' }}")
# An answer loses its reasoning wherever it stands.
FORGETFUL = CHAT_TEMPLATE.replace(
    "{{ part.text }}",
    "{{ part.text.split('</think>')[-1] if message.role != 'user' else part.text }}",
).replace("{{ '<|im_start|>assistant\n' }}", "{{ '<|im_start|>assistant\n<think>\n' }}")
OPEN, CLOSED = "<think>\n", "<think>\n\n</think>\n\n"
OFF = {"enable_thinking": False}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [QUESTION, RESPONSE] * 4


def processor_with(texts: list[str], template: str) -> Any:
    processor = build_processor(texts)
    processor.chat_template = template
    return processor


def asked() -> list[dict[str, Any]]:
    return [{"role": "user", "content": QUESTION}]


@pytest.mark.parametrize(
    ("template", "options", "expected"),
    [
        (CHAT_TEMPLATE, {}, ""),
        (HYBRID, {}, ""),
        (THINKING, {}, OPEN),
        (SWITCHED, {}, OPEN),
        (SWITCHED, {"enable_thinking": True}, OPEN),
        (SWITCHED, OFF, CLOSED),
        (FORGETFUL, {}, OPEN),
    ],
)
def test_what_a_prompt_holds_of_its_response(
    texts: list[str], template: str, options: dict[str, Any], expected: str
) -> None:
    prompt = prompt_text(asked(), processor_with(texts, template), **options)
    assert response_prefix(prompt) == expected
    assert prompt.endswith(f"assistant\n{expected}")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Reason in <think></think>. Go on.", ""),  # an instruction is no beginning
        ("assistant\n<think>", "<think>"),
        ("assistant\n<think> \n", "<think> \n"),
        ("assistant\n<think>Let me see", ""),
        ("assistant\n<THINK>\n", ""),
        ("assistant\n<thinking>\n", ""),
        ("assistant\n", ""),
    ],
)
def test_a_beginning_stands_at_the_end(prompt: str, expected: str) -> None:
    assert response_prefix(prompt) == expected


@pytest.mark.parametrize(
    ("template", "options", "program", "reasoning", "fault"),
    [
        (CHAT_TEMPLATE, {}, "sft", True, ""),
        (HYBRID, {}, "sft", True, ""),
        (THINKING, {}, "sft", True, ""),
        (THINKING, {}, "train", True, ""),
        (THINKING, {}, "sft", False, ""),
        (SWITCHED, {}, "sft", True, ""),
        (SWITCHED, OFF, "sft", True, "closes <think> in the prompt"),
        (SWITCHED, OFF, "train", True, "closes <think> in the prompt"),
        (SWITCHED, OFF, "sft", False, ""),
        (SWITCHED, OFF, "train", False, ""),
        (FORGETFUL, {}, "train", True, ""),  # it answers as others do, only SFT would forget
        (FORGETFUL, {}, "sft", True, "does not begin responses with that"),
        (FORGETFUL.replace("assistant\n<think>\n", "assistant\n"), {}, "sft", True, "changes"),
    ],
)
def test_a_template_at_fault_is_told_before_a_run(
    texts: list[str],
    template: str,
    options: dict[str, Any],
    program: str,
    reasoning: bool,
    fault: str,
) -> None:
    found = template_faults(processor_with(texts, template), options, program, reasoning)
    assert len(found) == bool(fault)
    assert all(fault in line and "set " in line for line in found)


@pytest.mark.parametrize("where", ["folder", "setting"])
def test_the_check_reads_a_model_folder(texts: list[str], tmp_path: Path, where: str) -> None:
    own, custom = (SWITCHED, None) if where == "folder" else (CHAT_TEMPLATE, SWITCHED)
    processor_with(texts, own).save_pretrained(tmp_path)
    model = {"path": str(tmp_path), "custom_chat_template": custom}
    data = {"apply_chat_template_kwargs": dict(OFF), "reasoning": True}
    config = OmegaConf.create({"model": model, "actor_rollout_ref": {"model": model}, "data": data})
    for program in ("sft", "train"):
        with pytest.raises(InputError, match=r"model\.path=.*: the chat template closes <think>"):
            check_chat_template(config, program)
    config.data.apply_chat_template_kwargs = {}
    check_chat_template(config, "sft")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A rollout and an SFT file of two rows, as data_prep writes them."""
    Image.new("RGB", (112, 112), "grey").save(tmp_path / "a.png")
    image = {"image": str(tmp_path / "a.png"), "min_pixels": 3136, "max_pixels": 12544}
    region = {"ref": "left lung", "box": [12, 30, 44, 50]}
    truth = {
        "question_type": "closed",
        "answer": "No",
        "choices": None,
        "regions": [region],
        "think_regions": [region],
        "image_size": [112, 112],
        "coordinates": "absolute",
    }
    made = {}
    turn = {"role": "assistant", "content": RESPONSE}
    for name, row in {
        "train": {
            "data_source": "thinkvg",
            "prompt": asked(),
            "ability": "grounded_vqa",
            "reward_model": {"style": "rule", "ground_truth": json.dumps(truth)},
        },
        "sft_train": {"messages": [*asked(), turn]},
    }.items():
        rows = [row | {"images": [image], "extra_info": {"index": k}} for k in range(2)]
        made[name] = tmp_path / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), made[name])
    return made


def rollouts(file: Path, processor: Any, options: dict[str, Any]) -> Any:
    settings = {
        "cache_dir": str(file.parent / "cache"),
        "overlong_dir": str(file.parent / "overlong"),
        "max_prompt_length": 512,
        "filter_overlong_prompts": True,
        "return_raw_chat": True,
        "apply_chat_template_kwargs": options,
    }
    config = OmegaConf.create(settings)
    return GroundedRLHFDataset(str(file), processor.tokenizer, config, processor=processor)


@pytest.mark.parametrize(
    ("template", "options", "prefix", "generated", "format"),
    [
        (CHAT_TEMPLATE, {}, "", RESPONSE, 1),
        (CHAT_TEMPLATE, {}, "", f"{THOUGHT}</think>{REST}", 0),
        (HYBRID, {}, "", RESPONSE, 1),
        (THINKING, {}, OPEN, f"{THOUGHT}\n</think>\n\n{REST}", 1),
        (THINKING, {}, OPEN, RESPONSE, 0),
        (SWITCHED, {}, OPEN, f"{THOUGHT}\n</think>\n\n{REST}", 1),
        (SWITCHED, OFF, CLOSED, REST, 0),
    ],
)
def test_verls_rows_tell_the_reward(
    texts: list[str],
    files: dict[str, Path],
    template: str,
    options: dict[str, Any],
    prefix: str,
    generated: str,
    format: int,
) -> None:
    processor = processor_with(texts, template)
    dataset = rollouts(files["train"], processor, options)
    for number, row in enumerate(dataset):
        assert row["extra_info"] == {"index": number, "response_prefix": prefix}
        scores = compute_score(
            row["data_source"],
            generated,
            row["reward_model"]["ground_truth"],
            row["extra_info"],
            **load_preset("dense"),
        )
        assert scores["format"] == format
        assert scores["answer"] == 1 or whole_response(generated, row["extra_info"]) != generated


def test_prompts_are_measured_with_the_variables_of_the_template(
    texts: list[str], files: dict[str, Path]
) -> None:
    processor = processor_with(texts, SWITCHED)
    row = pq.read_table(files["train"]).to_pylist()[0]
    image = Image.open(row["images"][0]["image"])
    for options in ({}, OFF):
        text = prompt_text(row["prompt"], processor, **options)
        real = processor(text=[text], images=[image])["input_ids"][0]
        assert prompt_length(row, processor, **options) == len(real)


@pytest.mark.parametrize(
    ("template", "options", "reasoning", "given", "written"),
    [
        (CHAT_TEMPLATE, {}, True, "", RESPONSE),
        (HYBRID, {}, True, "", f"<think>\n{THOUGHT}\n</think>\n\n{REST}"),
        (THINKING, {}, True, OPEN, f"{THOUGHT}\n</think>\n\n{REST}"),
        (SWITCHED, {}, True, OPEN, f"{THOUGHT}\n</think>\n\n{REST}"),
        (CHAT_TEMPLATE, {}, False, "", REST),
        (THINKING, {}, False, OPEN, f"\n</think>\n\n{REST}"),
        (SWITCHED, OFF, False, CLOSED, REST),
    ],
)
def test_sft_teaches_what_follows_the_prompt_of_generation(
    texts: list[str],
    files: dict[str, Path],
    template: str,
    options: dict[str, Any],
    reasoning: bool,
    given: str,
    written: str,
) -> None:
    processor = processor_with(texts, template)
    settings = {
        "max_length": 512,
        "truncation": "error",
        "pad_mode": "no_padding",
        "reasoning": reasoning,
        "apply_chat_template_kwargs": options,
    }
    file = files["sft_train"]
    if not reasoning:
        ask = "<image>\nIs it clear? Reason in <think></think>, and so on. Then answer."
        turns = [{"role": "user", "content": ask}, {"role": "assistant", "content": RESPONSE}]
        rows = [row | {"messages": turns} for row in pq.read_table(file).to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows), file)
    dataset = GroundedSFTDataset(
        str(file), processor.tokenizer, OmegaConf.create(settings), processor=processor
    )
    for row in dataset:  # verl compares each with the template's text of the whole conversation
        learned = row["loss_mask"].bool()
        decode = processor.tokenizer.decode
        assert decode(row["input_ids"][learned]) == f"{written}<|im_end|>\n"
        assert decode(row["input_ids"][~learned]).endswith(f"<|im_start|>assistant\n{given}")
        whole = parse_response(given + written)
        assert whole.well_formed == reasoning
        assert whole.answer == "No"
        assert "pixel_values" in row["multi_modal_inputs"]


def test_a_turn_that_does_not_follow_its_prompt_is_refused(texts: list[str]) -> None:
    messages = [*asked(), {"role": "assistant", "content": RESPONSE}]
    with pytest.raises(ValueError, match="does not begin responses"):
        final_turn(messages, processor_with(texts, FORGETFUL))
