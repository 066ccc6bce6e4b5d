"""Reads what verl's `file` logger writes: lines `{"step": int, "data": {name: number}}`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from recipe.errors import InputError


@dataclass(frozen=True)
class MetricsLog:
    """Metrics of one training stage.

    `table` has one row per step (the index, ascending) and one float column per metric; a metric
    that a step did not log is NaN there. `notes` says what was left out of it, in plain words.
    """

    path: Path
    table: pd.DataFrame
    notes: tuple[str, ...] = ()


def read_metrics(path: Path) -> MetricsLog:
    """Read a metrics file; a step that comes again after a resume replaces the earlier one.

    A last line without a line end is what a killed run leaves: it is left out and noted.

    Raises:
        InputError: a whole line is not of the logger's form; names the file and the line.
    """
    text = path.read_text(encoding="utf-8")
    notes = []
    lines = text.split("\n")
    if unfinished := lines.pop():
        try:
            json.loads(unfinished)
            lines.append(unfinished)
        except json.JSONDecodeError:
            notes.append("its last line is cut off and was left out")
    steps: dict[int, dict[str, float]] = {}
    repeated = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        step, data = _parse_line(line, f"{path}:{number}")
        if step in steps and steps[step].keys() & data.keys():
            repeated += 1
        # Training and validation metrics of one step may come on two lines.
        steps.setdefault(step, {}).update(data)
    if repeated:
        notes.append(f"{repeated} steps were logged again after a resume; the later values count")
    table = pd.DataFrame.from_dict(steps, orient="index", dtype=float).sort_index()
    return MetricsLog(path, table, tuple(notes))


def _parse_line(line: str, where: str) -> tuple[int, dict[str, float]]:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error.msg})") from error
    if (
        not isinstance(row, Mapping)
        or not isinstance(row.get("step"), int)
        or not isinstance(row.get("data"), Mapping)
    ):
        raise InputError(f'{where}: expected {{"step": int, "data": {{name: number}}}}')
    # orjson writes NaN as null; other kinds (texts, lists) cannot be drawn as a curve.
    data = {
        name: float("nan") if value is None else float(value)
        for name, value in row["data"].items()
        if value is None or isinstance(value, int | float)
    }
    return row["step"], data
