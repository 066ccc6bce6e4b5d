"""The account of a preparation: audit.json for programs, audit.html for people."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from PIL import Image, ImageDraw

from data_prep.answers import answer_text
from data_prep.coordinates import Size, scale_box
from data_prep.files import whole_file
from data_prep.rows import REJECT_CODES, Example
from data_prep.settings import Settings
from data_prep.splits import SPLITS
from reward.ground_truth import normalise

SHOWN = 8
_SHOWN_SIDE = 420
_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231")


def build_audit(
    *,
    settings: Settings,
    values: Mapping[str, Any],
    files: Sequence[Path],
    source_rows: int,
    kept: int,
    rejects: Mapping[int, str],
    examples: Sequence[Example],
    split_of: Mapping[str, str],
    frame_evidence: str,
) -> dict[str, Any]:
    """All counts and parameters, ready for JSON."""
    splits = {split: _describe_split(split, examples, split_of) for split in SPLITS}
    rows = {split: splits[split]["rows"] for split in SPLITS}
    rows |= {"rejects": len(rejects), "left_out": source_rows - kept}
    reasons = Counter(rejects.values())
    return {
        "parameters": {
            **values,
            "frame_option": settings.frame,
            "frame_evidence": frame_evidence,
            "val": settings.val,
            "test": settings.test,
            "limit": settings.limit,
            "source": [str(file) for file in files],
            "images": str(settings.images),
            "findings": str(settings.findings) if settings.findings else None,
        },
        "rows": {"source": source_rows, **rows, "conserved": source_rows == sum(rows.values())},
        "rejects": {code: reasons[code] for code in REJECT_CODES if reasons[code]},
        "splits": splits,
        "clipped_boxes": sum(example.clipped_boxes for example in examples),
        "rows_without_boxes": sum(not example.ground_truth.regions for example in examples),
        "rows_without_reasoning": sum(example.response is None for example in examples),
        "choice_rows_without_choices": sum(
            example.parsed.question_type in ("single", "multi") and example.parsed.choices is None
            for example in examples
        ),
        "media_tags_removed": sum(example.parsed.media_tags for example in examples),
        "images_below_min_pixels": _count_small(examples, settings.min_pixels),
        "image_sizes": _count_sizes(examples),
    }


def _describe_split(
    split: str, examples: Sequence[Example], split_of: Mapping[str, str]
) -> dict[str, Any]:
    here = [example for example in examples if split_of[example.parsed.patient] == split]
    return {
        "rows": len(here),
        "patients": len({example.parsed.patient for example in here}),
        "images": len({example.parsed.image_path for example in here}),
        "question_types": _sorted_counts(example.parsed.question_type for example in here),
        "boxes_per_row": _sorted_counts(len(example.ground_truth.regions) for example in here),
        "closed_answers": _sorted_counts(
            answer_text(example.ground_truth.answer)
            for example in here
            if example.parsed.question_type == "closed"
        ),
    }


def _sorted_counts(values: Any) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}


def _model_sizes(examples: Sequence[Example]) -> list[Size]:
    """The size at which the model sees each picture, one entry for a picture."""
    return list({one.picture.path: one.ground_truth.image_size for one in examples}.values())


def _count_small(examples: Sequence[Example], min_pixels: int) -> int:
    return sum(width * height < min_pixels for width, height in _model_sizes(examples))


def _count_sizes(examples: Sequence[Example]) -> dict[str, int]:
    """How many pictures the model sees at each size, most frequent first, twenty at most."""
    counted = Counter(f"{width}x{height}" for width, height in _model_sizes(examples))
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:20])


def write_audit(out: Path, audit: Mapping[str, Any], examples: Sequence[Example]) -> None:
    """Writes audit.json, and audit.html with a few rows as the model will see them."""
    with whole_file(out / "audit.json") as temporary:
        temporary.write_text(json.dumps(audit, indent=2) + "\n", encoding="utf-8")
    environment = Environment(loader=PackageLoader("data_prep"), autoescape=True)
    page = environment.get_template("audit.html.j2").render(
        audit=audit,
        codes=REJECT_CODES,
        shown=[asdict(_show(example)) for example in choose_shown(examples)],
    )
    with whole_file(out / "audit.html") as temporary:
        temporary.write_text(page, encoding="utf-8")


def choose_shown(examples: Sequence[Example]) -> list[Example]:
    """Two rows of each question type, spread over the data, with several boxes where possible."""
    chosen: list[Example] = []
    for kind in ("open", "closed", "single", "multi"):
        of_kind = [one for one in examples if one.parsed.question_type == kind]
        if of_kind:
            first, later = of_kind[0], of_kind[len(of_kind) // 2 :]
            chosen += [first, max(later, key=lambda one: len(one.ground_truth.regions))]
    return chosen[:SHOWN]


@dataclass(frozen=True)
class _Shown:
    picture: str
    question: str
    answer: str
    response: str
    names: list[tuple[str, str]]


def _show(example: Example) -> _Shown:
    """The picture with the boxes drawn on it, as a data URI, and the texts beside it."""
    truth = example.ground_truth
    names = []
    try:
        with Image.open(example.picture.path) as opened:
            picture = opened.convert("RGB")
    except OSError as error:
        # Only the header was read so far; training will meet this fault too, so show it.
        picture = Image.new("RGB", (64, 64))
        names.append(("#e6194b", f"the picture does not decode: {error}"))
    scale = _SHOWN_SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size)
    draw = ImageDraw.Draw(picture)
    for number, region in enumerate(truth.regions):
        if region.box is None:
            continue
        colour = _COLOURS[number % len(_COLOURS)]
        draw.rectangle(scale_box(normalise(region.box, truth), size), outline=colour, width=3)
        names.append((colour, region.ref))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return _Shown(
        picture=f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}",
        question=example.question,
        answer=answer_text(truth.answer),
        response=example.response or "",
        names=names,
    )
