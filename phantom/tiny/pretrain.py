"""Pre-training of the tiny model: the letters of choices, then pictures and reports about them.

A tiny model with random weights cannot learn to see, to name what it sees, and to find the letter
of what it has named, from a few thousand answers. First the language model practises with letters,
without pictures; then the image tokens learn what they show while the whole model learns to report
it. The questions of the rows come later, in the supervised cold start.

The questions and reports here are made from pictures with known content. They have the parts that
answers of the data set are made of: what regions look like, with boxes, and the letters of choices.
"""

import math
import random
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from data_prep.coordinates import MODEL_FAMILIES, Size, smart_resize
from data_prep.pictures import to_rgb8
from data_prep.program import InputError
from phantom.tiny.model import IMAGE
from recipe import console
from recipe.algorithms.soft_targets import coordinate_ids, soft_log_probs, soft_targets
from reward.boxes_in_text import Box

COLUMNS = ("image_path", "impression", "findings", "regions")
"""Columns of `pictures.parquet`, which `phantom.draw` writes."""
REGIONS = 4  # regions in a report, and choices of a question
ABNORMAL = 2  # of the regions in a report, drawn first among those with a finding
FORM_SHARES = {"regions": 0.25, "letters": 0.25, "selection": 0.5}


@dataclass(frozen=True)
class Picture:
    """A picture and its content."""

    image: dict[str, Any]  # of the rollout row: its path and the bounds of its size in pixels
    findings: tuple[tuple[str, str], ...]  # (name, region) of each finding
    regions: dict[str, Box]  # box of each named region, as fractions of width and height
    impression: str = ""  # a sentence with all findings
    seen: dict[str, str] | None = None  # verb phrase about each region that may be described


def training_pictures(truth: Path, rollouts: Path) -> list[Picture]:
    """Return the pictures that are in ``pictures.parquet`` and the rollout rows, by path."""
    images = {
        row["extra_info"]["image_path"]: row["images"][0]
        for row in pq.read_table(rollouts, columns=["images", "extra_info"]).to_pylist()
    }
    known = {row["image_path"]: row for row in pq.read_table(truth).to_pylist()}
    return [_picture(images[path], known[path]) for path in sorted(images.keys() & known.keys())]


def _picture(image: dict[str, Any], row: dict[str, Any]) -> Picture:
    return Picture(
        image=image,
        findings=tuple((finding["name"], finding["region"]) for finding in row["findings"]),
        regions={region["name"]: tuple(region["box"]) for region in row["regions"]},
        impression=row["impression"],
        seen={region["name"]: region["seen"] for region in row["regions"] if region["seen"]},
    )


@dataclass(frozen=True)
class Report:
    """A question and its answer."""

    question: str  # text of the user's turn
    text: str  # the answer, which the model learns to write
    beginning: str = ""  # what comes before it in the assistant's turn, and is not learned


class Reporter:
    """Draws questions about pictures, and writes their reports."""

    def __init__(self, pictures: Sequence[Picture], draw: random.Random) -> None:
        self.draw = draw
        self.findings = sorted({pair for picture in pictures for pair in picture.findings})

    def report(self, picture: Picture, size: Size) -> Report:
        """Return a report about a picture that is shown, with boxes in the space `size`."""
        question, sentences = self._ask(picture, size)
        return Report(question, f"<think>{' '.join([picture.impression, *sentences])}</think>")

    def reading(self, picture: Picture) -> Report:
        """Return practice with letters: the findings are written, and no picture is shown."""
        question, sentences = self._ask(picture, None)
        beginning = f"<think>{picture.impression}"
        return Report(question, f" {' '.join(sentences)}</think>", beginning)

    def _ask(self, picture: Picture, size: Size | None) -> tuple[str, list[str]]:
        """Return a question and the sentences of its report, without boxes if `size` is None."""
        (form,) = self.draw.choices(list(FORM_SHARES), list(FORM_SHARES.values()))
        if form == "selection" and len(picture.findings) > 0:
            return self._select(picture, size)
        regions = self._regions(picture)
        if form == "regions":
            question = f"Describe the {', the '.join(regions)}."
            return question, [_sentence(picture, name, size) for name in regions]
        letters, choices = self._choices(regions)
        question = f"Describe these regions. {choices}"
        return question, [_sentence(picture, name, size, letters[name]) for name in regions]

    def _regions(self, picture: Picture) -> list[str]:
        """Draw regions to describe, in random order, those with a finding first."""
        seen = picture.seen or {}
        abnormal = sorted({region for _, region in picture.findings} & seen.keys())
        regions = self.draw.sample(abnormal, min(ABNORMAL, len(abnormal)))
        remaining = sorted(seen.keys() - set(regions))
        regions += self.draw.sample(remaining, min(REGIONS - len(regions), len(remaining)))
        return self.draw.sample(regions, len(regions))

    def _select(self, picture: Picture, size: Size | None) -> tuple[str, list[str]]:
        """Offer findings or their regions, some of which the picture has; report on those."""
        findings = list(picture.findings)
        abnormal = {region for _, region in findings}
        present = self.draw.sample(findings, self.draw.randint(1, min(len(findings), REGIONS)))
        by_region = self.draw.random() < 0.5
        others = [
            pair
            for pair in self.findings
            if pair not in findings and not (by_region and pair[1] in abnormal)
        ]
        if by_region:
            others = list({region: (name, region) for name, region in others}.values())
        wrong = self.draw.sample(others, min(REGIONS - len(present), len(others)))
        column = 1 if by_region else 0
        letters, choices = self._choices([pair[column] for pair in [*present, *wrong]])
        named = sorted((letters[pair[column]], pair[1]) for pair in present)
        sentences = [_sentence(picture, region, size, letter) for letter, region in named]
        sentences.append(f"Reported: {', '.join(letter for letter, _ in named)}.")
        noun = "regions" if by_region else "findings"
        return f"Report those of these {noun} that are seen. {choices}", sentences

    def _choices(self, options: Sequence[str]) -> tuple[dict[str, str], str]:
        """Return the letter of each option, drawn at random, and the choices as a text."""
        order = self.draw.sample(options, len(options))
        letters = dict(zip(order, string.ascii_uppercase, strict=False))
        listed = ", ".join(f"{letter}: {option}" for option, letter in letters.items())
        return letters, f"<choices>: [{listed}]"


def _sentence(picture: Picture, region: str, size: Size | None, letter: str = "") -> str:
    """Return what a region looks like, with its box and the letter of its choice."""
    words = [f"The {region}"]
    if size is not None:
        edges = zip(picture.regions[region], (*size, *size), strict=True)
        words.append(str([round(share * side) for share, side in edges]))
    words.append((picture.seen or {})[region])
    if letter:
        words.append(f"(choice {letter})")
    return f"{' '.join(words)}."


SHOWN_FROM = 0.15  # a token shows a finding if the region covers more than this share of its cell
WEIGHTS = {"place": 0.3, "regions": 1.0, "findings": 3.0, "image": 1.0}
# standard deviation of the soft coordinate targets: 2 pixels of 112
SMOOTHING = {"absolute": 2.0, "norm1000": 18.0}
BATCH = 16
LEARNING_RATE = 2e-3
WARM_UP = 20
LETTER_WEIGHT = 5.0
PRACTICE_BATCH = 64
PRACTICE_RATE = 1e-3


def check_images(pictures: Sequence[Picture], cell: int) -> None:
    """Refuse pictures that do not open or, resized to cells of `cell` pixels, differ in size."""
    first: Size | None = None
    for picture in pictures:
        path, low, high = (picture.image[name] for name in ("image", "min_pixels", "max_pixels"))
        try:
            with Image.open(path) as image:
                size = smart_resize(image.size, cell, low, high)
        except OSError as error:
            raise InputError(f"{path}: this picture cannot be read ({error})") from error
        first = first or size
        if size != first:
            raise InputError(
                f"{path}: becomes {size[0]}x{size[1]}, others {first[0]}x{first[1]}: run python -m "
                f"data_prep.thinkvg with --min-pixels {16 * cell**2} --max-pixels {20 * cell**2}"
            )


def pixel_values(processor: Any, pictures: Sequence[Picture]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the patches of all pictures, (patches, values), and their grids, (pictures, 3)."""
    images = []
    for picture in pictures:
        with Image.open(picture.image["image"]) as image:
            images.append(to_rgb8(image))
    bounds = {name: pictures[0].image[name] for name in ("min_pixels", "max_pixels")}
    inputs = processor.image_processor(images=images, return_tensors="pt", **bounds)
    return inputs["pixel_values"], inputs["image_grid_thw"]


class ReportLoss:
    """Cross-entropy of reports, with soft coordinate targets; prompts have no loss.

    The letters of choices count `LETTER_WEIGHT` times.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        ids = coordinate_ids(processor.tokenizer)
        self.coordinates = torch.tensor(ids)
        family = MODEL_FAMILIES[model.config.model_type]
        self.targets = soft_targets(len(ids), SMOOTHING[family.coordinates])
        self.weights = torch.ones(len(processor.tokenizer))
        letters = string.ascii_uppercase[:REGIONS]
        for letter in (*letters, *(f" {letter}" for letter in letters)):
            self.weights[processor.tokenizer(letter)["input_ids"]] = LETTER_WEIGHT

    def __call__(
        self,
        reports: list[Report],
        features: torch.Tensor | None,
        grids: torch.Tensor | None,
        deepstack: Sequence[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Return the weighted mean loss over the tokens of the reports.

        Args:
            reports: one for each image, or without images.
            features: image tokens, (images, tokens, width).
            grids: patches of each image, (images, 3).
            deepstack: what Qwen3-VL adds to the image tokens after each of its first layers,
                (images * tokens, width) each.
        """
        ids, mask, trained = self._encode(reports, 0 if features is None else features.shape[1])
        core = self.model.model
        is_image = ids == self.model.config.image_token_id
        embedded = core.get_input_embeddings()(ids)
        if features is not None:
            embedded = embedded.masked_scatter(is_image[..., None], features.flatten(0, 1))
        positions, _ = core.get_rope_index(
            input_ids=ids,
            mm_token_type_ids=is_image.int(),
            image_grid_thw=grids,
            attention_mask=mask,
        )
        added = {"visual_pos_masks": is_image, "deepstack_visual_embeds": deepstack}
        hidden = core.language_model(
            inputs_embeds=embedded,
            attention_mask=mask,
            position_ids=positions,
            **(added if deepstack else {}),
        ).last_hidden_state
        predicts = trained[:, 1:]
        labels = ids[:, 1:][predicts]
        logits = self.model.lm_head(hidden[:, :-1][predicts])
        losses = -soft_log_probs(logits, labels, self.coordinates, self.targets)
        weights = self.weights[labels]
        return (weights * losses).sum() / weights.sum()

    def _encode(
        self, reports: list[Report], image_tokens: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return ids, attention mask and which tokens have a loss, each (reports, length)."""
        tokenizer = self.processor.tokenizer
        sequences, starts = [], []
        for report in reports:
            content = [{"type": "text", "text": f"\n{report.question}"}]
            if image_tokens:
                content.insert(0, {"type": "image"})
            prompt = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
            prompt = prompt.replace(IMAGE, IMAGE * image_tokens) + report.beginning
            prompt_ids = tokenizer(prompt)["input_ids"]
            sequences.append(torch.tensor(prompt_ids + tokenizer(report.text)["input_ids"]))
            starts.append(len(prompt_ids))
        ids = pad_sequence(sequences, batch_first=True, padding_value=tokenizer.pad_token_id)
        columns = torch.arange(ids.shape[1])
        mask = columns < torch.tensor([len(sequence) for sequence in sequences])[:, None]
        return ids, mask.long(), mask & (columns >= torch.tensor(starts)[:, None])


class Targets:
    """Makes the targets of the image tokens, a `rows` x `columns` grid, from pictures."""

    def __init__(self, pictures: Sequence[Picture], rows: int, columns: int) -> None:
        self.grid = (rows, columns)
        self.regions = sorted({name for picture in pictures for name in picture.regions})
        self.findings = sorted({pair for picture in pictures for pair in picture.findings})

    def coverage(self, picture: Picture) -> torch.Tensor:
        """Return the share of each token's cell that each region covers, (tokens, regions)."""
        rows, columns = self.grid
        shares = []
        for name in self.regions:
            x1, y1, x2, y2 = picture.regions.get(name, (0.0, 0.0, 0.0, 0.0))
            horizontal = _covered(x1 * columns, x2 * columns, columns)
            shares.append((_covered(y1 * rows, y2 * rows, rows)[:, None] * horizontal).flatten())
        return torch.stack(shares, dim=1)

    def shown(self, picture: Picture, coverage: torch.Tensor) -> torch.Tensor:
        """Return whether each token shows each finding, (tokens, findings), 0 or 1."""
        findings = set(picture.findings)
        columns = [
            (coverage[:, self.regions.index(region)] > SHOWN_FROM) * ((name, region) in findings)
            for name, region in self.findings
        ]
        return torch.stack(columns, dim=1).float()


def _covered(start: float, end: float, cells: int) -> torch.Tensor:
    """Return the share of each cell of width 1 that lies between start and end, (cells)."""
    edges = torch.arange(cells + 1, dtype=torch.float32)
    return (edges[1:].clamp(max=end) - edges[:-1].clamp(min=start)).clamp(min=0)


class Heads(torch.nn.Module):
    """Linear classifiers of the image tokens, and their loss."""

    def __init__(self, width: int, targets: Targets) -> None:
        super().__init__()
        self.targets = targets
        rows, columns = targets.grid
        self.place = torch.nn.Linear(width, rows * columns)
        self.regions = torch.nn.Linear(width, len(targets.regions))
        self.findings = torch.nn.Linear(width, len(targets.findings))
        self.image = torch.nn.Linear(width, len(targets.findings))

    def loss(self, features: torch.Tensor, pictures: Sequence[Picture]) -> torch.Tensor:
        """Return the weighted sum of cross-entropies; `features` are (images, tokens, width)."""
        coverages = [self.targets.coverage(picture) for picture in pictures]
        pairs = zip(pictures, coverages, strict=True)
        shown = torch.stack([self.targets.shown(*pair) for pair in pairs])
        coverage = torch.stack(coverages)
        places = torch.arange(features.shape[1]).expand(len(pictures), -1)
        binary = functional.binary_cross_entropy_with_logits
        losses = {
            "place": functional.cross_entropy(self.place(features).transpose(1, 2), places),
            "regions": binary(self.regions(features), coverage),
            "findings": binary(self.findings(features), shown),
            "image": binary(self.image(features.mean(dim=1)), shown.amax(dim=1)),
        }
        return torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum()


class Steps:
    """Steps of AdamW with a warm-up, then a cosine to a twentieth of the rate."""

    def __init__(self, parameters: list[torch.nn.Parameter], rate: float, count: int) -> None:
        self.parameters = parameters
        self.optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.95))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: (
                min(1, step / WARM_UP) * (0.525 + 0.475 * math.cos(math.pi * step / count))
            ),
        )

    def take(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.schedule.step()


def practise(
    model: Any, processor: Any, pictures: Sequence[Picture], seed: int, batches: int
) -> None:
    """Train the language model in place to find the letters of choices, without pictures."""
    draw = random.Random(seed)
    reporter = Reporter(pictures, draw)
    report_loss = ReportLoss(model, processor)
    steps = Steps(list(model.model.language_model.parameters()), PRACTICE_RATE, batches)
    model.train()
    with console.progress(range(batches), desc="letters", unit="batch") as bar:
        for _ in bar:
            shown = draw.choices(pictures, k=PRACTICE_BATCH)
            loss = report_loss([reporter.reading(picture) for picture in shown], None, None)
            steps.take(loss)
            bar.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)


def pretrain(
    model: Any, processor: Any, pictures: Sequence[Picture], seed: int, epochs: int = 2
) -> None:
    """Train a twin in place, on pictures that have one size after the processor's resize.

    In each epoch, a last batch that is not full is left out.
    """
    tower = model.model.visual
    patch, merge = tower.config.patch_size, tower.config.spatial_merge_size
    _, rows, columns = pixel_values(processor, pictures[:1])[1][0].tolist()
    heads = Heads(tower.config.out_hidden_size, Targets(pictures, rows // merge, columns // merge))
    space = MODEL_FAMILIES[model.config.model_type].box_space((columns * patch, rows * patch))
    report_loss = ReportLoss(model, processor)
    draw = random.Random(seed)
    reporter = Reporter(pictures, draw)
    batches = list(_batches(pictures, epochs, draw))
    steps = Steps([*model.parameters(), *heads.parameters()], LEARNING_RATE, len(batches))
    model.train()
    with console.progress(batches, desc="pre-training", unit="batch") as bar:
        for batch in bar:
            pixels, grids = pixel_values(processor, batch)
            output = tower(pixels, grids)
            features = output.pooler_output.view(len(batch), -1, tower.config.out_hidden_size)
            reports = [reporter.report(picture, space) for picture in batch]
            deepstack = getattr(output, "deepstack_features", None)
            loss_of_reports = report_loss(reports, features, grids, deepstack)
            steps.take(loss_of_reports + heads.loss(features, batch))
            bar.set_postfix_str(f"loss {loss_of_reports.item():.3f}", refresh=False)


def _batches(
    pictures: Sequence[Picture], epochs: int, draw: random.Random
) -> Iterator[list[Picture]]:
    for _ in range(epochs):
        order = draw.sample(pictures, len(pictures))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            yield order[start : start + BATCH]
