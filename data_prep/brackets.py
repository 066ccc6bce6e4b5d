"""Boxes in unusual brackets, brought to the form that the shared reader of responses knows."""

from __future__ import annotations

import re

_N = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)"
_GAP = r"\s*[,;]\s*|\s+"
_FOUR = rf"\s*({_N})(?:{_GAP})({_N})(?:{_GAP})({_N})(?:{_GAP})({_N})\s*"
# Braces, full-width and lenticular brackets, angle brackets, bars.
_UNUSUAL = re.compile(
    rf"\{{{_FOUR}\}}|［{_FOUR}］|（{_FOUR}）|【{_FOUR}】|〔{_FOUR}〕|⟨{_FOUR}⟩|<{_FOUR}>|\|{_FOUR}\|"
)
# [x1=10, y1: 20, …], (xmin 10, ymin 20, …). In another order the numbers would be another box.
_LABELS = (
    r"x\s*_?(?:1|min)|left",
    r"y\s*_?(?:1|min)|top",
    r"x\s*_?(?:2|max)|right",
    r"y\s*_?(?:2|max)|bottom",
)
_LABELLED = re.compile(
    r"[\[({]\s*"
    + r"\s*[,;]\s*".join(rf"(?:{label})\s*[=:]?\s*({_N})" for label in _LABELS)
    + r"\s*[\])}]",
    re.IGNORECASE,
)
_WIDE_COMMA = re.compile(r"(?<=\d)\s*[，、；]\s*(?=[\d.+-])")
# It begins with the one set of all its first characters, which `re` looks for fastest.
_HINT = re.compile(
    r"[{［（【〔⟨|<\[(](?:(?<=[{［（【〔⟨|])|(?<=<)[\s\d.+-]|(?<=[\[(])\s*(?:x|left))",
    re.IGNORECASE,
)


def plain_brackets(text: str) -> str:
    """The text with each box in brackets other than `[]` and `()` written as `[a, b, c, d]`.

    Full-width commas between numbers become plain ones.

    `{10, 20, 30, 40}`, `【10, 20, 30, 40】` and `[x1=10, y1=20, x2=30, y2=40]` are such boxes; what
    is not four numbers stays as it is.
    """
    if not text.isascii():
        text = _WIDE_COMMA.sub(_plain_comma, text)
    if _HINT.search(text) is None:
        return text
    return _LABELLED.sub(_plain, _UNUSUAL.sub(_plain, text))


def _plain_comma(match: re.Match[str]) -> str:
    return "; " if match[0].strip() == "；" else ", "


def _plain(match: re.Match[str]) -> str:
    return "[" + ", ".join(number for number in match.groups() if number is not None) + "]"
