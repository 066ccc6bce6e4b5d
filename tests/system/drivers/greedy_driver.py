"""Answers the validation split greedily with an exported model.

Run as a script: vllm|transformers MODEL_FOLDER DATA_FOLDER OUTPUT.json TOKENS, at most so many of
them an answer. Writes ground truth -> texts.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any


def with_vllm(model: str, data: str, prompts: list[Any], limit: int) -> list[str]:
    from recipe.evaluate.generation import LocalModel
    from recipe.program import compose_config

    overrides = ["cluster=cpu", "model=tiny", f"model.path={model}", f"data.dir={data}"]
    overrides += ["data.max_prompt_length=256", f"data.max_response_length={limit}"]
    answers: list[str] = []
    LocalModel(compose_config("evaluate", overrides)).answer(
        prompts,
        temperature=0.0,
        samples=1,
        keep=lambda _, responses: answers.append(responses[0].text),
    )
    return answers


def with_transformers(model: str, prompts: list[Any], limit: int) -> list[str]:
    """One by one, so that no padding is in the way."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from recipe.data.prompts import prompt_text, response_prefix
    from recipe.evaluate.generation import load_image

    processor = AutoProcessor.from_pretrained(model)
    loaded = AutoModelForImageTextToText.from_pretrained(model, dtype="float32").eval()
    answers = []
    for prompt in prompts:
        image = load_image(prompt, processor.image_processor.patch_size)
        text = prompt_text(prompt.messages, processor)
        inputs = processor(text=[text], images=[image], return_tensors="pt")
        tokens = loaded.generate(**inputs, do_sample=False, max_new_tokens=limit)
        new = tokens[0, inputs["input_ids"].shape[1] :]
        decoded = processor.tokenizer.decode(new, skip_special_tokens=True)
        answers.append(response_prefix(text) + decoded)
    return answers


def main(library: str, model: str, data: str, out: str, limit: int) -> None:
    """Answer and write."""
    from recipe import program
    from recipe.evaluate.generation import read_prompts
    from recipe.program import compose_config

    program.set_environment(compose_config("evaluate", ["cluster=cpu", "data.dir=D"]))
    prompts = read_prompts(Path(data) / "val.parquet")
    if library == "vllm":
        answers = with_vllm(model, data, prompts, limit)
    else:
        answers = with_transformers(model, prompts, limit)
    found = defaultdict(list)
    for prompt, text in zip(prompts, answers, strict=True):
        found[prompt.ground_truth].append(text)
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:5], limit=int(sys.argv[5]))
