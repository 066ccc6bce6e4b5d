"""How far the GRPO gradients of independent batches agree, for each part of a model.

    python -m benchmarks.gradient_agreement MODEL_FOLDER DATA_FOLDER [--batches 6] …

Draws batches of rollouts, computes the policy gradient of each without changing the model, and
prints the mean cosine between the gradients of two batches, with its standard error over pairs.
With cosine c, about 1 / c batches must be averaged until the direction is as much signal as noise,
so the cosine shows which parameters a run of a certain size can train. Generation and gradient are
plain transformers code on the CPU, so this also checks verl's, with which it shares no code.
"""

import argparse
import itertools
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from recipe.data.prompts import prompt_text
from recipe.evaluate.generation import Prompt, read_prompts
from reward.settings import load_preset
from reward.thinkvg import compute_score

PRESET = "dense"
LONGEST = 176  # tokens of a response
PROMPTS_PER_PASS = 4


def part_of(name: str) -> str:
    """Return the row of the table to which a parameter belongs."""
    if "visual" in name:
        return "vision tower"
    if "embed_tokens" in name or "lm_head" in name:
        return "embeddings"
    if re.search(r"language_model\.norm", name):
        return "final norm"
    return "norms and biases" if "norm" in name or name.endswith("bias") else "language layers"


def encode(processor: Any, prompts: list[Prompt], copies: int) -> Any:
    """Return left-padded inputs with `copies` of each prompt."""
    repeated = [prompt for prompt in prompts for _ in range(copies)]
    bounds = {key: prompts[0].images[0][key] for key in ("min_pixels", "max_pixels")}
    return processor(
        text=[prompt_text(prompt.messages, processor) for prompt in repeated],
        images=[Image.open(prompt.images[0]["image"]).convert("RGB") for prompt in repeated],
        padding=True,
        padding_side="left",
        return_tensors="pt",
        **bounds,
    )


def advantages(texts: list[str], prompts: list[Prompt], copies: int) -> torch.Tensor:
    """Return GRPO's advantages: (reward - group mean) / group standard deviation; (rollouts,)."""
    settings = load_preset(PRESET)
    rewards = torch.tensor(
        [
            compute_score("", text, prompts[i // copies].ground_truth, {}, **settings)["score"]
            for i, text in enumerate(texts)
        ]
    ).view(len(prompts), copies)
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return (centred / (rewards.std(dim=1, keepdim=True) + 1e-6)).flatten()


def add_gradient(model: Any, processor: Any, prompts: list[Prompt], copies: int) -> None:
    """Add the gradient of sum(advantage x log-probability) over these prompts' rollouts."""
    inputs = encode(processor, prompts, copies)
    start = inputs["input_ids"].shape[1]
    tokenizer = processor.tokenizer
    with torch.no_grad():
        sequences = model.generate(
            **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=LONGEST
        )
    answers = sequences[:, start:]
    # The first end counts, and nothing after it.
    mask = (answers == tokenizer.eos_token_id).cumsum(dim=1) <= 1
    if tokenizer.pad_token_id != tokenizer.eos_token_id:
        mask &= answers != tokenizer.pad_token_id
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    weights = advantages(texts, prompts, copies)[:, None] * mask
    inputs |= {
        "input_ids": sequences,
        "attention_mask": torch.cat([inputs["attention_mask"], mask.long()], dim=1),
        "mm_token_type_ids": torch.nn.functional.pad(
            inputs["mm_token_type_ids"], (0, answers.shape[1])
        ),
    }
    logits = model(**inputs).logits[:, start - 1 : -1]
    log_probs = torch.log_softmax(logits, dim=-1).gather(2, answers[..., None])[..., 0]
    (log_probs * weights).sum().backward()


def gradient(
    model: Any, processor: Any, prompts: list[Prompt], copies: int
) -> dict[str, torch.Tensor]:
    """Return the gradient of one batch, flattened for each part of the model."""
    model.zero_grad()
    for first in range(0, len(prompts), PROMPTS_PER_PASS):
        add_gradient(model, processor, prompts[first : first + PROMPTS_PER_PASS], copies)
    parts: dict[str, list[torch.Tensor]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            parts[part_of(name)].append(parameter.grad.flatten().clone())
    return {part: torch.cat(values) for part, values in parts.items()}


def main() -> None:
    """Print the agreement for each part of the model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=Path, help="Hugging Face folder of a Qwen2.5-VL")
    parser.add_argument("data", type=Path, help="folder with train.parquet")
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--prompts", type=int, default=16, help="of a batch")
    parser.add_argument("--rollouts", type=int, default=8, help="of a prompt")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    processor = AutoProcessor.from_pretrained(options.model)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        options.model, dtype=torch.float32, attn_implementation="sdpa"
    )
    rows = read_prompts(options.data / "train.parquet")
    order = np.random.default_rng(options.seed).permutation(len(rows))
    gradients = []
    for batch in tqdm(range(options.batches), unit="batch"):
        indices = order[batch * options.prompts : (batch + 1) * options.prompts]
        prompts = [rows[index] for index in indices]
        gradients.append(gradient(model, processor, prompts, options.rollouts))
    for part in gradients[0]:
        cosines = [
            float(torch.nn.functional.cosine_similarity(first[part], second[part], dim=0))
            for first, second in itertools.combinations(gradients, 2)
        ]
        error = np.std(cosines) / np.sqrt(len(cosines))
        numbers = gradients[0][part].numel()
        print(f"{part:18s} {numbers:8d} numbers  cosine {np.mean(cosines):+.3f} ± {error:.3f}")


if __name__ == "__main__":
    main()
