"""Makes the golden files anew: `python tests/golden/make.py scores data_prep configs`.

The files hold what the code must go on doing. Where one of their values changes, the commit has to
say which and why; where nothing was to change, the code is at fault, not the file.

    scores     scores the responses in responses.parquet again; the responses stay as they are
    responses  collects the responses anew (golden_responses.py), then scores them
    data_prep  draws the phantom sets and prepares them
    configs    composes every configuration
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from golden_configs import CONFIGS, make_configs
from golden_rows import DATA_PREP, PHANTOMS, RUNS, draw_phantom, prepare_rows
from golden_scores import (
    RESPONSES,
    Golden,
    Row,
    read_golden,
    rule_presets,
    score_rows,
    write_golden,
)


def make_scores(rows: list[Row]) -> None:
    """Write responses.parquet with the scores of these rows."""
    presets = {preset: score_rows(rows, preset) for preset in rule_presets()}
    write_golden(Golden(rows, presets))
    print(f"{len(rows)} responses, {len(presets)} presets: {RESPONSES}")


def make_data_prep() -> None:
    """Write data_prep.json."""
    phantoms, runs = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for phantom in PHANTOMS:
            phantoms[phantom] = draw_phantom(phantom, folder / "sets" / phantom)
        for number, (run, settings) in enumerate(RUNS.items()):
            out = folder / "out" / str(number)
            runs[run] = prepare_rows(run, folder / "sets" / settings.phantom, out)
    _write_json(DATA_PREP, {"phantoms": phantoms, "runs": runs})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object, down to its fourth level with a line for each entry."""
    path.write_text(_written(content, levels=4) + "\n", encoding="utf-8")
    print(path)


def _written(value: Any, levels: int, indent: str = "") -> str:
    if not levels or not isinstance(value, dict) or not value:
        return json.dumps(value)
    inner = indent + " "
    lines = [
        f"{inner}{json.dumps(key)}: {_written(entry, levels - 1, inner)}"
        for key, entry in value.items()
    ]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    choices = ("scores", "responses", "data_prep", "configs")
    parser.add_argument("parts", nargs="+", choices=choices)
    parts = parser.parse_args().parts
    if "responses" in parts:
        from golden_responses import collect_rows  # needs the tools, the tests and the benchmarks

        make_scores(collect_rows())
    elif "scores" in parts:
        make_scores(read_golden().rows)
    if "data_prep" in parts:
        make_data_prep()
    if "configs" in parts:
        _write_json(CONFIGS, make_configs())


if __name__ == "__main__":
    main()
