"""Puts patients, pictures and questions together and writes them in the published layout."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from data_prep.files import whole_file
from data_prep.phantom.anatomy import (
    Anatomy,
    region_boxes,
    reposition,
    sample_anatomy,
    with_enlarged_heart,
    with_raised_diaphragm,
)
from data_prep.phantom.dirty import dirty_rows
from data_prep.phantom.drawing import draw_chest
from data_prep.phantom.findings import (
    QUIET_REGIONS,
    Finding,
    asked_regions,
    sample_findings,
    seen_in,
)
from data_prep.phantom.questions import ask
from data_prep.phantom.wording import FrameBox, impression, reasoning, response

FRAME = 336
SIDE_VARIATION = 0.08
COLUMNS = ("image_path", "question", "question_type", "thinkVG", "response")
PARQUET = Path("data") / "train-00000-of-00001.parquet"
NOTICE = "Synthetic: drawn by a program, not from any patient. Not for clinical use."
Row = dict[str, str | None]
PICTURES = Path("pictures.parquet")
PICTURES_SCHEMA = pa.schema(
    [
        ("image_path", pa.string()),
        ("impression", pa.string()),
        ("findings", pa.list_(pa.struct([("name", pa.string()), ("region", pa.string())]))),
        (
            "regions",
            pa.list_(
                pa.struct(
                    [
                        ("name", pa.string()),
                        ("box", pa.list_(pa.float64())),
                        ("seen", pa.string()),
                    ]
                )
            ),
        ),
    ],
    metadata={"notice": NOTICE},
)


@dataclass(frozen=True)
class Study:
    """One picture of a patient: where it goes and what seeds it."""

    patient: int
    number: int
    image_path: str


def plan_studies(images: int, seed: int) -> list[Study]:
    """Which patient has how many pictures (1 to 3), and their paths.

    Patient numbers start at 90000000, outside of MIMIC-CXR's.
    """
    rng = np.random.default_rng([seed, 0])
    studies: list[Study] = []
    patient = 0
    while len(studies) < images:
        count = 1 + int(rng.choice(3, p=[0.65, 0.25, 0.10]))
        for number in range(min(count, images - len(studies))):
            studies.append(Study(patient, number, _path(patient, number, seed)))
        patient += 1
    return studies


def _path(patient: int, number: int, seed: int) -> str:
    group, subject = 90 + patient % 10, 90_000_000 + patient % 10 * 1_000_000 + patient // 10
    digest = hashlib.sha256(f"{seed}/{patient}/{number}".encode()).hexdigest()
    name = "-".join(digest[start : start + 8] for start in range(0, 40, 8))
    return f"/p{group}/p{subject}/s{subject}{number}/{name}.jpg"


def make_study(study: Study, files: Path, seed: int) -> tuple[list[Row], dict[str, Any]]:
    """Draws one picture, writes it under `files` and returns its rows and what it shows."""
    anatomy = sample_anatomy(np.random.default_rng([seed, 1, study.patient]))
    rng = np.random.default_rng([seed, 2, study.patient, study.number])
    findings = sample_findings(rng)
    anatomy = with_findings(reposition(anatomy, rng), findings, rng)
    low, high = round(FRAME * (1 - SIDE_VARIATION)), round(FRAME * (1 + SIDE_VARIATION))
    width, height = (int(side) for side in rng.integers(low, high + 1, size=2))
    path = files / study.image_path.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_chest(anatomy, findings, (width, height), rng).save(path, quality=88)
    return _rows(study, anatomy, findings, rng), _shown(study, anatomy, findings)


def _shown(study: Study, anatomy: Anatomy, findings: tuple[Finding, ...]) -> dict[str, Any]:
    """A row of `pictures.parquet`; boxes are fractions of width and height.

    `seen` is what a region looks like, null where no question is about it (a whole lung).
    """
    described = {*asked_regions(), *QUIET_REGIONS}
    return {
        "image_path": study.image_path,
        "impression": impression(findings),
        "findings": [{"name": found.name, "region": found.region} for found in findings],
        "regions": [
            {
                "name": name,
                "box": list(box),
                "seen": seen_in(name, findings) if name in described else None,
            }
            for name, box in region_boxes(anatomy).items()
        ],
    }


def with_findings(
    anatomy: Anatomy, findings: tuple[Finding, ...], rng: np.random.Generator
) -> Anatomy:
    """The anatomy in the shape that the findings give it."""
    for finding in findings:
        if finding.kind == "raised":
            anatomy = with_raised_diaphragm(anatomy, finding.side)
    if any(finding.kind == "enlarged" for finding in findings):
        anatomy = with_enlarged_heart(anatomy, rng)
    return anatomy


def frame_boxes(anatomy: Anatomy) -> dict[str, FrameBox]:
    """Every region's box in the published frame: the picture stretched to 336 x 336."""
    boxes = {}
    for name, box in region_boxes(anatomy).items():
        x1, y1, x2, y2 = (round(FRAME * value) for value in box)
        boxes[name] = (x1, y1, x2, y2)
    return boxes


def _rows(
    study: Study, anatomy: Anatomy, findings: tuple[Finding, ...], rng: np.random.Generator
) -> list[Row]:
    """Three to five different questions about one picture."""
    boxes = frame_boxes(anatomy)
    rows: dict[str, Row] = {}
    for _ in range(int(rng.integers(3, 6))):
        item = ask(findings, rng)
        rows[item.question] = {
            "image_path": study.image_path,
            "question": item.question,
            "question_type": item.question_type,
            "thinkVG": reasoning(item, findings, boxes, rng),
            "response": response(item, boxes, rng),
        }
    return list(rows.values())


def write_dataset(out: Path, images: int, seed: int, workers: int, dirty: float) -> int:
    """Writes the dataset under `out` and returns its number of rows.

    The bytes depend on `images`, `seed` and `dirty` only, not on `workers`.
    """
    files = out / "files"
    files.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    pictures: list[dict[str, Any]] = []
    studies = plan_studies(images, seed)
    with tqdm(total=images, desc="drawing", unit="image") as bar:
        for made, shown in _make_all(studies, files, seed, workers):
            rows.extend(made)
            pictures.append(shown)
            bar.update()
    with whole_file(out / PICTURES) as temporary:
        pq.write_table(pa.Table.from_pylist(pictures, schema=PICTURES_SCHEMA), temporary)
    rows.extend(dirty_rows(rows, dirty, files, seed))
    schema = pa.schema([(name, pa.string()) for name in COLUMNS], metadata={"notice": NOTICE})
    target = out / PARQUET
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)
    with whole_file(out / "README.txt") as temporary:
        temporary.write_text(_readme(images, len(rows), seed))
    return len(rows)


def _make_all(
    studies: list[Study], files: Path, seed: int, workers: int
) -> Iterator[tuple[list[Row], dict[str, Any]]]:
    make = partial(make_study, files=files, seed=seed)
    if workers <= 1:
        yield from map(make, studies)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(make, studies, chunksize=32)


def _readme(images: int, rows: int, seed: int) -> str:
    return (
        f"Phantom chests in the layout of the ThinkVG dataset.\n{NOTICE}\n\n"
        f"{images} images, {rows} questions, seed {seed}.\n"
        f"{PARQUET}: one row for each question.\n"
        "files/: the pictures, at the places that `image_path` names.\n"
        f"{PICTURES}: what each picture shows, and every region's box as fractions of its size.\n"
        f"Boxes are [x1, y1, x2, y2] with the picture stretched to {FRAME} x {FRAME} pixels.\n"
        "With --min-pixels 12544 --max-pixels 15680, data_prep.thinkvg maps every picture to\n"
        "112 x 112 pixels for Qwen2.5-VL.\n"
    )
