"""What the code did when the golden files were made, it still does.

`make.py` makes the files anew; a value that changes has to be explained in the commit.
"""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_configs import Flat, change, compare_flat, compose, compositions, read_configs, restore
from golden_rows import (
    DATA_PREP,
    PHANTOMS,
    RUNS,
    Fingerprint,
    compare_fingerprints,
    draw_phantom,
    prepare_rows,
)
from golden_scores import (
    Golden,
    compare_scores,
    golden_presets,
    read_golden,
    rule_presets,
    score_rows,
)

from reward.settings import load_preset
from reward.thinkvg import compute_score_judged

CONFIGS = read_configs()
ROWS = json.loads(DATA_PREP.read_text(encoding="utf-8"))
# The other presets differ from these in their weights only.
SCORED_WHOLE, STEP = ("dense", "paper"), 3
SHOWN = 30
COMPOSED = [(program, name) for program in CONFIGS for name in ("", *CONFIGS[program]["changes"])]


@pytest.fixture(scope="session")
def golden() -> Golden:
    """The golden responses with their scores."""
    return read_golden()


@pytest.fixture(scope="session")
def phantom(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[Path, Fingerprint]]:
    """Draws a phantom set where it is needed first; returns its folder and its fingerprint."""
    drawn: dict[str, tuple[Path, Fingerprint]] = {}

    def draw(name: str) -> tuple[Path, Fingerprint]:
        if name not in drawn:
            folder = tmp_path_factory.mktemp(name)
            drawn[name] = folder, draw_phantom(name, folder)
        return drawn[name]

    return draw


def fail_with(differences: list[str]) -> None:
    """Fail where there are differences, and show the first of them."""
    if differences:
        more = [f"and {len(differences) - SHOWN} more lines"] if len(differences) > SHOWN else []
        pytest.fail("\n".join([*differences[:SHOWN], *more]), pytrace=False)


def test_every_preset_is_held() -> None:
    assert golden_presets() == rule_presets()


@pytest.mark.parametrize("preset", golden_presets())
def test_scores(preset: str, golden: Golden) -> None:
    numbers = range(0, len(golden.rows), 1 if preset in SCORED_WHOLE else STEP)
    rows = [golden.rows[number] for number in numbers]
    expected = {key: values[numbers] for key, values in golden.presets[preset].items()}
    differences = compare_scores(preset, expected, score_rows(rows, preset), rows, numbers)
    fail_with(differences)


def test_the_judged_preset_decides_by_the_rules_of_paper_what_needs_no_judge(
    golden: Golden,
) -> None:
    """Open answers are left out: there is no server here."""
    paper = golden.presets["paper"]
    numbers = [
        number
        for number, row in enumerate(golden.rows)
        if not np.isnan(paper["score"][number])
        and json.loads(row.ground_truth)["question_type"] != "open"
    ]
    rows = [golden.rows[number] for number in numbers]
    settings = load_preset("paper_judge", {"base_url": "http://127.0.0.1:9/v1"})

    async def score_all() -> list[dict[str, float]]:
        return [
            await compute_score_judged(
                "thinkvg",
                row.response,
                row.ground_truth,
                json.loads(row.extra_info) if row.extra_info else None,
                **settings,
            )
            for row in rows
        ]

    results = asyncio.run(score_all())
    actual = {key: np.array([result[key] for result in results]) for key in paper}
    expected = {key: values[numbers] for key, values in paper.items()}
    differences = compare_scores("paper_judge", expected, actual, rows, numbers)
    fail_with(differences)


@pytest.mark.parametrize("name", PHANTOMS)
def test_phantom_sets(name: str, phantom: Callable[[str], tuple[Path, Fingerprint]]) -> None:
    differences = compare_fingerprints(ROWS["phantoms"][name], phantom(name)[1])
    fail_with(differences)


@pytest.mark.parametrize("name", RUNS)
def test_prepared_rows(
    name: str, phantom: Callable[[str], tuple[Path, Fingerprint]], tmp_path: Path
) -> None:
    folder, _ = phantom(RUNS[name].phantom)
    actual = prepare_rows(name, folder, tmp_path / "out")
    differences = compare_fingerprints(ROWS["runs"][name], actual)
    fail_with(differences)


@pytest.mark.parametrize("program", CONFIGS)
def test_every_composition_is_held(program: str) -> None:
    assert ["", *CONFIGS[program]["changes"]] == compositions(program)


@pytest.mark.parametrize(("program", "overrides"), COMPOSED)
def test_configurations(program: str, overrides: str) -> None:
    held: dict[str, Any] = CONFIGS[program]
    changed = held["changes"][overrides] if overrides else {}
    differences = compare_flat(restore(held["base"], changed), compose(program, overrides))
    fail_with([f"{program} {overrides}: {line}" for line in differences])


def test_a_change_of_a_configuration_is_named() -> None:
    base: Flat = {"a.b": 1, "a.c": [1], "d": None}
    changed: Flat = {"a.b": 2, "d": None, "e": {}}
    assert restore(base, change(base, changed)) == changed
    assert compare_flat(base, changed) == [
        "a.b: golden 1, now 2",
        "a.c: golden [1], now absent",
        "e: golden absent, now {}",
    ]


def test_a_change_of_rows_is_named() -> None:
    golden = {"files": {"train.parquet": {"rows": 2, "digests": "a b"}}, "audit": {"n": 1}}
    moved = {"files": {"train.parquet": {"rows": 2, "digests": "b a"}}, "audit": {"n": 2}}
    assert compare_fingerprints(golden, golden) == []
    assert compare_fingerprints(golden, moved) == [
        "files train.parquet: the same rows in another order",
        "audit n: golden 1, now 2",
    ]
    changed = {"files": {"train.parquet": {"rows": 2, "digests": "a c"}}, "audit": {"n": 1}}
    assert compare_fingerprints(golden, changed) == [
        "files train.parquet: rows [1] of 2 are not golden",
        "files train.parquet: golden rows [1] of 2 are missing",
    ]
