"""From the questions of an external set to this recipe's rollout parquet: `import_set`.

read the set's files  ->  choose the questions  ->  find the pictures, 8-bit copies where needed
map every box once  ->  give each source row its fate  ->  write test.parquet, rejects and audit
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.audit import build_audit, choose_rows, read_rows, write_audit
from data_prep.convert.examples import ABOUT, EXAMPLES, about, verl_columns
from data_prep.convert.training_files import (
    REJECTS,
    check_whole,
    publish,
    work_folder,
    write_training_files,
)
from data_prep.coordinates import Fit, Frame, scale_box
from data_prep.earlier import read_splits
from data_prep.external.answers import read_gemex, read_rexvqa, read_slake, read_vqa_rad
from data_prep.external.boxes import (
    read_imagenome,
    read_ms_cxr,
    read_vindr_cxr,
)
from data_prep.external.items import (
    Item,
    Reading,
    SetFiles,
    account,
    reject_bad_texts,
    write_rejects,
)
from data_prep.external.padchest import read_padchest_gr
from data_prep.external.set_pictures import find_set_pictures
from data_prep.pictures import MISSING, Picture, missing_urls
from data_prep.pipeline import file_metadata
from data_prep.program import InputError, alone_in, write_list
from data_prep.rows.box_forms import split_at_boxes
from data_prep.rows.example import Mapper, ParsedRow, RowFault, clean_text
from data_prep.rows.prompts import load_templates
from data_prep.settings import Settings
from reward.response import Region

SPLITS = ("test", "val", "train", "all")
ORIGINAL_PIXELS = Frame(None)
INDICES = 10_000_000
"""Each set numbers its questions from a multiple of this, so that files of sets can be joined."""


@dataclass(frozen=True)
class Importer:
    """A set: the function that reads it, and what is special about it."""

    read: Callable[[SetFiles, Reading], None]
    frame: Frame = ORIGINAL_PIXELS  # of its boxes
    is_mimic: bool = False  # its patients may be in the training data
    is_dicom: bool = False  # its boxes are in pixels of DICOM files, whose size it does not state
    splits: tuple[str, ...] = ("test",)  # its parts, as `--split` names them
    boxes_in_texts: bool = False  # else four numbers in brackets count ribs and the like
    note: str = ""


SETS: dict[str, Importer] = {
    "ms_cxr": Importer(read_ms_cxr, is_mimic=True, splits=SPLITS),
    "vindr_cxr": Importer(read_vindr_cxr, is_dicom=True),
    "padchest_gr": Importer(read_padchest_gr, Frame((1, 1)), splits=SPLITS),
    "rexvqa": Importer(read_rexvqa),
    "vqa_rad": Importer(read_vqa_rad, splits=("test", "train", "all")),
    "slake": Importer(read_slake, splits=("test", "val", "train")),
    "imagenome": Importer(
        read_imagenome,
        is_mimic=True,
        note="ThinkVG's regions derive from this set: a check of the frame, not a test of transfer",
    ),
    "gemex": Importer(
        read_gemex,
        Frame((224, 224), "pad"),
        is_mimic=True,
        boxes_in_texts=True,
        note="80 published rows: a check of the format, not a benchmark",
    ),
}

_TEXTS = ("set", "scored", "answer_type", "label")
_BOXES = pa.list_(pa.list_(pa.float64()))
_MORE = [
    *((name, pa.string()) for name in _TEXTS),
    ("original_size", pa.list_(pa.int64())),  # (width, height) of the original picture
    ("original_boxes", _BOXES),  # x1, y1, x2, y2 in its pixels, in the order of the truth's regions
    ("second_reader", _BOXES),  # the same of another reader, where the set has one
]
MORE_INFO = tuple(name for name, _ in _MORE)
QUESTIONS = pa.schema([*EXAMPLES, *(pa.field(name, kind) for name, kind in _MORE)])


@dataclass(frozen=True)
class Choice:
    """Which set is imported, from which files, and which of its questions are wanted."""

    name: str
    files: SetFiles
    sizes: Path | None  # table of the originals' sizes
    train: Path | None  # folder of the training data
    keep_shared: bool
    exclude_list: Path | None  # to write the patients to
    fit: str | None

    @property
    def importer(self) -> Importer:
        importer = SETS[self.name]
        if self.fit is None or importer.frame.size is None:
            return importer
        fit: Fit = "pad" if self.fit == "pad" else "stretch"
        return replace(importer, frame=Frame(importer.frame.size, fit))


def import_set(choice: Choice, settings: Settings) -> dict[str, Any]:
    """Write `test.parquet`, `rejects.parquet` and the audit of a set; return the audit."""
    if (settings.out / "train.parquet").exists():
        raise InputError(f"--out {settings.out} holds training files: name another folder")
    importer, reading = choice.importer, Reading()
    importer.read(choice.files, reading)
    reject_bad_texts(reading)
    if not reading.items:
        raise InputError(
            f"--source {choice.files.source} gives no question: of {len(reading.rows)} rows, "
            f"{_in_words(reading.rejects)} rejected and {_in_words(reading.left_out)} left out"
        )
    if choice.exclude_list is not None:
        write_list(choice.exclude_list, sorted({item.patient for item in reading.items}))
    shared = _leave_out_shared(choice, reading)
    _limit(reading, settings)
    settings.out.mkdir(parents=True, exist_ok=True)
    with alone_in(settings.out), work_folder(settings.out) as work:
        pictures, names = find_set_pictures(
            reading.items, settings, importer.is_dicom, choice.sizes
        )
        limits = settings.min_pixels, settings.max_pixels
        mapper = Mapper(importer.frame, settings.family, *limits, importer.boxes_in_texts)
        questions, used = _convert(choice, settings, reading, mapper, pictures, names)
        folder = work / "files"
        folder.mkdir()
        audit = _write(choice, settings, reading, questions, pictures, folder)
        audit |= {"shared_with_training": shared, **account(reading, used)}
        write_audit(folder, audit, _shown(questions))
        publish(settings.out, folder)
    if not questions.num_rows:
        raise InputError(
            f"no question of {choice.name} is usable: {_in_words(reading.rejects)} rejected, "
            f"{_in_words(reading.left_out)} left out; see {settings.out / 'audit.html'}"
        )
    return audit


def _in_words(fates: Mapping[Any, str]) -> str:
    counts = Counter(fates.values()).most_common()
    return ", ".join(f"{count} {reason}" for reason, count in counts) or "none"


def train_patients(folder: Path) -> set[str]:
    """Return the patients of the training and the validation split in a folder."""
    try:
        splits = read_splits(folder)
    except InputError as error:
        raise InputError(f"--train: {error}") from None
    return {patient for patient, split in splits.items() if split != "test"}


def _leave_out_shared(choice: Choice, reading: Reading) -> dict[str, int] | None:
    """Drop the questions about patients of the training data; return counts, None if unknown."""
    if not choice.importer.is_mimic:
        return {"patients": 0, "questions": 0}
    if choice.train is None:
        reading.notes.append(
            "its images are of MIMIC-CXR, and whether its patients were trained on was not "
            "checked: give --train, or --exclude-list ahead of training"
        )
        return None
    trained = train_patients(choice.train)
    is_shared = [item.patient in trained for item in reading.items]
    patients = {item.patient for item in reading.items if item.patient in trained}
    if not choice.keep_shared:
        _drop(reading, is_shared, "shared_patient")
    return {"patients": len(patients), "questions": sum(is_shared)}


def _drop(reading: Reading, is_dropped: Iterable[bool], reason: str) -> None:
    kept: list[Item] = []
    for item, dropped in zip(reading.items, is_dropped, strict=True):
        if dropped:
            for row in item.rows:
                reading.leave_out(row, reason)
        else:
            kept.append(item)
    reading.items = kept


def _limit(reading: Reading, settings: Settings) -> None:
    count = len(reading.items)
    if settings.limit is not None and settings.limit < count:
        chosen = set(random.Random(settings.seed).sample(range(count), settings.limit))
        _drop(reading, (position not in chosen for position in range(count)), "limit")


def _convert(
    choice: Choice,
    settings: Settings,
    reading: Reading,
    mapper: Mapper,
    pictures: Mapping[str, Picture | str],
    names: list[str],
) -> tuple[pa.Table, set[tuple[str, int]]]:
    """Return the questions that are usable, and the keys of their rows; reject the other rows.

    A faulty box rejects its row, and a question with a rejected row is not asked.
    """
    placed = list(zip(reading.items, names, strict=True))
    for item, name in placed:
        _reject_faulty(item, pictures[name], mapper, reading)
    templates = load_templates(settings.prompts)
    first = INDICES * (1 + list(SETS).index(choice.name))
    rows: list[dict[str, Any]] = []
    used: set[tuple[str, int]] = set()
    for index, (item, name) in enumerate(placed, first):
        picture = pictures[name]
        if isinstance(picture, str) or not item.is_whole(reading):
            continue
        set_name = f"{choice.name}:{item.subset}" if item.subset else choice.name
        try:
            example = mapper.example(_parsed(choice, item, index, name), picture)
        except RowFault as fault:  # a box in a text; those of the truth are sound
            for row in item.rows:
                reading.reject(row, str(fault))
            continue
        columns = verl_columns(example, mapper, templates, data_source=set_name)
        columns |= about(example) | _more(item, mapper, picture)
        kind, patient = item.question_type, example.parsed.patient
        columns |= {"index": index, "patient": patient, "question_type": kind, "set": set_name}
        rows.append(columns)
        used.update(row.key for row in item.rows)
    return pa.Table.from_pylist(rows, QUESTIONS), used


def _reject_faulty(item: Item, picture: Picture | str, mapper: Mapper, reading: Reading) -> None:
    try:
        if isinstance(picture, str):
            raise RowFault(picture)
        if item.size is not None and item.size != picture.original:
            raise RowFault("size_mismatch")
        image_size = mapper.model_size(picture.size)
    except RowFault as fault:
        for row in item.rows:
            reading.reject(row, str(fault))
        return
    for truth in item.boxes:
        try:
            mapper.written(truth.box, picture, image_size)
        except RowFault as fault:
            reading.reject(truth.row, str(fault))


def _parsed(choice: Choice, item: Item, index: int, image_path: str) -> ParsedRow:
    question, tags = clean_text(item.question)
    patient = item.patient
    return ParsedRow(
        source_index=index,
        image_path=image_path,
        patient=patient if choice.importer.is_mimic else f"{choice.name}:{patient}",
        study=item.study,
        question=question,
        question_type=item.question_type,
        choices=item.choices,
        answer=item.answer,
        reasoning="",
        split_reasoning=split_at_boxes(""),
        regions=tuple(Region(truth.ref, truth.box) for truth in item.boxes),
        media_tags=tags,
        beyond=(),
    )


def _more(item: Item, mapper: Mapper, picture: Picture) -> dict[str, Any]:
    """Return what evaluation needs of a question beside the columns of training."""

    def in_original(boxes: Iterable[Any]) -> list[list[float]]:
        units = (mapper.frame.to_unit(box, picture.original) for box in boxes)
        return [list(scale_box(unit, picture.original)) for unit in units]

    return {
        "scored": item.scored,
        "answer_type": item.answer_type,
        "label": item.label,
        "original_size": list(picture.original),
        "original_boxes": in_original(truth.box for truth in item.boxes),
        "second_reader": in_original(item.second_reader),
    }


def _write(
    choice: Choice,
    settings: Settings,
    reading: Reading,
    questions: pa.Table,
    pictures: Mapping[str, Picture | str],
    folder: Path,
) -> dict[str, Any]:
    """Write the files of the import to a folder, and return the audit without the rows' fates."""
    metadata = {
        **file_metadata(settings, load_templates(settings.prompts), choice.importer.frame),
        "set": choice.name,
    }
    masks = {"test": pa.repeat(pa.scalar(True), questions.num_rows)} if questions.num_rows else {}
    files = write_training_files(folder, questions, masks, settings, metadata, MORE_INFO)
    check_whole(folder, files)
    write_rejects(folder / REJECTS, reading)
    missing = missing_urls(pictures)
    write_list(folder / MISSING, missing)
    examples = questions.select(ABOUT)
    accepted = examples.append_column("split", pa.repeat(pa.scalar("test"), questions.num_rows))
    return {
        "parameters": _parameters(choice, settings, metadata),
        "doubts": [*filter(None, [choice.importer.note]), *reading.notes],
        **build_audit(settings, questions.num_rows, examples, accepted, pictures),
        "sets": dict(Counter(questions["set"].to_pylist())),
        "missing_images_listed": len(missing),
        "files": files,
    }


def _parameters(choice: Choice, settings: Settings, metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **metadata,
        **settings.model_dump(mode="json", include={"images", "limit"}),
        "source": [str(choice.files.source)],
        "split": choice.files.split,
        "train": str(choice.train or ""),
        "frame_evidence": "as published",
    }


def _shown(questions: pa.Table) -> list[dict[str, Any]]:
    """Return some questions of each type, for the page."""
    count = questions.num_rows
    if not count:
        return []
    position = questions.schema.get_field_index("index")
    numbered = questions.set_column(position, "index", pa.array(range(count), pa.int64()))
    return read_rows(numbered, choose_rows(numbered))
