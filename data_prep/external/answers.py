"""Importers of sets whose truth is an answer: ReXVQA, VQA-RAD, SLAKE and GEMeX's test rows."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from data_prep.external.items import (
    Item,
    Reading,
    SetFiles,
    SourceRow,
    TrueBox,
    read_records,
    text_of,
)
from data_prep.rows.answers import parse_choices
from data_prep.rows.example import RowFault, clean_text, parse_row
from data_prep.sources.gemex import as_thinkvg
from reward.answers import parse_letters, parse_yes_no
from reward.ground_truth import QuestionType

REXVQA = ("question", "options", "correct_answer", "ImagePath", "ImageViewPosition", "PatientID")
REXVQA_MORE = (
    *("task_name", "category", "subcategory", "class", "correct_answer_explanation", "study_id"),
    *("Findings", "Impression", "Indication", "PatientSex", "PatientAge"),
)
_FRONTAL = ("PA", "AP")
_OPTION_LETTER = re.compile(r"\s*\(?([A-Z])\s*[.:)]\s*")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def read_rexvqa(files: SetFiles, reading: Reading) -> None:
    """Read ReXVQA's test: single choice about the first frontal image of a study.

    The report (Findings, Impression) holds the answer, so it is never shown, to a judge neither.
    """
    path = files.find("test_vqa_data.json")
    for row in read_records(path, reading, REXVQA, REXVQA_MORE):
        record = row.record
        choices = _choices([text_of(option) for option in _list(record["options"])])
        letters = parse_letters(text_of(record["correct_answer"]), choices)
        image = _frontal(record)
        if not text_of(record["question"]):
            reading.reject(row, "no_question")
        elif len(choices) < 2 or letters is None or len(letters) > 1:
            reading.reject(row, "answer_not_in_choices")
        elif image is None:
            reading.leave_out(row, "no_frontal")
        else:
            names = (f"deid_png/{image.removeprefix('deid_png/')}", image)
            _ask(
                reading,
                row,
                names,
                text_of(record["PatientID"]),
                "single",
                min(letters),
                choices=choices,
                label=text_of(record.get("task_name")),
            )


def _choices(options: Sequence[str]) -> dict[str, str]:
    """Return options by the letters that they begin with, where all do; else by their order."""
    marks = [_OPTION_LETTER.match(option) for option in options]
    texts = [
        option[mark.end() if mark else 0 :] for option, mark in zip(options, marks, strict=True)
    ]
    named = {mark[1]: text for mark, text in zip(marks, texts, strict=True) if mark}
    if "".join(sorted(named)) == _LETTERS[: len(options)]:
        return dict(sorted(named.items()))
    return dict(zip(_LETTERS, texts, strict=False))


def _list(value: Any) -> list[Any]:
    """Return a list that may be written as a text; a text that is none is a list of itself."""
    if isinstance(value, str):
        for read in (json.loads, ast.literal_eval):
            try:
                value = read(value)
                break
            except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
                continue
    if isinstance(value, Mapping):
        value = [f"{key}. {text}" for key, text in value.items()]
    if isinstance(value, str) and value.strip():
        return [value]
    return value if isinstance(value, list) else []


def _frontal(record: Mapping[str, Any]) -> str | None:
    """Return the path of the first frontal image, without the folders above the images."""
    paths, views = _list(record["ImagePath"]), _list(record["ImageViewPosition"])
    for path, view in zip(paths, views, strict=False):
        if text_of(view).upper() in _FRONTAL:
            parts = PurePosixPath(text_of(path)).parts
            return "/".join(part for part in parts if part not in ("..", ".", "/"))
    return None


def _ask(
    reading: Reading,
    row: SourceRow,
    images: tuple[str, ...],
    patient: str,
    question_type: QuestionType,
    answer: str,
    **more: Any,
) -> None:
    question = text_of(row.record["question"])
    if choices := more.get("choices"):
        listed = ", ".join(f"{letter}: {text}" for letter, text in choices.items())
        question = f"{question} <choices>: [{listed}]"
    reading.items.append(
        Item(
            rows=[row],
            images=images,
            patient=patient,
            question=question,
            question_type=question_type,
            answer=answer,
            scored="answer",
            **more,
        )
    )


VQA_RAD = ("image_name", "image_organ", "question", "answer", "answer_type", "phrase_type")
VQA_RAD_MORE = (
    *("qid", "qid_linked_id", "question_type", "question_relation", "question_rephrase"),
    *("question_frame", "image_case_url", "evaluation"),
)


def read_vqa_rad(files: SetFiles, reading: Reading) -> None:
    """Read the chest part of VQA-RAD; its test questions have a phrase type `test_…`."""
    path = files.find("VQA_RAD*.json")
    for row in read_records(path, reading, VQA_RAD, VQA_RAD_MORE):
        record = row.record
        split = "test" if text_of(record["phrase_type"]).startswith("test") else "train"
        if text_of(record["image_organ"]).upper() != "CHEST":
            reading.leave_out(row, "not_chest")
        elif not files.wants(split):
            reading.leave_out(row, "other_split")
        else:
            image = text_of(record["image_name"])
            names = (image, f"VQA_RAD Image Folder/{image}")
            _ask_by_type(reading, row, names, PurePosixPath(image).stem)


SLAKE = ("img_name", "question", "answer", "q_lang", "location", "modality", "answer_type")
SLAKE_MORE = ("img_id", "qid", "base_type", "content_type", "triple")


def read_slake(files: SetFiles, reading: Reading) -> None:
    """Read SLAKE's English questions about chest X-rays (modality X-Ray, location Lung)."""
    names = {"val": ("validation.json", "validate.json")}
    path = files.find(*names.get(files.split, (f"{files.split}.json",)))
    for row in read_records(path, reading, SLAKE, SLAKE_MORE):
        record = row.record
        if text_of(record["q_lang"]).lower() != "en":
            reading.leave_out(row, "other_language")
        elif (text_of(record["modality"]), text_of(record["location"])) != ("X-Ray", "Lung"):
            reading.leave_out(row, "not_chest")
        else:
            image = text_of(record["img_name"])
            label = text_of(record.get("content_type"))
            patient = PurePosixPath(image).parent.name
            _ask_by_type(reading, row, (image, f"imgs/{image}"), patient, label=label)


def _ask_by_type(
    reading: Reading,
    row: SourceRow,
    images: tuple[str, ...],
    patient: str,
    label: str = "",
) -> None:
    """Ask a published CLOSED or OPEN question.

    CLOSED is yes or no, or one of two things that the question names ("left or right?"), which are
    offered as choices. If the question does not name them, the answer is compared as a text.
    """
    question, answer = (text_of(row.record[key]) for key in ("question", "answer"))
    answer_type = text_of(row.record["answer_type"]).upper()
    more = {"answer_type": answer_type, "label": label}
    if not question:
        reading.reject(row, "no_question")
    elif not answer:
        reading.reject(row, "no_answer")
    elif answer_type not in ("OPEN", "CLOSED"):
        reading.reject(row, "unknown_question_type")
    elif answer_type == "CLOSED" and answer.lower().rstrip(".") in ("yes", "no"):
        _ask(reading, row, images, patient, "closed", parse_yes_no(answer) or "", **more)
    elif answer_type == "CLOSED" and (pair := alternatives(question, answer)) is not None:
        choices = dict(zip("AB", pair, strict=True))
        letter = "AB"[[_plain(text) for text in pair].index(_plain(answer))]
        _ask(reading, row, images, patient, "single", letter, choices=choices, **more)
    else:
        _ask(reading, row, images, patient, "open", answer, **more)


_WORD = re.compile(r"[\w'/-]+")
_ARTICLES = ("a", "an", "the", "on", "in")


def _plain(text: str) -> str:
    return " ".join(word.lower() for word in _WORD.findall(text) if word.lower() not in _ARTICLES)


def alternatives(question: str, answer: str) -> tuple[str, str] | None:
    """Return the two things around the last "or" of a question, one of which is the answer.

    Both get as many words as the answer: `alternatives("Is it on the left or right side?", "Left")`
    is `("left", "right")`. Phrases must end alike ("left lung or right lung"). None if the answer
    is neither of them.
    """
    before, _, after = _plain(question).rpartition(" or ")
    words = _plain(answer).split()
    pair = before.split()[-len(words) :], after.split()[: len(words)]
    if words not in pair or pair[0] == pair[1] or not all(pair):
        return None
    if len(words) > 1 and pair[0][-1] != pair[1][-1]:
        return None
    return " ".join(pair[0]), " ".join(pair[1])


GEMEX_FILES = {
    "closed_ended": "closed_ended_questions",
    "open_ended": "open_ended_questions",
    "single_choice": "single_choice_questions",
    "multi_choice": "multi_choice_questions",
}


def read_gemex(files: SetFiles, reading: Reading) -> None:
    """Read GEMeX's published test rows, four files of one type each: a check of the format.

    They are read by the code that prepares GEMeX for training; `q_id` repeats across the files.
    """
    for stem, question_type in GEMEX_FILES.items():
        path = files.find(f"{stem}_question.jsonl")
        for number, line in enumerate(path.read_text("utf-8-sig", errors="replace").split("\n")):
            if line.strip():
                row = reading.register(path.name, number, {"row": line})
                try:
                    _ask_gemex(reading, row, question_type)
                except RowFault as fault:
                    reading.reject(row, str(fault))


def _ask_gemex(reading: Reading, row: SourceRow, question_type: str) -> None:
    parsed = parse_row({**as_thinkvg(row.record), "question_type": question_type}, row.number)
    question, _ = clean_text(parsed.question)
    reading.items.append(
        Item(
            rows=[row],
            images=(parsed.image_path,),
            patient=parsed.patient,
            study=parsed.study,
            question=question,
            question_type=parsed.question_type,
            answer=parsed.answer,
            scored="both",
            choices=parsed.choices or parse_choices(question),
            boxes=[TrueBox(row, ref, box) for ref, box in parsed.regions if box is not None],
            label=parsed.question_type,
        )
    )
