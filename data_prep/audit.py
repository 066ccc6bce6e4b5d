"""The counts of a run and some of its rows, as audit.json and audit.html."""

import base64
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from data_prep.convert.training_files import (
    STEPS,
    count_repeats,
    count_values,
    describe_lengths,
    describe_split,
    histogram,
    in_order,
    values_of,
)
from data_prep.coordinates import Size, smart_resize
from data_prep.pictures import DEEP, Picture, to_gray_or_rgb
from data_prep.program import write_whole
from data_prep.rows.answers import BEYOND, answer_text
from data_prep.rows.example import REJECT_CODES
from data_prep.settings import Settings
from data_prep.splits import SPLITS

PER_TYPE = 3
TYPES = ("open", "closed", "single", "multi")
SIDE = 420


def choose_rows(rows: pa.Table) -> list[int]:
    """Return the source indices of the rows to show, in order.

    They have the most boxes of each third of the accepted `rows` of a type. Thirds of the source
    would show a single row of a type that is all in one of them, as boxes and labels of VinDr are.
    """
    indices = rows["index"].to_numpy()
    order = indices.argsort(kind="stable")
    types = np.array(rows["question_type"].to_pylist())
    boxes = pc.list_value_length(rows["regions"]).to_numpy()
    chosen = []
    for kind in TYPES:
        for positions in np.array_split(order[types[order] == kind], PER_TYPE):
            if len(positions):
                chosen.append(int(indices[positions[boxes[positions].argmax()]]))
    return chosen


def read_rows(examples: pa.Table, indices: Sequence[int]) -> list[dict[str, Any]]:
    """Return the examples of these source indices, in their order."""
    is_shown = pc.is_in(examples["index"], value_set=pa.array(indices, pa.int64()))
    shown = {row["index"]: row for row in examples.filter(is_shown).to_pylist()}
    return [shown[index] for index in indices]


def show(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return an example as the page shows it: a data URI, and boxes in the pixels of the picture.

    The boxes are mapped from the model's coordinates, so the page shows what the model learns.
    """
    truth = json.loads(row["reward_model"]["ground_truth"])
    space = (1000, 1000) if truth["coordinates"] == "norm1000" else truth["image_size"]
    fault, size, uri = "", (SIDE, SIDE), ""
    try:
        size, uri = _picture(row["images"][0]["image"])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Until now only the header was read. Training would fail on this picture, so show it.
        fault = f"the picture does not decode: {error}"
    scale = [size[0] / space[0], size[1] / space[1]] * 2
    return {
        "index": row["index"],
        "kind": row["question_type"],
        "picture": uri,
        "size": size,
        "fault": fault,
        "question": row["question"],
        "answer": answer_text(truth["answer"]),
        "response": row["messages"][1]["content"] if row["messages"] else "",
        "final": [_region_on_page(region, scale) for region in truth["regions"]],
        "cited": [_region_on_page(region, scale) for region in truth["think_regions"]],
    }


def _region_on_page(region: Mapping[str, Any], scale: Sequence[float]) -> dict[str, Any]:
    x1, y1, x2, y2 = (side * factor for side, factor in zip(region["box"], scale, strict=True))
    return {
        "ref": region["ref"] or "unnamed",
        "x": round(x1, 2),
        "y": round(y1, 2),
        "width": round(x2 - x1, 2),
        "height": round(y2 - y1, 2),
    }


def _picture(path: str) -> tuple[tuple[int, int], str]:
    """Return the size of a copy for the page, and the copy as a data URI."""
    with Image.open(path) as opened:
        opened.draft("L", (2 * SIDE, 2 * SIDE))
        picture = to_gray_or_rgb(opened).copy()
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    buffer = io.BytesIO()
    picture.resize(size).save(buffer, "JPEG", quality=85)
    return size, f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def build_audit(
    settings: Settings,
    source_rows: int,
    examples: pa.Table,
    accepted: pa.Table,
    pictures: Mapping[str, Picture | str],
) -> dict[str, Any]:
    """Return all counts, ready for JSON.

    Args:
        settings: The settings of the run.
        source_rows: The number of rows of the source.
        examples: An example for each row that was read, with the columns `ABOUT`.
        accepted: Those that are not rejected, with a column `split`.
        pictures: By image path, the picture or its reject code.
    """
    splits = {
        split: describe_split(accepted.filter(pc.equal(accepted["split"], split)))
        for split in SPLITS
    }
    rejects = count_values(examples["reason"])
    rows = {split: described["rows"] for split, described in splits.items()}
    rows |= {"rejects": rejects.total(), "left_out": source_rows - examples.num_rows}
    sizes = _model_sizes(settings, accepted, pictures)
    audit: dict[str, Any] = {
        "rows": {"source": source_rows, **rows, "conserved": source_rows == sum(rows.values())},
        "rejects": {code: rejects[code] for code in REJECT_CODES if rejects[code]},
        "splits": splits,
        "histograms": _histograms(accepted),
        "repeats": count_repeats(accepted),
        **_count_oddities(examples, accepted),
        "images_deeper_than_8_bits": sum(picture == DEEP for picture in pictures.values()),
        "images_below_min_pixels": sum(
            count
            for (width, height), count in sizes.items()
            if width * height < settings.min_pixels
        ),
        "image_sizes": _most_frequent_sizes(sizes),
    }
    if settings.tokenizer is not None:
        audit["tokens"] = _token_lengths(settings, accepted, sizes)
    return audit


def _count_oddities(examples: pa.Table, accepted: pa.Table) -> dict[str, Any]:
    excluded = examples["patient"].filter(pc.equal(examples["reason"], "excluded"))
    patients = accepted.group_by("patient").aggregate([("split", "count_distinct")])
    return {
        "patients_in_two_splits": _count_true(pc.greater(patients["split_count_distinct"], 1)),
        "patients_partly_excluded": _count_true(
            pc.is_in(patients["patient"], value_set=excluded.combine_chunks())
        ),
        "clipped_boxes": pc.sum(accepted["clipped_boxes"], min_count=0).as_py(),
        "rows_without_boxes": _count_true(pc.equal(pc.list_value_length(accepted["regions"]), 0)),
        "rows_without_reasoning": _count_true(pc.equal(accepted["response_chars"], 0)),
        "choice_rows_without_choices": _count_true(accepted["lacks_choices"]),
        "beyond_one_image": _count_beyond(examples),
        "media_tags_removed": pc.sum(accepted["media_tags"], min_count=0).as_py(),
    }


def _count_true(column: pa.ChunkedArray) -> int:
    return pc.sum(column, min_count=0).as_py()


def _count_beyond(examples: pa.Table) -> dict[str, dict[str, int]]:
    """Count, by question type, the rows that one image cannot answer, also those left out."""
    counts = {code: Counter[str]() for code in BEYOND}
    rows = examples.select(["beyond", "question_type"])
    for row in rows.filter(pc.greater(pc.list_value_length(rows["beyond"]), 0)).to_pylist():
        for code in row["beyond"]:
            counts[code][row["question_type"]] += 1
    return {code: in_order(counted) for code, counted in counts.items()}


def _model_sizes(
    settings: Settings, accepted: pa.Table, pictures: Mapping[str, Picture | str]
) -> Counter[Size]:
    """Count the sizes at which the model sees the accepted rows' pictures."""
    bounds = (settings.min_pixels, settings.max_pixels)
    different = {pictures[name] for name in accepted["image_path"].unique().to_pylist()}
    return Counter(
        smart_resize(picture.size, settings.family.factor, *bounds)
        for picture in different
        if isinstance(picture, Picture)
    )


def _most_frequent_sizes(sizes: Counter[Size]) -> dict[str, int]:
    """Return sizes as "WxH" with their counts, most frequent first, twenty at most."""
    counted = [(f"{width}x{height}", count) for (width, height), count in sizes.items()]
    return dict(sorted(counted, key=lambda item: (-item[1], item[0]))[:20])


def _histograms(accepted: pa.Table) -> dict[str, dict[str, int]]:
    bins = {name: histogram(values_of(accepted[name]), step) for name, step in STEPS.items()}
    return {name: counts for name, counts in bins.items() if counts}


def _token_lengths(settings: Settings, accepted: pa.Table, sizes: Counter[Size]) -> dict[str, Any]:
    """Describe the lengths of prompts (images included), of images and of responses."""
    areas = np.array([width * height for width, height in sizes.elements()])
    return {
        "tokenizer": str(settings.tokenizer),
        "prompt": describe_lengths(values_of(accepted["prompt_tokens"])),
        "image": describe_lengths(areas // settings.family.factor**2),
        "response": describe_lengths(values_of(accepted["response_tokens"])),
    }


def write_audit(out: Path, audit: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write audit.json, and audit.html with a few rows as the model will see them."""
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
    write_whole(out / "audit.html", page)
    write_whole(out / "audit.json", json.dumps(audit, indent=2) + "\n")
