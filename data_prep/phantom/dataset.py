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

from data_prep.coordinates import Size
from data_prep.files import remove_leftovers, whole_file
from data_prep.phantom.anatomy import (
    Anatomy,
    further_boxes,
    reposition,
    sample_anatomy,
    with_enlarged_heart,
    with_raised_diaphragm,
)
from data_prep.phantom.dirty import Dirt, dirty_rows
from data_prep.phantom.drawing import draw_chest
from data_prep.phantom.findings import (
    QUIET_REGIONS,
    Finding,
    asked_regions,
    sample_findings,
    seen_in,
)
from data_prep.phantom.forms import FILES, NOTICE, PARQUET, Row, write_rows
from data_prep.phantom.oddities import make_odd
from data_prep.phantom.questions import ask
from data_prep.phantom.variant import Variant
from data_prep.phantom.wording import annotated, impression, reasoning, response

__all__ = ["NOTICE", "PARQUET", "PICTURES", "plan_studies", "with_findings", "write_dataset"]

PICTURES = Path("pictures.parquet")
FINDINGS = Path("findings.parquet")
FINDINGS_SCHEMA = pa.schema(
    [("image_path", pa.string()), ("findings", pa.string())], metadata={"notice": NOTICE}
)
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
    """One picture of a patient: where it goes, what seeds it, and its place in the set."""

    patient: int
    number: int
    image_path: str
    place: int


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
            path = _path(patient, number, seed)
            studies.append(Study(patient, number, path, len(studies)))
        patient += 1
    return studies


def _path(patient: int, number: int, seed: int) -> str:
    group, subject = 90 + patient % 10, 90_000_000 + patient % 10 * 1_000_000 + patient // 10
    digest = hashlib.sha256(f"{seed}/{patient}/{number}".encode()).hexdigest()
    name = "-".join(digest[start : start + 8] for start in range(0, 40, 8))
    return f"/p{group}/p{subject}/s{subject}{number}/{name}.jpg"


@dataclass(frozen=True)
class Plan:
    """A set to be made: its folder of pictures, its size, seed and variant."""

    files: Path
    images: int
    seed: int
    variant: Variant


def make_study(study: Study, plan: Plan) -> tuple[list[Row], dict[str, Any]]:
    """Draws one picture, writes it under `plan.files` and returns its rows and what it shows."""
    seed, variant = plan.seed, plan.variant
    anatomy = sample_anatomy(np.random.default_rng([seed, 1, study.patient]))
    rng = np.random.default_rng([seed, 2, study.patient, study.number])
    # What the variants draw has a source of its own, so that they change nothing else.
    own = np.random.default_rng([seed, 4, study.patient, study.number])
    findings = sample_findings(rng)
    anatomy = with_findings(reposition(anatomy, rng), findings, rng)
    size = variant.picture_size(rng, own)
    path = plan.files / study.image_path.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        draw_chest(anatomy, findings, size, rng).save(temporary, "JPEG", quality=88)
    count = variant.count_of(study.place, plan.images)
    rows = _rows(study, anatomy, findings, size, rng, own, variant, count)
    shown = _shown(study, variant, anatomy, findings)
    boxes = variant.frame_boxes(anatomy, size)
    told = [(each["name"], boxes[each["name"]], each["seen"]) for each in shown["regions"]]
    return rows, shown | {"told": annotated(told)}


def _shown(
    study: Study, variant: Variant, anatomy: Anatomy, findings: tuple[Finding, ...]
) -> dict[str, Any]:
    """A row of `pictures.parquet`; boxes are fractions of width and height.

    `seen` is what a region looks like, null where no question is about it (a whole lung).
    """
    described = {*asked_regions(), *_quiet(variant, anatomy)}
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
            for name, box in variant.unit_boxes(anatomy).items()
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


def _quiet(variant: Variant, anatomy: Anatomy) -> tuple[str, ...]:
    """Regions that never carry a finding and are asked about."""
    return (*QUIET_REGIONS, *(further_boxes(anatomy) if variant.all_regions else ()))


def _rows(
    study: Study,
    anatomy: Anatomy,
    findings: tuple[Finding, ...],
    size: Size,
    rng: np.random.Generator,
    own: np.random.Generator,
    variant: Variant,
    count: int | None,
) -> list[Row]:
    """Different questions about one picture: `count`, or three to five tries."""
    boxes = variant.frame_boxes(anatomy, size)
    quiet = _quiet(variant, anatomy)
    rows: dict[str, Row] = {}
    tries = int(rng.integers(3, 6)) if count is None else 40 * count
    for _ in range(tries):
        if len(rows) == count:
            break
        item = ask(findings, rng, quiet)
        further: list[str] = []
        if variant.words:
            names = list(boxes)
            further = [names[place] for place in own.permutation(len(names))]
        rows[item.question] = {
            "image_path": study.image_path,
            "question": item.question,
            "question_type": item.question_type,
            "thinkVG": reasoning(item, findings, boxes, rng, further, variant.words),
            "response": response(item, boxes, rng),
        }
    return list(rows.values())


def write_dataset(
    out: Path,
    images: int,
    seed: int,
    workers: int,
    dirt: Dirt,
    variant: Variant | None = None,
) -> int:
    """Writes the dataset under `out` and returns its number of rows.

    The bytes depend on `images`, `seed`, `dirt` and `variant` only, not on `workers`. Rows and
    pictures of an earlier set in `out` are removed.
    """
    variant = variant or Variant()
    plan = Plan(out / "files", images, seed, variant)
    plan.files.mkdir(parents=True, exist_ok=True)
    studies = plan_studies(images, seed)
    _remove_earlier(out, {study.image_path.lstrip("/") for study in studies})
    rows: list[Row] = []
    pictures: list[dict[str, Any]] = []
    told: list[dict[str, str]] = []
    with tqdm(total=images, desc="drawing", unit="image") as bar:
        for made, shown in _make_all(studies, plan, workers):
            rows.extend(made)
            told.append({"image_path": shown["image_path"], "findings": shown.pop("told")})
            pictures.append(shown)
            bar.update()
    with whole_file(out / PICTURES) as temporary:
        pq.write_table(pa.Table.from_pylist(pictures, schema=PICTURES_SCHEMA), temporary)
    with whole_file(out / FINDINGS) as temporary:
        pq.write_table(pa.Table.from_pylist(told, schema=FINDINGS_SCHEMA), temporary)
    faulty = dirty_rows(rows, dirt, plan.files, seed)
    rows = [*make_odd(rows, variant.odd, seed), *faulty]
    with whole_file(out / "README.txt") as temporary:
        temporary.write_text(_readme(images, len(rows), seed, variant))
    write_rows(out, rows, variant.form)
    return len(rows)


def _remove_earlier(out: Path, planned: set[str]) -> None:
    """Removes the rows of an earlier set, and those of its pictures that are not drawn again.

    Phantom patients are in the folders p90 to p99, so nothing else is touched.
    """
    for path in (PICTURES, FINDINGS, *FILES.values()):
        (out / path).unlink(missing_ok=True)
    for folder in (out / "files").glob("p9[0-9]"):
        for path in folder.glob("p*/s*/*"):
            if path.relative_to(out / "files").as_posix() not in planned:
                path.unlink()
        for study in [*folder.glob("p*/s*"), *folder.glob("p*"), folder]:
            if study.is_dir() and not any(study.iterdir()):
                study.rmdir()
    remove_leftovers(out)


def _make_all(
    studies: list[Study], plan: Plan, workers: int
) -> Iterator[tuple[list[Row], dict[str, Any]]]:
    make = partial(make_study, plan=plan)
    if workers <= 1:
        yield from map(make, studies)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(make, studies, chunksize=32)


def _readme(images: int, rows: int, seed: int, variant: Variant) -> str:
    if variant.frame is None:
        space = "in pixels of the picture"
    else:
        how = {"stretch": "stretched", "pad": "padded"}[variant.fit]
        space = f"with the picture {how} to {variant.frame[0]} x {variant.frame[1]} pixels"
    lines = (
        f"Phantom chests in the layout of the ThinkVG dataset.\n{NOTICE}\n\n"
        f"{images} images, {rows} questions, seed {seed}.\n"
        f"{FILES[variant.form]}: one row for each question.\n"
        "files/: the pictures, at the places that `image_path` names.\n"
        f"{PICTURES}: what each picture shows, and every region's box as fractions of its size.\n"
        f"{FINDINGS}: the same in words, with boxes as rows have them.\n"
        f"Boxes are [x1, y1, x2, y2] {space}.\n"
    )
    if variant.shapes != "square":
        return lines
    return lines + (
        "With --min-pixels 12544 --max-pixels 15680, data_prep.thinkvg maps every picture to\n"
        "112 x 112 pixels for Qwen2.5-VL.\n"
    )
