"""Importers of sets whose truth is boxes: MS-CXR, VinDr-CXR, PadChest-GR, Chest ImaGenome.

Columns are those of working loaders of others, so headers are checked. Each question asks where
something is; the answer of such a question is not scored, its boxes are.
"""

import math
import re
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
    read_records,
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
        _ask_where(reading, boxes, (image,), question, phrase, size=size)


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


def _ask_where(
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
        _ask_where(reading, boxes, (places[dicom],), f"Where is the {name}?", name, size=size)


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
        _ask_where(reading, boxes, _names(VINDR_NAMES, image), question, name, patient=image)
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
                _ask_closed(reading, row, _names(VINDR_NAMES, image), name, answer, image)


def _refuse_raters(path: Path, table: list[dict[str, str]]) -> None:
    """Refuse the training part, whose raters would have to be fused first."""
    names = [name for name in (table[0] if table else {}) if name.lower() in ("rad_id", "class_id")]
    if names:
        raise InputError(
            f"{path} has the column {names[0]}, so it is the training part of several raters (or "
            "Kaggle's): give the test's files of PhysioNet"
        )


def _names(patterns: tuple[str, ...], image: str) -> tuple[str, ...]:
    return tuple(pattern.format(image) for pattern in patterns)


def _in_a_sentence(label: str) -> str:
    """Return a label with small letters, except abbreviations such as ILD."""
    return " ".join(word if word.isupper() else word.lower() for word in label.split())


def _ask_closed(
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


PADCHEST_NAMES = ("{}", "PadChest_GR/{}", "Padchest_GR_files/PadChest_GR/{}", "images/{}")
PADCHEST_FINDING = (
    *("sentence_en", "sentence_es", "abnormal", "boxes", "extra_boxes", "labels", "locations"),
    "progression",
)
_NO_LABEL = ("normal", "unchanged", "exclude", "suboptimal study", "unspecified")
_SUFFIX = re.compile(r"\.(?:png|jpe?g)$", re.IGNORECASE)


def read_padchest_gr(files: SetFiles, reading: Reading) -> None:
    """Read PadChest-GR: sentences with boxes in fractions of the picture; a row is a sentence.

    A positive sentence is asked in English and, as a subset, in Spanish. The labels of positive and
    of negative sentences are asked as yes or no, once for each study, which has one image.
    """
    master = files.find("master_table.csv")
    columns = ("StudyID", "ImageID", "split", "PatientID")
    table = read_table(master, Reading(), columns, known=None)
    places = {_stem(row["ImageID"]): (row["split"], row["PatientID"]) for row in table}
    path = files.find("grounded_reports_*.json")
    keys = ("StudyID", "ImageID", "findings")
    studies = Reading()
    number = 0
    for study in read_records(path, studies, keys, ("PreviousStudyID", "PreviousImageID")):
        findings = study.record["findings"]
        if not isinstance(findings, list):
            studies.reject(study, "unknown_form")
            continue
        rows = []
        for finding in findings:
            record = finding if isinstance(finding, dict) else {"value": finding}
            image = {"StudyID": study.record["StudyID"], "ImageID": study.record["ImageID"]}
            rows.append(reading.register(path.name, number, {**image, **record}))
            number += 1
        _read_study(files, reading, rows, text_of(study.record["ImageID"]), places)
    reading.notes += studies.notes
    if studies.rejects:
        reading.notes.append(f"{len(studies.rejects)} studies of {path.name} have no findings")


def _stem(image: str) -> str:
    return _SUFFIX.sub("", image.strip())


def _read_study(
    files: SetFiles,
    reading: Reading,
    rows: list[SourceRow],
    image: str,
    places: Mapping[str, tuple[str, str]],
) -> None:
    split, patient = places.get(_stem(image), ("", ""))
    names = _names(PADCHEST_NAMES, f"{_stem(image)}.png")
    for row in rows:
        if not split:
            reading.reject(row, "no_split")
        elif not files.wants(split):
            reading.leave_out(row, "other_split")
        elif not isinstance(row.record.get("abnormal"), bool):
            reading.reject(row, "unknown_form")
        elif row.record["abnormal"]:
            _ask_sentence(reading, row, names, patient)
    labelled = [row for row in rows if row.key not in reading.rejects and files.wants(split)]
    _ask_labels(reading, labelled, names, patient)


def _ask_labels(
    reading: Reading, rows: list[SourceRow], names: tuple[str, ...], patient: str
) -> None:
    """Ask for each label of a study once; a label that a sentence states is there."""
    positive = {label for row in rows if row.record["abnormal"] for label in _labels(row)}
    asked: set[str] = set()
    for row in rows:
        for label in _labels(row):
            is_present = row.record["abnormal"]
            if not is_present and label in positive:
                reading.leave_out(row, "stated_elsewhere")
            elif label in asked:
                reading.leave_out(row, "repeat")
            else:
                asked.add(label)
                answer = "Yes" if is_present else "No"
                _ask_closed(reading, row, names, label, answer, patient)
        if not _labels(row):
            reading.leave_out(row, "no_label")


def _labels(row: SourceRow) -> list[str]:
    """Return the labels of a sentence that name a finding; negative ones often have none."""
    labels = row.record.get("labels")
    texts = [text_of(label) for label in labels] if isinstance(labels, list) else []
    return [label for label in dict.fromkeys(texts) if label and label.lower() not in _NO_LABEL]


def _ask_sentence(reading: Reading, row: SourceRow, names: tuple[str, ...], patient: str) -> None:
    boxes, extra = (_boxes(row.record.get(key)) for key in ("boxes", "extra_boxes"))
    if boxes is None or extra is None:
        reading.reject(row, "bad_box")
    elif not boxes:
        reading.leave_out(row, "no_box")
    else:
        label = next(iter(_labels(row)), "finding")
        truth = [TrueBox(row, label, box) for box in boxes]
        more = {"patient": patient, "second_reader": extra}
        for subset, key, form in (
            ("", "sentence_en", "Where is: {}?"),
            ("es", "sentence_es", "¿Dónde está: {}?"),
        ):
            sentence = text_of(row.record.get(key)).rstrip(" .?")
            if sentence:
                question = form.format(sentence)
                _ask_where(reading, truth, names, question, sentence, subset=subset, **more)


def _boxes(value: Any) -> list[Box] | None:
    """Return boxes, none for a missing key, None for anything but lists of four numbers."""
    if value is None:
        return []
    try:
        boxes = [(float(x1), float(y1), float(x2), float(y2)) for x1, y1, x2, y2 in value]
    except (OverflowError, TypeError, ValueError):
        return None
    return boxes if all(math.isfinite(side) for box in boxes for side in box) else None
