"""A phantom set: patients, pictures and questions, written in the published layout."""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from data_prep.coordinates import Frame, Size
from data_prep.program import map_in_processes, remove_leftovers, whole_file
from phantom.draw.chest import (
    QUIET_REGIONS,
    Anatomy,
    Finding,
    asked_regions,
    further_boxes,
    region_boxes,
    reposition,
    sample_anatomy,
    sample_findings,
    seen_in,
    with_findings,
)
from phantom.draw.drawing import draw_chest
from phantom.draw.questions import FrameBox, ask, impression, reasoning, response
from phantom.draw.rows import (
    FILES,
    METADATA,
    NOTICE,
    Dirt,
    Form,
    Row,
    dirty_rows,
    make_odd,
    reach_beyond,
    write_rows,
)
from reward.boxes_in_text import Box

Shapes = Literal["square", "mixed"]

FRAME = 336
CHUNK = 8  # pictures a task: few, so that drawing ends soon after Ctrl-C
SIDE_VARIATION = 0.08
# The published set: rows, images, and words of a reasoning (about).
FULL_ROWS, FULL_IMAGES, FULL_WORDS = 202_384, 21_994, 100
# Width over height; chest radiographs come upright and lying.
ASPECTS = (5 / 6, 6 / 5, 3 / 4, 4 / 3, 1.0)

PICTURES = Path("pictures.parquet")
FINDINGS = Path("findings.parquet")
FINDINGS_SCHEMA = pa.schema(
    [("image_path", pa.string()), ("findings", pa.string())], metadata=METADATA
)
_FINDING = pa.struct([("name", pa.string()), ("region", pa.string())])
_REGION = pa.struct([("name", pa.string()), ("box", pa.list_(pa.float64())), ("seen", pa.string())])
PICTURES_SCHEMA = pa.schema(
    [
        ("image_path", pa.string()),
        ("impression", pa.string()),
        ("findings", pa.list_(_FINDING)),
        ("regions", pa.list_(_REGION)),
    ],
    metadata=METADATA,
)


@dataclass(frozen=True)
class Variant:
    """Options of a phantom set; the defaults are those of the demo."""

    frame: Size | None = (FRAME, FRAME)  # space of the boxes; None for pixels of the picture
    fit: Literal["stretch", "pad"] = "stretch"  # how pictures are brought into the frame
    shapes: Shapes = "square"  # about the frame's size; "mixed": upright, lying and square
    long_side: int = 512  # about, of pictures of mixed shapes, in pixels
    all_regions: bool = False  # whether every published region is asked about
    rows: int | None = None  # good rows of the set; None for three to five for each picture
    words: int = 0  # about how many a reasoning has, reached by adding regions; 0 adds none
    form: Form = "thinkvg"  # of the rows' file
    odd: float = 0.0  # share of rows that are written in unusual but valid ways
    beyond: float = 0.0  # share of rows whose answer compares with an earlier image or hedges

    def picture_size(self, rng: np.random.Generator, variant_rng: np.random.Generator) -> Size:
        """Draw the size of a picture, with `rng` if square, with `variant_rng` if mixed."""
        if self.shapes == "square":
            low, high = round(FRAME * (1 - SIDE_VARIATION)), round(FRAME * (1 + SIDE_VARIATION))
            sides = rng.integers(low, high + 1, size=2)
            return int(sides[0]), int(sides[1])
        aspect = ASPECTS[variant_rng.integers(len(ASPECTS))] * variant_rng.uniform(0.97, 1.03)
        long = self.long_side * variant_rng.uniform(0.95, 1.0)
        width, height = (long, long / aspect) if aspect >= 1 else (long * aspect, long)
        return max(1, round(width)), max(1, round(height))

    def unit_boxes(self, anatomy: Anatomy) -> dict[str, Box]:
        """Return the boxes of all regions that may be cited, as fractions of the picture."""
        boxes = region_boxes(anatomy)
        return boxes | further_boxes(anatomy) if self.all_regions else boxes

    def frame_boxes(self, anatomy: Anatomy, size: Size) -> dict[str, FrameBox]:
        """Return the boxes of a picture of `size`, in whole units of the frame."""
        frame = Frame(self.frame, self.fit)
        boxes = {}
        for name, unit in self.unit_boxes(anatomy).items():
            x1, y1, x2, y2 = (round(side) for side in frame.from_unit(unit, size))
            boxes[name] = (x1, y1, x2, y2)
        return boxes

    def count_of(self, number: int, images: int) -> int | None:
        """Return how many rows picture `number` of `images` has; None for three to five."""
        if self.rows is None:
            return None
        return self.rows * (number + 1) // images - self.rows * number // images


@dataclass(frozen=True)
class Study:
    """One picture of a patient: its number for the patient, its file, and its index in the set."""

    patient: int
    number: int
    image_path: str
    index: int


def plan_studies(images: int, seed: int) -> list[Study]:
    """Draw which patient has how many pictures (1 to 3), and their paths.

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
    """A set to draw: its folder of pictures, its number of images, its seed and variant."""

    files: Path
    images: int
    seed: int
    variant: Variant


def make_study(study: Study, plan: Plan) -> tuple[list[Row], dict[str, Any]]:
    """Draw one picture, write it under `plan.files`, and return its rows and its content.

    The content is a row of `pictures.parquet`, with a text for `findings.parquet` as `report`.
    """
    seed, variant = plan.seed, plan.variant
    anatomy = sample_anatomy(np.random.default_rng([seed, 1, study.patient]))
    rng = np.random.default_rng([seed, 2, study.patient, study.number])
    # A separate generator for what variants add, so that they change nothing else.
    variant_rng = np.random.default_rng([seed, 4, study.patient, study.number])
    findings = sample_findings(rng)
    anatomy = with_findings(reposition(anatomy, rng), findings, rng)
    size = variant.picture_size(rng, variant_rng)
    path = plan.files / study.image_path.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        draw_chest(anatomy, findings, size, rng).save(temporary, "JPEG", quality=88)
    count = variant.count_of(study.index, plan.images)
    boxes = variant.frame_boxes(anatomy, size)
    quiet = _quiet_regions(variant, anatomy)
    rows = _rows(study, findings, boxes, quiet, rng, variant_rng, variant.words, count)
    content = _content(study, variant, anatomy, findings)
    described = {region["name"]: region["seen"] for region in content["regions"] if region["seen"]}
    sentences = (f"The {name} {list(boxes[name])} {seen}." for name, seen in described.items())
    return rows, content | {"report": " ".join(sentences)}


def _content(
    study: Study, variant: Variant, anatomy: Anatomy, findings: tuple[Finding, ...]
) -> dict[str, Any]:
    """Return a row of `pictures.parquet`; boxes are fractions of width and height.

    `seen` is what a region looks like, null if no question is about it (such as a whole lung).
    """
    described = {*asked_regions(), *_quiet_regions(variant, anatomy)}
    return {
        "image_path": study.image_path,
        "impression": impression(findings),
        "findings": [{"name": finding.name, "region": finding.region} for finding in findings],
        "regions": [
            {
                "name": name,
                "box": list(box),
                "seen": seen_in(name, findings) if name in described else None,
            }
            for name, box in variant.unit_boxes(anatomy).items()
        ],
    }


def _quiet_regions(variant: Variant, anatomy: Anatomy) -> tuple[str, ...]:
    """Return regions that never have a finding and are asked about."""
    return (*QUIET_REGIONS, *(further_boxes(anatomy) if variant.all_regions else ()))


def _rows(
    study: Study,
    findings: tuple[Finding, ...],
    boxes: dict[str, FrameBox],
    quiet: tuple[str, ...],
    rng: np.random.Generator,
    variant_rng: np.random.Generator,
    words: int,
    count: int | None,
) -> list[Row]:
    """Ask different questions about one picture: `count`, or as many as 3 to 5 tries give."""
    rows: dict[str, Row] = {}
    tries = int(rng.integers(3, 6)) if count is None else 40 * count
    for _ in range(tries):
        if len(rows) == count:
            break
        item = ask(findings, rng, quiet)
        names = list(boxes)
        further = [names[index] for index in variant_rng.permutation(len(names))] if words else []
        rows[item.question] = {
            "image_path": study.image_path,
            "question": item.question,
            "question_type": item.question_type,
            "thinkVG": reasoning(item, findings, boxes, rng, further, words),
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
    """Write the dataset under `out` and return its number of rows.

    The bytes do not depend on `workers`. Rows and pictures of an earlier set in `out` are removed.
    """
    variant = variant or Variant()
    plan = Plan(out / "files", images, seed, variant)
    plan.files.mkdir(parents=True, exist_ok=True)
    studies = plan_studies(images, seed)
    _remove_earlier(out, {study.image_path.lstrip("/") for study in studies})
    rows: list[Row] = []
    pictures: list[dict[str, Any]] = []
    reports: list[dict[str, str]] = []
    with tqdm(total=images, desc="drawing", unit="image") as bar:
        draw = partial(make_study, plan=plan)
        for study_rows, content in map_in_processes(draw, studies, workers, CHUNK):
            rows.extend(study_rows)
            reports.append({"image_path": content["image_path"], "findings": content.pop("report")})
            pictures.append(content)
            bar.update()
    with whole_file(out / PICTURES) as temporary:
        pq.write_table(pa.Table.from_pylist(pictures, schema=PICTURES_SCHEMA), temporary)
    with whole_file(out / FINDINGS) as temporary:
        pq.write_table(pa.Table.from_pylist(reports, schema=FINDINGS_SCHEMA), temporary)
    faulty = dirty_rows(rows, dirt, plan.files, seed)
    rows = reach_beyond(rows, variant.beyond, seed)
    rows = [*make_odd(rows, variant.odd, seed), *faulty]
    with whole_file(out / "README.txt") as temporary:
        temporary.write_text(_readme(images, len(rows), seed, variant))
    write_rows(out, rows, variant.form)
    return len(rows)


def _remove_earlier(out: Path, planned: set[str]) -> None:
    """Remove the rows of an earlier set, and its pictures that are not drawn again.

    Phantom patients are in the folders p90 to p99; other folders are left alone.
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


def _readme(images: int, rows: int, seed: int, variant: Variant) -> str:
    if variant.frame is None:
        space = "in pixels of the picture"
    else:
        fitted = {"stretch": "stretched", "pad": "padded"}[variant.fit]
        space = f"with the picture {fitted} to {variant.frame[0]} x {variant.frame[1]} pixels"
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
