"""The account of a preparation: audit.json for programs, audit.html for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from data_prep.convert import PartStats
from data_prep.coordinates import Size, smart_resize
from data_prep.files import whole_file
from data_prep.gallery import show
from data_prep.pictures import Picture
from data_prep.rows import REJECT_CODES
from data_prep.settings import Settings
from data_prep.sources import Source
from data_prep.splits import SPLITS
from data_prep.statistics import STEPS, Tally, describe_lengths, histogram


def build_audit(
    *,
    settings: Settings,
    values: Mapping[str, Any],
    source: Source,
    stats: PartStats,
    tallies: Mapping[str, Tally],
    files: Mapping[str, int],
    repeats: Mapping[str, int],
    splits: Mapping[str, str],
    pictures: Mapping[str, Picture | str],
    missing: int,
    evidence: str,
    doubts: Sequence[str],
) -> dict[str, Any]:
    """All counts and parameters, ready for JSON."""
    images = Counter(splits[patient] for patient in stats.images.values())
    rows = {split: tallies[split].rows for split in SPLITS}
    rows |= {"rejects": stats.rejects.total(), "left_out": source.rows - stats.kept}
    sizes = _model_sizes(settings, stats, pictures)
    audit: dict[str, Any] = {
        "parameters": _parameters(settings, values, source, evidence),
        "doubts": list(doubts),
        "rows": {"source": source.rows, **rows, "conserved": source.rows == sum(rows.values())},
        "rejects": {code: stats.rejects[code] for code in REJECT_CODES if stats.rejects[code]},
        "splits": {split: tallies[split].describe(images[split]) for split in SPLITS},
        "histograms": _histograms(tallies),
        "repeats": dict(repeats),
        "patients_in_two_splits": _patient_overlap(tallies),
        "patients_partly_excluded": len(stats.excluded_patients & stats.patients.keys()),
        "clipped_boxes": stats.clipped_boxes,
        "rows_without_boxes": sum(tally.boxes_per_row[0] for tally in tallies.values()),
        "rows_without_reasoning": sum(tally.without_reasoning for tally in tallies.values()),
        "choice_rows_without_choices": stats.without_choices,
        "media_tags_removed": stats.media_tags,
        "missing_images_listed": missing,
        "images_below_min_pixels": sum(
            count
            for (width, height), count in sizes.items()
            if width * height < settings.min_pixels
        ),
        "image_sizes": _most_frequent_sizes(sizes),
        "files": dict(files),
    }
    if settings.tokenizer is not None:
        audit["tokens"] = _token_lengths(settings, tallies, sizes)
    return audit


def _parameters(
    settings: Settings, values: Mapping[str, Any], source: Source, evidence: str
) -> dict[str, Any]:
    return {
        **values,
        "frame_option": settings.frame,
        "fit_option": settings.fit,
        "frame_evidence": evidence,
        "val": settings.val,
        "test": settings.test,
        "stratify": settings.stratify,
        "limit": settings.limit,
        "source": source.files,
        "images": str(settings.images),
        "findings": str(settings.findings) if settings.findings else None,
        "exclude": str(settings.exclude) if settings.exclude else None,
    }


def _patient_overlap(tallies: Mapping[str, Tally]) -> int:
    found = [tallies[split].patients for split in SPLITS]
    return sum(len(a & b) for place, a in enumerate(found) for b in found[place + 1 :])


def _model_sizes(
    settings: Settings, stats: PartStats, pictures: Mapping[str, Picture | str]
) -> Counter[Size]:
    """How many accepted pictures the model sees at each size."""
    sizes: Counter[Size] = Counter()
    for path in {pictures[name] for name in stats.images}:
        if isinstance(path, Picture):
            bounds = (settings.min_pixels, settings.max_pixels)
            sizes[smart_resize(path.size, settings.family.factor, *bounds)] += 1
    return sizes


def _most_frequent_sizes(sizes: Counter[Size]) -> dict[str, int]:
    """Sizes as "WxH", most frequent first, twenty at most."""
    counted = [(f"{width}x{height}", count) for (width, height), count in sizes.items()]
    return dict(sorted(counted, key=lambda item: (-item[1], item[0]))[:20])


def _all_lengths(tallies: Mapping[str, Tally], name: str) -> Counter[int]:
    total: Counter[int] = Counter()
    for tally in tallies.values():
        total.update(tally.lengths[name])
    return total


def _histograms(tallies: Mapping[str, Tally]) -> dict[str, dict[str, int]]:
    found = {name: histogram(_all_lengths(tallies, name), step) for name, step in STEPS.items()}
    return {name: bins for name, bins in found.items() if bins}


def _token_lengths(
    settings: Settings, tallies: Mapping[str, Tally], sizes: Counter[Size]
) -> dict[str, Any]:
    """Lengths of prompts (images included), of images and of responses."""
    cell = settings.family.factor**2
    images: Counter[int] = Counter()
    for (width, height), count in sizes.items():
        images[width * height // cell] += count
    return {
        "tokenizer": str(settings.tokenizer),
        "prompt": describe_lengths(_all_lengths(tallies, "prompt_tokens")),
        "image": describe_lengths(images),
        "response": describe_lengths(_all_lengths(tallies, "response_tokens")),
    }


def write_audit(out: Path, audit: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes audit.json, and audit.html with a few rows as the model will see them."""
    environment = Environment(
        loader=PackageLoader("data_prep"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("audit.html.j2").render(
        audit=audit, codes=REJECT_CODES, shown=[show(row) for row in rows]
    )
    with whole_file(out / "audit.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    with whole_file(out / "audit.json") as temporary:
        temporary.write_text(json.dumps(audit, indent=2) + "\n", encoding="utf-8")
