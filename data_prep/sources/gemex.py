"""GEMeX's ways of writing a row, and raw JSON, brought to ThinkVG's five columns."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.sources.base import RAW

Record = dict[str, Any]

_MARKS = re.compile(r"<(answer|reason|location)>", re.IGNORECASE)
_CLOSED = re.compile(r"\W*(?:yes|no)\b", re.IGNORECASE)
_LETTER = re.compile(r"\s*[A-Z]\s*[:.)]?\s*")
_IMAGE = re.compile(r"\s*<image>\s*")


class UnknownForm(Exception):
    """A row that is in none of the known forms; the text is its reject code."""


def as_thinkvg(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with ThinkVG's columns `image_path, question, question_type, thinkVG, response`.

    Known forms: ThinkVG's own; GEMeX's samples (`question`, `choices`, `answer`, `reason`,
    `visual_regions`, `visual_locations`, `image_path`); GEMeX's conversations, whose answer reads
    `<answer> … <reason> … <location> [[…]]`; and any of them as JSON text in the column `row`.
    Boxes stay in the frame in which they are written. Raises UnknownForm for any other.
    """
    if RAW in record and len(record) == 1:
        record = _load(record[RAW])
    if record.get("conversations") is not None:
        return _from_conversation(record)
    if "visual_locations" in record or "visual_regions" in record:
        return _from_sample(record)
    if "response" in record or "thinkVG" in record:
        return record
    raise UnknownForm("unknown_form")


def _load(text: Any) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        raise UnknownForm("bad_json") from None
    if not isinstance(value, dict):
        raise UnknownForm("unknown_form")
    if "\ufffd" in text:  # what reading put in the place of bytes that are no UTF-8
        raise UnknownForm("bad_text")
    if "\\ud" in text.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # half of a surrogate pair
            raise UnknownForm("bad_text") from None
    return value


def _from_sample(record: Mapping[str, Any]) -> Record:
    question, choices = _text(record.get("question")), record.get("choices")
    if isinstance(choices, Mapping):
        choices = [f"{letter}: {text}" for letter, text in choices.items()]
    if question and isinstance(choices, Sequence) and len(choices) and "<choices>" not in question:
        listed = choices if isinstance(choices, str) else ", ".join(map(str, choices))
        question = f"{question} <choices>: [{listed.strip('[]')}]"
    answer, locations = record.get("answer"), record.get("visual_locations")
    kind = record.get("question_type") or record.get("q_type") or _kind_of(answer, choices)
    return {
        "image_path": record.get("image_path") or record.get("image"),
        "question": question,
        "question_type": kind,
        "thinkVG": _text(record.get("reason")),
        "response": _response(_answer(answer), record.get("visual_regions"), locations),
    }


def _kind_of(answer: Any, choices: Any) -> str:
    """The question's type, which GEMeX's test files say by their name only."""
    if isinstance(choices, Sequence) and len(choices):
        is_one = isinstance(answer, str) and _LETTER.fullmatch(answer)
        return "single_choice_questions" if is_one else "multi_choice_questions"
    is_closed = isinstance(answer, str) and _CLOSED.fullmatch(answer.rstrip(" ."))
    return "closed_ended_questions" if is_closed else "open_ended_questions"


def _answer(answer: Any) -> str:
    return ", ".join(map(str, answer)) if isinstance(answer, list | tuple) else _text(answer)


def _response(answer: str, refs: Any, locations: Any) -> str:
    """ThinkVG's response; boxes that are no list of four numbers are written as they are."""
    if not (refs is None or isinstance(refs, str | list | tuple)):
        raise UnknownForm("unknown_form")
    names = [refs] if isinstance(refs, str) else list(refs or [])
    boxes = list(locations) if isinstance(locations, list | tuple) else []
    if len(boxes) == 4 and not any(isinstance(box, list | tuple) for box in boxes):
        boxes = [boxes]
    if locations is not None and not isinstance(locations, list | tuple):
        boxes = [locations]
    if len(names) == 1:
        names = names * len(boxes)
    names += [""] * (len(boxes) - len(names))
    pairs = "".join(
        f"<ref>{_text(name)}</ref><box>{_box(box)}</box>"
        for name, box in zip(names, boxes, strict=False)
    )
    return f"<answer>{answer}</answer><location>{pairs}</location>" if answer else ""


def _box(box: Any) -> str:
    if not isinstance(box, list | tuple):
        return str(box)
    return "[" + ", ".join(map(_number, box)) + "]"


def _number(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return str(int(value))
    return str(value)


def _from_conversation(record: Mapping[str, Any]) -> Record:
    turns = record["conversations"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise UnknownForm("unknown_form")
    asked, told = _only(turns, ("human", "user")), _only(turns, ("gpt", "assistant"))
    answer, reason, location = _blocks(_text(told))
    return {
        "image_path": record.get("image") or record.get("image_path"),
        "question": _IMAGE.sub(" ", _text(asked)).strip(),
        "question_type": record.get("q_type") or record.get("question_type"),
        "thinkVG": reason,
        "response": f"<answer>{answer}</answer><location>{location}</location>" if told else "",
    }


def _only(turns: list[Record], names: Sequence[str]) -> Any:
    """What one side says. With more than one turn a question would lose its context, or be lost."""
    said = [turn.get("value") for turn in turns if turn.get("from") in names]
    if len(said) > 1:
        raise UnknownForm("unknown_form")
    return said[0] if said else None


def _blocks(text: str) -> tuple[str, str, str]:
    """Answer, reason and location: each goes from its mark to the next one."""
    marks = list(_MARKS.finditer(text))
    if not marks:
        return "", "", ""
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    found = {
        mark[1].lower(): re.sub(r"</\w+>", "", text[mark.end() : end]).strip()
        for mark, end in zip(marks, ends, strict=True)
    }
    location = found.get("location", "")
    boxed = f"<box>{location}</box>" if location and location not in ("[]", "[[]]") else ""
    return found.get("answer", ""), found.get("reason", ""), boxed


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
