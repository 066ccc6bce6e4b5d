"""Read the file of verl's `file` logger: lines `{"step": int, "data": {name: number}}`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from data_prep.program import InputError


@dataclass(frozen=True)
class MetricsLog:
    """Metrics of one training stage, with notes on what was left out of the table.

    The table has a row for each step (the index, ascending) and a float column for each metric; NaN
    if the step did not log it.
    """

    path: Path
    table: pd.DataFrame
    notes: tuple[str, ...] = ()


def read_metrics(path: Path) -> MetricsLog:
    """Read a metrics file; a step that is logged again after a resume replaces the earlier one.

    An incomplete last line, which a killed run leaves, is left out and noted.

    Raises:
        InputError: a complete line is not of the logger's form; names the file and the line.
    """
    notes = []
    lines = path.read_text(encoding="utf-8").split("\n")
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
        # Training and validation metrics of a step may be on two lines.
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
    match row:
        case {"step": int(step), "data": {**values}}:
            # orjson writes NaN as null; texts and lists cannot be drawn as a curve.
            return step, {
                str(name): float("nan") if value is None else float(value)
                for name, value in values.items()
                if value is None or isinstance(value, int | float)
            }
    raise InputError(f'{where}: expected {{"step": int, "data": {{name: number}}}}')
