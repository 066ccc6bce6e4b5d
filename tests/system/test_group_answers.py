"""The answers of a group, which the engine gives to one request, are independent samples."""

import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.stats import chi2_contingency

DRIVER = Path(__file__).parent / "drivers" / "group_driver.py"
GROUPS, SIZE, CHOICES = 400, 8, 4
SURE = 1e-4
"""Below this probability, chance does not explain what was found in 28 pairs of answers."""


def test_answers_of_a_group_are_independent(workspace: Path) -> None:
    arguments = [workspace / "model", workspace / "data", GROUPS, SIZE, CHOICES]
    finished = subprocess.run(
        [sys.executable, str(DRIVER), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, (finished.stdout + finished.stderr)[-8000:]
    groups = json.loads(finished.stdout.splitlines()[-1])
    assert [len(group) for group in groups] == [SIZE] * GROUPS
    tokens = sorted(Counter(itertools.chain(*groups)))
    assert len(tokens) == CHOICES
    places = {token: place for place, token in enumerate(tokens)}
    for first, second in itertools.combinations(range(SIZE), 2):
        table = np.zeros((CHOICES, CHOICES), dtype=int)
        for group in groups:
            table[places[group[first]], places[group[second]]] += 1
        assert chi2_contingency(table).pvalue > SURE / 28, (first, second, table)
