"""The rows of a phantom set: files in three forms, unusual but valid rows, and faulty rows."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_prep.program import SYNTHETIC, whole_file
from data_prep.rows.answers import parse_choices
from data_prep.sources.files import COLUMNS
from reward.response import parse_response

Row = dict[str, str | None]
Change = Callable[[Row], Row]
Form = Literal["thinkvg", "gemex", "conversations"]

NOTICE = "Synthetic: drawn by a program, not from any patient. Not for clinical use."
METADATA = {b"notice": NOTICE.encode(), **SYNTHETIC}
PARQUET = Path("data") / "train-00000-of-00001.parquet"
FILES: dict[Form, Path] = {
    "thinkvg": PARQUET,
    "gemex": Path("data") / "train.jsonl",
    "conversations": Path("data") / "train.json",
}
# Phrases that make an answer compare or hedge.
COMPARING = (
    "unchanged since the prior study",
    "stable",
    "larger compared with the previous examination",
    "with interval improvement",
)
HEDGING = ("or an artefact", "or atelectasis")
# Pictures that faulty rows name.
BROKEN_IMAGE = "p99/p99999999/s99999999/broken.jpg"
EMPTY_IMAGE = "p99/p99999999/s99999999/empty.jpg"
NARROW_IMAGE = "p99/p99999999/s99999999/narrow.jpg"
MISSING_IMAGE = "p99/p99999999/s99999999/missing.jpg"
_CHOICES = re.compile(r" ?<choices>: \[(.*)\]$")
_BOX = re.compile(r"\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\]")
_ANSWER = re.compile(r"(?<=<answer>)(.*?)(?=</answer>)", re.DOTALL)


def write_rows(out: Path, rows: Sequence[Row], form: Form) -> Path:
    """Write the rows under `out` in a form and remove files of the other forms."""
    for path in FILES.values():
        (out / path).unlink(missing_ok=True)
    target = out / FILES[form]
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as temporary:
        if form == "thinkvg":
            schema = pa.schema([(name, pa.string()) for name in COLUMNS], METADATA)
            pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), temporary)
        elif form == "gemex":
            lines = (json.dumps(_sample(row)) + "\n" for row in rows)
            temporary.write_text("".join(lines), encoding="utf-8")
        else:
            temporary.write_text(json.dumps([_conversation(row) for row in rows]), encoding="utf-8")
    return target


def _sample(row: Row) -> dict[str, Any]:
    """Return a row in GEMeX's sample form: choices apart, regions and boxes as lists."""
    response = parse_response(row["response"] or "")
    question, answer = row["question"] or "", response.answer or ""
    choices = _CHOICES.search(question)
    sample: dict[str, Any] = {"question": _CHOICES.sub("", question)}
    if choices:
        sample["choices"] = re.split(r", (?=[A-D]: )", choices[1])
    is_list = row["question_type"] == "multi_choice_questions"
    return sample | {
        "question_type": row["question_type"],
        "answer": re.findall("[A-D]", answer) if is_list else answer,
        "reason": row["thinkVG"],
        "visual_regions": [ref for ref, _ in response.regions],
        "visual_locations": [list(box) if box else None for _, box in response.regions],
        "image_path": (row["image_path"] or "").lstrip("/"),
    }


def _conversation(row: Row) -> dict[str, Any]:
    """Return a row in GEMeX's training form: a conversation, tags without ends, no region names."""
    response = parse_response(row["response"] or "")
    boxes = [[int(side) for side in box] for _, box in response.regions if box]
    reply = f"<answer> {response.answer} <reason> {row['thinkVG']} <location> {boxes}"
    return {
        "conversations": [
            {"from": "human", "value": f"<image>\n{row['question']}"},
            {"from": "gpt", "value": reply},
        ],
        "q_type": row["question_type"],
        "image": (row["image_path"] or "").lstrip("/"),
    }


def _replaced(
    pattern: str | re.Pattern[str], new: str | Callable[[re.Match[str]], str], *columns: str
) -> Change:
    return lambda row: row | {name: re.sub(pattern, new, row[name] or "") for name in columns}


def _boxes(form: str, *columns: str) -> Change:
    """Write each box in these columns as `form`, whose `{0}` to `{3}` are the numbers."""
    return _replaced(_BOX, lambda match: form.format(*match.groups()), *columns)


def _text(column: str, form: str) -> Change:
    return lambda row: row | {column: form.format(row[column])}


def _set(**columns: str | None) -> Change:
    return lambda row: row | columns


# Unusual ways to write a row; each leaves the answer and the boxes as they are.
ODDITIES: dict[str, Change] = {
    "braces": _boxes("{{{0}, {1}, {2}, {3}}}", "thinkVG"),
    "lenticular": _boxes("【{0}, {1}, {2}, {3}】", "thinkVG"),
    "labels": _boxes("[x1={0}, y1={1}, x2={2}, y2={3}]", "thinkVG"),
    "no spaces": _boxes("[{0},{1},{2},{3}]", "thinkVG", "response"),
    "many spaces": _boxes("[ {0} ,  {1} , {2} ,{3} ]", "thinkVG", "response"),
    "decimals": _boxes("[{0}.0, {1}.0, {2}.0, {3}.00]", "thinkVG", "response"),
    "semicolons": _boxes("[{0}; {1}; {2}; {3}]", "thinkVG", "response"),
    "round": _boxes("({0}, {1}, {2}, {3})", "thinkVG"),
    "two corners": _boxes("({0}, {1}), ({2}, {3})", "thinkVG"),
    "region before": _boxes("(region [{0},{1},{2},{3}])", "thinkVG"),
    "box tags": _boxes("<box>[{0}, {1}, {2}, {3}]</box>", "thinkVG"),
    "no wrapper": _replaced("</?response>", "", "response"),
    "capital tags": _replaced(r"</?\w+>", lambda tag: tag[0].upper(), "response"),
    "new lines": _replaced("><", ">\n  <", "response"),
    "unclosed location": _replaced("</location>(</response>)?", "", "response"),
    "unclosed answer": _replaced("</answer>", "", "response"),
    "media tag": _text("question", "<image>\n{}"),
    "thought tags": _text("thinkVG", "<think>\n{}\n</think>"),
    "type in words": lambda row: {
        **row,
        "question_type": (row["question_type"] or "").replace("_", "-").title(),
    },
}


def make_odd(rows: list[Row], share: float, seed: int) -> list[Row]:
    """Return the rows, a share of them rewritten by each of `ODDITIES` in turn."""
    changes = list(ODDITIES.values())
    rows = list(rows)
    for number, index in enumerate(_sampled_indices(len(rows), share, [seed, 6])):
        rows[index] = changes[number % len(changes)](rows[index])
    return rows


def reach_beyond(rows: Sequence[Row], share: float, seed: int) -> list[Row]:
    """Return the rows, in a share of which the answer compares or, if open, hedges in turn."""
    rows = list(rows)
    for number, index in enumerate(_sampled_indices(len(rows), share, [seed, 8])):
        is_open = rows[index]["question_type"] == "open_ended_questions"
        phrases = HEDGING if is_open and number % 2 else COMPARING
        rows[index] = _with_phrase(rows[index], phrases[number // 2 % len(phrases)])
    return rows


def _sampled_indices(count: int, share: float, seed: list[int]) -> list[int]:
    """Draw a share of the indices below `count`, in order."""
    chosen = np.random.default_rng(seed).random(count) < share
    indices: list[int] = np.flatnonzero(chosen).tolist()
    return indices


def _with_phrase(row: Row, phrase: str) -> Row:
    """Return the row with a phrase after its answer's text, or after that of a chosen option."""
    question, response = row["question"] or "", row["response"] or ""
    choices = parse_choices(question)
    answer = _ANSWER.search(response)
    if choices is None or answer is None:
        changed = _ANSWER.sub(lambda match: f"{match[0].rstrip('. ')}, {phrase}.", response)
        return {**row, "response": changed}
    letter = next(letter for letter in choices if letter in answer[0])
    option = f"{letter}: {choices[letter]}"
    return {**row, "question": question.replace(option, f"{option}, {phrase}", 1)}


def _box(box: str) -> Change:
    return _boxes(box, "response")


def _answer(answer: str) -> Change:
    return _replaced(_ANSWER, answer, "response")


def _choice_answer(answer: str) -> Change:
    question = "Which is it? <choices>: [A: one, B: two, C: three, D: four]"
    kind = "single_choice_questions"
    return lambda row: _answer(answer)(row) | {"question": question, "question_type": kind}


def _reasoning(box: str) -> Change:
    return _set(thinkVG=f"The left lung {box} is clear.")


def _location(location: str) -> Change:
    def change(row: Row) -> Row:
        answer = re.sub(r"</?response>|<location>.*</location>", "", row["response"] or "")
        return {**row, "response": f"{answer}<location>{location}</location>"}

    return change


# The reject code that data_prep.thinkvg gives a row, and how to make such a row.
FAULTS: dict[str, Change] = {
    "no_response": _set(response=None),
    "no_question": _set(question="  "),
    "no_answer": _answer(" "),
    "unknown_question_type": _set(question_type="riddles"),
    "answer_not_in_choices": _choice_answer("F"),
    "bad_box": _box("[12, 40, 90]"),
    "degenerate_box": _box("[90, 40, 12, 80]"),
    "box_outside": _box("[20, 40, 400, 80]"),
    "missing_image": _set(image_path=f"/{MISSING_IMAGE}"),
    "unreadable_image": _set(image_path=f"/{BROKEN_IMAGE}"),
}
# Further faults by name, each with its reject code.
MORE_FAULTS: dict[str, tuple[str, Change]] = {
    "null question": ("no_question", _set(question=None)),
    "blank response": ("no_response", _set(response=" \n")),
    "no answer block": ("no_answer", _replaced("(?s)<answer>.*</answer>", "", "response")),
    "answer in thought": ("no_answer", _text("response", "<think>{}</think>")),
    "null type": ("unknown_question_type", _set(question_type=None)),
    "neither yes nor no": (
        "answer_not_in_choices",
        lambda row: {
            **_answer("Perhaps")(row),
            "question": "Is it there?",
            "question_type": "closed_ended_questions",
        },
    ),
    "several for one": ("answer_not_in_choices", _choice_answer("['A', 'B']")),
    "five numbers": ("bad_box", _box("[12, 40, 90, 80, 3]")),
    "no number": ("bad_box", _box("[12, 40, nan, 80]")),
    "endless": ("bad_box", _box("[12, 40, inf, 80]")),
    "words for a box": ("bad_box", _box("lower left")),
    "corners apart": ("unread_box", _reasoning("[12, 40] to [90, 80]")),
    "box without bracket": ("unread_box", _reasoning("12, 40, 90, 80")),
    "box without tags": ("bad_box", _location("lung 12, 40, 90, 80")),
    "region without box": ("bad_box", _location("<ref>lung</ref>")),
    "endless reasoning": ("too_long", _set(thinkVG="The left lung is clear. " * 1400)),
    "bad box in reasoning": ("bad_box", _reasoning("[12, 40, 90]")),
    "swapped in y": ("degenerate_box", _box("[12, 80, 90, 40]")),
    "equal corners": ("degenerate_box", _box("[12, 40, 12, 80]")),
    "swapped in reasoning": ("degenerate_box", _reasoning("[90, 40, 12, 80]")),
    "before the edge": ("box_outside", _box("[-40, 40, 90, 80]")),
    "outside in reasoning": ("box_outside", _reasoning("[20, 40, 90, 9000]")),
    "no path": ("missing_image", _set(image_path=None)),
    "path upwards": ("missing_image", _set(image_path="/p99/p99999999/s99999999/../../../x.jpg")),
    "no patient": ("no_patient", _set(image_path="/pictures/1.jpg")),
    "empty file": ("unreadable_image", _set(image_path=f"/{EMPTY_IMAGE}")),
    "too narrow": ("image_too_narrow", _set(image_path=f"/{NARROW_IMAGE}")),
}


@dataclass(frozen=True)
class Dirt:
    """Faulty rows to add: their number as a share of the good rows, and whether of all kinds."""

    share: float = 0.0
    all_kinds: bool = False

    def faults(self) -> list[tuple[str, Change]]:
        """Return the faults, each with its reject code."""
        more = list(MORE_FAULTS.values()) if self.all_kinds else []
        return [*FAULTS.items(), *more]


def dirty_rows(rows: Sequence[Row], dirt: Dirt, files: Path, seed: int) -> list[Row]:
    """Return faulty copies of good rows, `dirt.share` times as many, with each fault in turn.

    Pictures that they name are written into the folder `files`.
    """
    count = round(dirt.share * len(rows))
    if count == 0:
        return []
    broken = files / BROKEN_IMAGE
    broken.parent.mkdir(parents=True, exist_ok=True)
    broken.write_bytes(b"not a picture")
    if dirt.all_kinds:
        (files / EMPTY_IMAGE).write_bytes(b"")
        Image.new("L", (4000, 10), 90).save(files / NARROW_IMAGE, "JPEG")
    rng = np.random.default_rng([seed, 3])
    faults = dirt.faults()
    return [
        faults[index % len(faults)][1](rows[int(rng.integers(len(rows)))]) for index in range(count)
    ]
