"""Odd ways of writing a good row, which a reader of the real data must not stumble over."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

Row = dict[str, str | None]

_BOX = re.compile(r"\[(\d+), (\d+), (\d+), (\d+)\]")


def _boxes(row: Row, form: str, columns: Sequence[str] = ("thinkVG", "response")) -> Row:
    """The row with each box written as `form`, whose `{0}` to `{3}` are the numbers."""
    changed = {
        name: _BOX.sub(lambda match: form.format(*match.groups()), row[name] or "")
        for name in columns
    }
    return {**row, **changed}


def _response(row: Row, change: Callable[[str], str]) -> Row:
    return {**row, "response": change(row["response"] or "")}


def _unwrapped(text: str) -> str:
    return re.sub(r"</?response>", "", text)


# Each leaves answer and boxes what they are.
ODDITIES: dict[str, Callable[[Row], Row]] = {
    "braces": lambda row: _boxes(row, "{{{0}, {1}, {2}, {3}}}", ("thinkVG",)),
    "lenticular": lambda row: _boxes(row, "【{0}, {1}, {2}, {3}】", ("thinkVG",)),
    "labels": lambda row: _boxes(row, "[x1={0}, y1={1}, x2={2}, y2={3}]", ("thinkVG",)),
    "no spaces": lambda row: _boxes(row, "[{0},{1},{2},{3}]"),
    "many spaces": lambda row: _boxes(row, "[ {0} ,  {1} , {2} ,{3} ]"),
    "decimals": lambda row: _boxes(row, "[{0}.0, {1}.0, {2}.0, {3}.00]"),
    "semicolons": lambda row: _boxes(row, "[{0}; {1}; {2}; {3}]"),
    "round": lambda row: _boxes(row, "({0}, {1}, {2}, {3})", ("thinkVG",)),
    "two corners": lambda row: _boxes(row, "({0}, {1}), ({2}, {3})", ("thinkVG",)),
    "region before": lambda row: _boxes(row, "(region [{0},{1},{2},{3}])", ("thinkVG",)),
    "box tags": lambda row: _boxes(row, "<box>[{0}, {1}, {2}, {3}]</box>", ("thinkVG",)),
    "no wrapper": lambda row: _response(row, _unwrapped),
    "capital tags": lambda row: _response(
        row, lambda text: re.sub(r"</?\w+>", lambda tag: tag[0].upper(), text)
    ),
    "new lines": lambda row: _response(row, lambda text: text.replace("><", ">\n  <")),
    "unclosed location": lambda row: _response(
        row, lambda text: re.sub("</location>(</response>)?", "", text)
    ),
    "unclosed answer": lambda row: _response(row, lambda text: text.replace("</answer>", "")),
    "media tag": lambda row: {**row, "question": f"<image>\n{row['question']}"},
    "thought tags": lambda row: {**row, "thinkVG": f"<think>\n{row['thinkVG']}\n</think>"},
    "type in words": lambda row: {
        **row,
        "question_type": (row["question_type"] or "").replace("_", "-").title(),
    },
}


def make_odd(rows: list[Row], share: float, seed: int) -> list[Row]:
    """The rows, a share of them rewritten, every oddity in turn."""
    if share <= 0:
        return rows
    chosen = np.flatnonzero(np.random.default_rng([seed, 6]).random(len(rows)) < share)
    changes = list(ODDITIES.values())
    rows = list(rows)
    for number, place in enumerate(chosen.tolist()):
        rows[place] = changes[number % len(changes)](rows[place])
    return rows
