"""GEMeX's forms of a row, and raw JSON, converted to ThinkVG's five columns."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.rows.example import RowFault
from data_prep.sources.files import RAW

Record = dict[str, Any]

_MARKS = re.compile(r"<(answer|reason|location)>", re.IGNORECASE)
_CLOSED = re.compile(r"\W*(?:yes|no)\b", re.IGNORECASE)
_LETTER = re.compile(r"\s*[A-Z]\s*[:.)]?\s*")
_IMAGE = re.compile(r"\s*<image>\s*")


class UnknownForm(RowFault):
    """A row in none of the known forms."""


def as_thinkvg(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the row with the columns `image_path, question, question_type, thinkVG, response`.

    Known forms: ThinkVG's; GEMeX's samples (`question`, `choices`, `answer`, `reason`,
    `visual_regions`, `visual_locations`, `image_path`); GEMeX's conversations, with an answer
    `<answer> … <reason> … <location> [[…]]`; and each of them as JSON text in the column `row`.
    Boxes stay in their frame.

    Raises:
        UnknownForm: The row is in no known form, or is not valid JSON.
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
    if "\ufffd" in text:  # put there for bytes that are not UTF-8
        raise UnknownForm("bad_text")
    if "\\ud" in text.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # half of a surrogate pair
            raise UnknownForm("bad_text") from None
    return value


def _from_sample(record: Mapping[str, Any]) -> Record:
    question, choices = _text_or_empty(record.get("question")), record.get("choices")
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
        "thinkVG": _text_or_empty(record.get("reason")),
        "response": _response(_answer(answer), record.get("visual_regions"), locations),
    }


def _kind_of(answer: Any, choices: Any) -> str:
    """Infer the question's type, which GEMeX's test files state only in their names."""
    if isinstance(choices, Sequence) and len(choices):
        is_letter = isinstance(answer, str) and _LETTER.fullmatch(answer)
        return "single_choice_questions" if is_letter else "multi_choice_questions"
    is_closed = isinstance(answer, str) and _CLOSED.fullmatch(answer.rstrip(" ."))
    return "closed_ended_questions" if is_closed else "open_ended_questions"


def _answer(answer: Any) -> str:
    return (
        ", ".join(map(str, answer)) if isinstance(answer, list | tuple) else _text_or_empty(answer)
    )


def _response(answer: str, refs: Any, locations: Any) -> str:
    """Return ThinkVG's response; malformed boxes are written unchanged."""
    if not (refs is None or isinstance(refs, str | list | tuple)):
        raise UnknownForm("unknown_form")
    names = [refs] if isinstance(refs, str) else list(refs or [])
    if not isinstance(locations, list | tuple):
        boxes = [] if locations is None else [locations]
    elif len(locations) == 4 and not any(isinstance(box, list | tuple) for box in locations):
        boxes = [locations]  # one box, not a list of boxes
    else:
        boxes = list(locations)
    if len(names) == 1:
        names = names * len(boxes)
    names += [""] * (len(boxes) - len(names))
    pairs = "".join(
        f"<ref>{_text_or_empty(name)}</ref><box>{_box(box)}</box>"
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
    question = _only_turn(turns, ("human", "user"))
    reply = _only_turn(turns, ("gpt", "assistant"))
    answer, reason, location = _blocks(_text_or_empty(reply))
    return {
        "image_path": record.get("image") or record.get("image_path"),
        "question": _IMAGE.sub(" ", _text_or_empty(question)).strip(),
        "question_type": record.get("q_type") or record.get("question_type"),
        "thinkVG": reason,
        "response": f"<answer>{answer}</answer><location>{location}</location>" if reply else "",
    }


def _only_turn(turns: list[Record], speakers: Sequence[str]) -> Any:
    """Return the only turn of one side; with several, a question would lose its context."""
    values = [turn.get("value") for turn in turns if turn.get("from") in speakers]
    if len(values) > 1:
        raise UnknownForm("unknown_form")
    return values[0] if values else None


def _blocks(text: str) -> tuple[str, str, str]:
    """Return answer, reason and location, each of which extends from its mark to the next one."""
    marks = list(_MARKS.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    blocks = {
        mark[1].lower(): re.sub(r"</\w+>", "", text[mark.end() : end]).strip()
        for mark, end in zip(marks, ends, strict=False)
    }
    location = blocks.get("location", "")
    boxes = f"<box>{location}</box>" if location and location not in ("[]", "[[]]") else ""
    return blocks.get("answer", ""), blocks.get("reason", ""), boxes


def _text_or_empty(value: Any) -> str:
    return value if isinstance(value, str) else ""
