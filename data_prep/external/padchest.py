"""Importer of PadChest-GR, whose truth is boxes of sentences, and labels."""

import math
import re
from collections.abc import Mapping
from typing import Any

from data_prep.external.boxes import ask_closed, ask_where, image_names
from data_prep.external.items import (
    Reading,
    SetFiles,
    SourceRow,
    TrueBox,
    read_records,
    read_table,
    text_of,
)
from reward.boxes_in_text import Box

PADCHEST_NAMES = ("{}", "PadChest_GR/{}", "Padchest_GR_files/PadChest_GR/{}", "images/{}")
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
    names = image_names(PADCHEST_NAMES, f"{_stem(image)}.png")
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
    # Rejected sentences count: what they state is not absent.
    not_negative = (row for row in rows if row.record.get("abnormal") is not False)
    stated = {label for row in not_negative for label in _labels(row)}
    _ask_labels(reading, labelled, stated, names, patient)


def _ask_labels(
    reading: Reading,
    rows: list[SourceRow],
    stated: set[str],
    names: tuple[str, ...],
    patient: str,
) -> None:
    """Ask for each label of a study once; one of `stated` is not asked of a negative sentence."""
    asked: set[str] = set()
    for row in rows:
        for label in _labels(row):
            is_present = row.record["abnormal"]
            if not is_present and label in stated:
                reading.leave_out(row, "stated_elsewhere")
            elif label in asked:
                reading.leave_out(row, "repeat")
            else:
                asked.add(label)
                answer = "Yes" if is_present else "No"
                ask_closed(reading, row, names, label, answer, patient)
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
                ask_where(reading, truth, names, question, sentence, subset=subset, **more)


def _boxes(value: Any) -> list[Box] | None:
    """Return boxes, none for a missing key, None for anything but lists of four numbers."""
    if value is None:
        return []
    try:
        boxes = [(float(x1), float(y1), float(x2), float(y2)) for x1, y1, x2, y2 in value]
    except (OverflowError, TypeError, ValueError):
        return None
    return boxes if all(math.isfinite(side) for box in boxes for side in box) else None
