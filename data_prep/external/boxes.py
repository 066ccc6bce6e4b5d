"""Importers of sets whose truth is boxes: MS-CXR, VinDr-CXR, Chest ImaGenome.

Columns are those of working loaders of others, so headers are checked. Each question asks where
something is; the answer of such a question is not scored, its boxes are.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.external.items import (
    Item,
    Reading,
    SetFiles,
    SourceRow,
    TrueBox,
    numbers_of,
    read_json,
    read_table,
    size_of,
    text_of,
)
from data_prep.pictures import patient_and_study
from data_prep.program import InputError
from reward.boxes_in_text import Box

MS_CXR = (
    *("dicom_id", "category_name", "label_text", "path"),
    *("x", "y", "w", "h", "image_width", "image_height"),
)


def read_ms_cxr(files: SetFiles, reading: Reading) -> None:
    """Read MS-CXR: a CSV of one box a row, or the same as COCO's JSON; boxes are x, y, w, h."""
    path = files.find("MS_CXR_Local_Alignment_v*.csv", "MS_CXR_Local_Alignment_v*.json")
    if path.suffix == ".json":
        rows = list(_coco_rows(path, reading))
    else:
        table = read_table(path, reading, MS_CXR, known=("split",))
        rows = [reading.register(path.name, number, row) for number, row in enumerate(table)]
    if files.mimic_split is None and not any(row.record.get("split") for row in rows):
        reading.notes.append(f"{path.name} has no column split: all of its rows are used")
    for (_, phrase), boxes in _phrases(files, reading, rows).items():
        record = boxes[0].row.record
        image, question = text_of(record["path"]), f"Where is: {phrase.rstrip(' .?')}?"
        size = size_of(record, "image_width", "image_height")
        ask_where(reading, boxes, (image,), question, phrase, size=size)


def _phrases(
    files: SetFiles, reading: Reading, rows: list[SourceRow]
) -> dict[tuple[str, str], list[TrueBox]]:
    """Return the boxes of each picture and phrase that is wanted."""
    in_mimic_test = mimic_test(files)
    phrases: dict[tuple[str, str], list[TrueBox]] = defaultdict(list)
    for row in rows:
        dicom, split = text_of(row.record["dicom_id"]), text_of(row.record.get("split"))
        is_wanted = not split or files.wants(split)
        if not (is_wanted if in_mimic_test is None else dicom in in_mimic_test):
            reading.leave_out(row, "other_split")
        elif patient_and_study(text_of(row.record["path"])) is None:
            reading.reject(row, "no_patient")
        else:
            x, y, width, height = _sides(reading, row, ("x", "y", "w", "h"))
            box = TrueBox(row, text_of(row.record["category_name"]), (x, y, x + width, y + height))
            phrases[dicom, text_of(row.record["label_text"])].append(box)
    return phrases


def _sides(reading: Reading, row: SourceRow, names: Sequence[str]) -> list[float]:
    """Return the four numbers of a box; reject the row if one is none.

    The row stays in its question, which is then not asked: its truth would lack a box.
    """
    sides = numbers_of(row.record, names)
    if sides is None:
        reading.reject(row, "bad_box")
    return sides or [0.0] * 4


def _coco_rows(path: Path, reading: Reading) -> Iterable[SourceRow]:
    """Yield the annotations of MS-CXR's JSON as rows of its CSV.

    A picture has several entries in `images`, so boxes are joined by the DICOM's name.
    """
    content = read_json(path)
    if not isinstance(content, dict) or any(
        not isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise InputError(f"{path} is not COCO's JSON with images, annotations and categories")
    images, names = (
        {str(entry.get("id")): entry for entry in content[key] if isinstance(entry, dict)}
        for key in ("images", "categories")
    )
    for number, annotation in enumerate(content["annotations"]):
        annotation = annotation if isinstance(annotation, dict) else {"value": annotation}
        image = images.get(str(annotation.get("image_id")), {})
        is_whole = {"path", "width", "height"} <= image.keys()
        if not is_whole or not isinstance(image["path"], str):
            reading.reject(reading.register(path.name, number, annotation), "unknown_form")
            continue
        category = names.get(str(annotation.get("category_id")), {}).get("name")
        yield reading.register(path.name, number, _as_in_csv(annotation, image, category))


def _as_in_csv(
    annotation: Mapping[str, Any], image: Mapping[str, Any], category: Any
) -> dict[str, Any]:
    box = annotation.get("bbox")
    return {
        **(dict(zip("xywh", box, strict=True)) if isinstance(box, list) and len(box) == 4 else {}),
        "dicom_id": PurePosixPath(image["path"]).stem,
        "category_name": category,
        "label_text": annotation.get("label_text"),
        "path": image["path"],
        "image_width": image["width"],
        "image_height": image["height"],
        "split": annotation.get("split"),
    }


def mimic_test(files: SetFiles) -> set[str] | None:
    """Return the DICOMs of MIMIC-CXR's test split, None without `--mimic-split`."""
    if files.mimic_split is None:
        return None
    columns = ("dicom_id", "subject_id", "study_id", "split")
    rows = read_table(files.mimic_split, Reading(), columns, known=None)
    return {row["dicom_id"] for row in rows if row["split"] == "test"}


def ask_where(
    reading: Reading,
    boxes: list[TrueBox],
    images: tuple[str, ...],
    question: str,
    answer: str,
    **more: Any,
) -> None:
    """Ask for all boxes of one phrase, which is the answer; rows that repeat a box are left out.

    The patient is named by `more`, or by the path of the picture in MIMIC-CXR's layout.
    """
    if "patient" not in more:
        more["patient"], more["study"] = patient_and_study(images[0]) or ("", "")
    if not answer:
        for box in boxes:
            reading.reject(box.row, "no_question")
        return
    boxes = _different(reading, boxes)
    reading.items.append(
        Item(
            rows=[box.row for box in boxes],
            images=images,
            question=question,
            question_type="open",
            answer=answer,
            scored="boxes",
            boxes=boxes,
            label=boxes[0].ref,
            **more,
        )
    )


def _different(reading: Reading, boxes: list[TrueBox]) -> list[TrueBox]:
    first: dict[Box, TrueBox] = {}
    for box in boxes:
        if first.setdefault(box.box, box) is not box:
            reading.leave_out(box.row, "repeat")
    return list(first.values())


IMAGENOME_GOLD = (
    *("image_id", "bbox_name", "original_x1", "original_x2", "original_y1", "original_y2"),
    *("original_width", "original_height"),
)
IMAGENOME_MORE = (
    *("x1", "y1", "x2", "y2", "width", "height", "annot_id", "annotator"),
    *("coord224", "coord_original"),
)


def read_imagenome(files: SetFiles, reading: Reading) -> None:
    """Read Chest ImaGenome's gold boxes of anatomy, to check that regions are found at their place.

    The columns in the original picture's pixels are used, not those of the 224 frame. Patients are
    named by `splits/images_to_avoid.csv` of its silver part, or by MIMIC-CXR's table of splits.
    """
    path = files.find("gold_bbox_coordinate_annotations_1000images.csv")
    places = _mimic_paths(files)
    in_mimic_test = mimic_test(files)
    regions: dict[tuple[str, str], list[TrueBox]] = defaultdict(list)
    for number, record in enumerate(read_table(path, reading, IMAGENOME_GOLD, IMAGENOME_MORE)):
        row = reading.register(path.name, number, record)
        dicom = record["image_id"].removesuffix(".dcm")
        corners = [f"original_{corner}" for corner in ("x1", "y1", "x2", "y2")]
        if in_mimic_test is not None and dicom not in in_mimic_test:
            reading.leave_out(row, "other_split")
        elif dicom not in places:
            reading.reject(row, "no_patient")
        else:
            x1, y1, x2, y2 = _sides(reading, row, corners)
            name = record["bbox_name"].strip()
            regions[dicom, name].append(TrueBox(row, name, (x1, y1, x2, y2)))
    for (dicom, name), boxes in regions.items():
        size = size_of(boxes[0].row.record, "original_width", "original_height")
        ask_where(reading, boxes, (places[dicom],), f"Where is the {name}?", name, size=size)


def _mimic_paths(files: SetFiles) -> dict[str, str]:
    """Return the path in MIMIC-CXR's layout of each DICOM that a table names."""
    path = files.mimic_split or files.find("images_to_avoid.csv")
    rows = read_table(path, Reading(), ("dicom_id", "subject_id", "study_id"), known=None)
    return {
        row["dicom_id"]: f"files/p{row['subject_id'][:2]}/p{row['subject_id']}"
        f"/s{row['study_id']}/{row['dicom_id']}.jpg"
        for row in rows
    }


VINDR_NAMES = ("test/{}.dicom", "{}.dicom", "test/{}.png", "{}.png", "test/{}.jpg", "{}.jpg")
VINDR_LABELS = 28
_NO_FINDING, _OTHER = "no finding", ("other disease", "other diseases")


def read_vindr_cxr(files: SetFiles, reading: Reading) -> None:
    """Read the test of VinDr-CXR: boxes by consensus of five, and 28 labels of each image.

    Each box row and each label of an image is a row here. Labels are asked as yes or no.
    """
    path = files.find("annotations_test.csv")
    corners = ("x_min", "y_min", "x_max", "y_max")
    table = read_table(path, reading, ("image_id", "class_name", *corners), ("rad_id", "rad_ID"))
    _refuse_raters(path, table)
    found: dict[tuple[str, str], list[TrueBox]] = defaultdict(list)
    for number, record in enumerate(table):
        row = reading.register(path.name, number, record)
        name = record["class_name"].strip()
        if name.lower() == _NO_FINDING:
            reading.leave_out(row, "no_box")
        elif name.lower() in _OTHER:
            reading.leave_out(row, "asks_nothing")
        else:
            x1, y1, x2, y2 = _sides(reading, row, corners)
            found[record["image_id"], name].append(TrueBox(row, name, (x1, y1, x2, y2)))
    for (image, name), boxes in found.items():
        question = f"Where is the {_in_a_sentence(name)}?"
        ask_where(reading, boxes, image_names(VINDR_NAMES, image), question, name, patient=image)
    _read_vindr_labels(files.find("image_labels_test.csv"), reading)


def _read_vindr_labels(path: Path, reading: Reading) -> None:
    table = read_table(path, reading, ("image_id",), known=None)
    _refuse_raters(path, table)
    labels = [name for name in (table[0] if table else {}) if name != "image_id"]
    if len(labels) != VINDR_LABELS:
        reading.notes.append(
            f"{path.name} has {len(labels)} columns of labels, the published file {VINDR_LABELS}: "
            f"each is asked as a finding ({', '.join(labels)})"
        )
    number = 0
    asked: set[tuple[str, str, str]] = set()
    for record in table:
        image = record["image_id"]
        for name, value in record.items():
            if name == "image_id":
                continue
            row = reading.register(path.name, number, {"image_id": image, name: value})
            number += 1
            if name.strip().lower() in _OTHER:
                reading.leave_out(row, "asks_nothing")
            elif numbers_of(record, (name,)) not in ([0.0], [1.0]):
                reading.reject(row, "no_answer")
            elif (image, name, value) in asked:
                reading.leave_out(row, "repeat")
            else:
                asked.add((image, name, value))
                answer = "Yes" if float(value) else "No"
                ask_closed(reading, row, image_names(VINDR_NAMES, image), name, answer, image)


def _refuse_raters(path: Path, table: list[dict[str, str]]) -> None:
    """Refuse the training part, whose raters would have to be fused first."""
    names = [name for name in (table[0] if table else {}) if name.lower() in ("rad_id", "class_id")]
    if names:
        raise InputError(
            f"{path} has the column {names[0]}, so it is the training part of several raters (or "
            "Kaggle's): give the test's files of PhysioNet"
        )


def image_names(patterns: tuple[str, ...], image: str) -> tuple[str, ...]:
    return tuple(pattern.format(image) for pattern in patterns)


def _in_a_sentence(label: str) -> str:
    """Return a label with small letters, except abbreviations such as ILD."""
    return " ".join(word if word.isupper() else word.lower() for word in label.split())


def ask_closed(
    reading: Reading,
    row: SourceRow,
    images: tuple[str, ...],
    label: str,
    answer: str,
    patient: str,
    **more: Any,
) -> None:
    question = f"Is there {_in_a_sentence(label.strip())}?"
    if label.strip().lower() == _NO_FINDING:
        question = "Is this chest X-ray normal?"
    reading.items.append(
        Item(
            rows=[row],
            images=images,
            patient=patient,
            question=question,
            question_type="closed",
            answer=answer,
            scored="answer",
            label=label.strip(),
            answer_type="CLOSED",
            **more,
        )
    )
