"""Grounded reports: the text that the tiny model is pre-trained on.

A report names all findings of a picture, then cites the box of each region that was asked for and
says what is seen there. It has the form of the reasoning in the phantom's rows, and more boxes. In
half of the reports the regions come as lettered choices, and the letter is to be given back.
"""

import random
import string
from dataclasses import dataclass
from typing import Any

import torch

from recipe.soft_targets import (
    LARGEST_COORDINATE,
    coordinate_ids,
    soft_log_probs,
    soft_targets,
)
from recipe.tiny.pictures import Picture
from recipe.tiny.tokenizer import IMAGE

REGIONS = 4  # of a report
ABNORMAL = 2  # of them, where there are so many
LETTERED = 0.5  # of the reports
SMOOTHING = 2.0  # standard deviation of the soft coordinate targets, pixels


@dataclass(frozen=True)
class Report:
    """A question and its answer."""

    question: str
    text: str


def write_report(picture: Picture, size: tuple[int, int], draw: random.Random) -> Report:
    """A report about some regions of a picture.

    Args:
        picture: with `seen`.
        size: width and height in pixels that boxes are written in.
        draw: picks the regions and their order.
    """
    seen = picture.seen or {}
    findings = sorted({region for _, region in picture.findings} & seen.keys())
    chosen = draw.sample(findings, min(ABNORMAL, len(findings)))
    others = sorted(seen.keys() - set(chosen))
    chosen += draw.sample(others, min(REGIONS - len(chosen), len(others)))
    draw.shuffle(chosen)
    question, letter_of = f"Describe the {', the '.join(chosen)}.", {}
    if draw.random() < LETTERED:
        letter_of = dict(
            zip(draw.sample(chosen, len(chosen)), string.ascii_uppercase, strict=False)
        )
        choices = ", ".join(f"{letter}: {name}" for name, letter in letter_of.items())
        question = f"Describe these regions. <choices>: [{choices}]"
    sentences = [picture.impression]
    for name in chosen:
        choice = f" (choice {letter_of[name]})" if letter_of else ""
        sentences.append(f"The {name} {_box(picture, name, size)} {seen[name]}{choice}.")
    return Report(question, f"<think>{' '.join(sentences)}</think>")


def _box(picture: Picture, name: str, size: tuple[int, int]) -> str:
    edges = zip(picture.regions[name], (*size, *size), strict=True)
    return str([round(share * side) for share, side in edges])


class ReportLoss:
    """Cross-entropy of reports, with soft coordinate targets; prompts are not trained on."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        ids = coordinate_ids(processor.tokenizer, LARGEST_COORDINATE)
        self.coordinates = torch.tensor(ids)
        self.targets = soft_targets(len(ids), SMOOTHING)

    def __call__(
        self, features: torch.Tensor, grids: torch.Tensor, reports: list[Report]
    ) -> torch.Tensor:
        """Mean over the tokens of the reports.

        Args:
            features: image tokens, (images, tokens, width).
            grids: patches of each image, (images, 3).
            reports: one for each image.
        """
        ids, mask, trained = self._encode(reports, features.shape[1])
        core = self.model.model
        is_image = ids == self.model.config.image_token_id
        embedded = core.get_input_embeddings()(ids)
        embedded = embedded.masked_scatter(is_image[..., None], features.flatten(0, 1))
        positions, _ = core.get_rope_index(
            input_ids=ids,
            mm_token_type_ids=is_image.int(),
            image_grid_thw=grids,
            attention_mask=mask,
        )
        hidden = core.language_model(
            inputs_embeds=embedded, attention_mask=mask, position_ids=positions
        ).last_hidden_state
        predicts = trained[:, 1:]
        logits = self.model.lm_head(hidden[:, :-1][predicts])
        return -soft_log_probs(logits, ids[:, 1:][predicts], self.coordinates, self.targets).mean()

    def _encode(
        self, reports: list[Report], image_tokens: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids, attention mask and which tokens are trained on, each (reports, length)."""
        tokenizer = self.processor.tokenizer
        prompts, answers = [], []
        for report in reports:
            content = [{"type": "image"}, {"type": "text", "text": f"\n{report.question}"}]
            prompt = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
            prompts.append(tokenizer(prompt.replace(IMAGE, IMAGE * image_tokens))["input_ids"])
            answers.append(tokenizer(report.text)["input_ids"])
        length = max(len(a) + len(b) for a, b in zip(prompts, answers, strict=True))
        ids = torch.full((len(reports), length), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        trained = torch.zeros_like(ids, dtype=torch.bool)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            end = len(prompt) + len(answer)
            ids[row, :end] = torch.tensor(prompt + answer)
            mask[row, :end] = 1
            trained[row, len(prompt) : end] = True
        return ids, mask, trained
