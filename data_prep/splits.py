"""Splits by patient, and nested fractions of the training rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

SPLITS = ("train", "val", "test")
FRACTIONS = (2, 4, 8, 16)


def split_patients(patients: Sequence[str], val: float, test: float, seed: int) -> dict[str, str]:
    """Assigns each patient to "train", "val" or "test".

    `patients` has an entry for each row. Patients are ordered by how many rows they have,
    shuffled among equals, and dealt out in the shares asked for, so each split has its share
    of patients with few and with many rows. A share above 0 gets at least one patient where
    there are three or more.
    """
    rows = Counter(patients)
    names = sorted(rows)
    order = np.random.default_rng([seed, 10]).permutation(len(names))
    shuffled = sorted((names[index] for index in order), key=lambda name: rows[name])
    wanted = {"val": _count(val, len(names)), "test": _count(test, len(names))}
    split_of = dict.fromkeys(names, "train")
    free = list(range(len(names)))
    for split, count in wanted.items():
        # Evenly spaced places among those left, so every size of patient is met.
        taken = {free[math.floor((place + 0.5) * len(free) / count)] for place in range(count)}
        for position in taken:
            split_of[shuffled[position]] = split
        free = [position for position in free if position not in taken]
    return split_of


def _count(share: float, patients: int) -> int:
    if share <= 0 or patients < 3:
        return 0
    return max(1, round(share * patients))


def fraction_rows(rows: int, seed: int) -> dict[int, list[int]]:
    """Positions of the training rows in each fraction, in order.

    Key k holds a k-th of the rows; each fraction is a subset of the larger ones.
    """
    order = np.random.default_rng([seed, 11]).permutation(rows)
    return {
        part: sorted(int(position) for position in order[: math.ceil(rows / part)])
        for part in FRACTIONS
    }


def limited_rows(rows: int, limit: int | None, seed: int) -> list[int]:
    """Positions of the source rows that a limit keeps, chosen at random, in order."""
    if limit is None or limit >= rows:
        return list(range(rows))
    chosen = np.random.default_rng([seed, 12]).permutation(rows)[:limit]
    return sorted(int(position) for position in chosen)
