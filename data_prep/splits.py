"""Splits by patient, and nested fractions of the training rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np

SPLITS = ("train", "val", "test")
FRACTIONS = (2, 4, 8, 16)
STRATIFY = ("auto", "always", "never")
# With "auto" a split of fewer rows is left as it was dealt.
FEWEST_ROWS = 1000
# Shares of question types are brought this close to those of all rows, where that can be done.
TOLERANCE = 0.002
_TRIES = 400  # exchanges looked at before the best of them is made
_MOST_EXCHANGES = 2000

Rows = Mapping[str, Mapping[str, int]]


def split_patients(
    rows: Rows, val: float, test: float, seed: int, stratify: str = "auto"
) -> dict[str, str]:
    """Assigns each patient to "train", "val" or "test".

    `rows` counts each patient's rows by question type. Patients are ordered by how many rows they
    have, shuffled among equals, and dealt out in the shares asked for, so each split has its share
    of patients with few and with many rows. A share above 0 gets at least one patient where there
    are three or more. Then patients of the same number of rows change places with such of the
    training split until each split has about the same shares of question types as all rows have.
    """
    totals = {patient: sum(counts.values()) for patient, counts in rows.items()}
    split_of = _deal(totals, val, test, seed)
    for number, split in enumerate(("val", "test")):
        here = sum(totals[patient] for patient, name in split_of.items() if name == split)
        if stratify == "always" or (stratify == "auto" and here >= FEWEST_ROWS):
            _balance(rows, split_of, split, np.random.default_rng([seed, 13, number]))
    return split_of


def _deal(totals: Mapping[str, int], val: float, test: float, seed: int) -> dict[str, str]:
    names = sorted(totals)
    order = np.random.default_rng([seed, 10]).permutation(len(names))
    shuffled = sorted((names[index] for index in order), key=lambda name: totals[name])
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


def _balance(rows: Rows, split_of: dict[str, str], split: str, rng: np.random.Generator) -> None:
    """Exchanges patients of `split` for training patients with as many rows, in place."""
    kinds = sorted({kind for counts in rows.values() for kind in counts})
    names = sorted(rows)
    counts = np.array([[rows[name].get(kind, 0) for kind in kinds] for name in names])
    inside = np.array([split_of[name] == split for name in names])
    free = np.array([split_of[name] == "train" for name in names])
    if not inside.any() or not free.any():
        return
    size = counts[inside].sum()
    wanted = counts.sum(axis=0) / counts.sum() * size
    excess = counts[inside].sum(axis=0) - wanted
    by_size = _places_by_size(counts.sum(axis=1), free)
    for _ in range(_MOST_EXCHANGES):
        if np.abs(excess).max() <= max(0.5, TOLERANCE * size):
            break
        best = _best_exchange(counts, np.flatnonzero(inside), by_size, free, excess, rng)
        if best is None:
            break
        leaves, enters = best
        excess += counts[enters] - counts[leaves]
        inside[[leaves, enters]] = [False, True]
        free[[leaves, enters]] = [True, False]
        by_size[int(counts[leaves].sum())].append(leaves)
        split_of[names[leaves]], split_of[names[enters]] = "train", split


def _places_by_size(totals: np.ndarray, free: np.ndarray) -> dict[int, list[int]]:
    places: dict[int, list[int]] = {int(total): [] for total in np.unique(totals)}
    for place in np.flatnonzero(free):
        places[int(totals[place])].append(int(place))
    return places


def _best_exchange(
    counts: np.ndarray,
    inside: np.ndarray,
    by_size: dict[int, list[int]],
    free: np.ndarray,
    excess: np.ndarray,
    rng: np.random.Generator,
) -> tuple[int, int] | None:
    """The best of some exchanges drawn at random; None where none of them helps."""
    leaves = inside[rng.integers(len(inside), size=_TRIES)]
    draws = rng.random(_TRIES)
    options = [by_size[int(counts[place].sum())] for place in leaves]
    pairs = [
        (int(place), others[int(draw * len(others))])
        for place, others, draw in zip(leaves, options, draws, strict=True)
        if others
    ]
    pairs = [pair for pair in pairs if free[pair[1]]]
    if not pairs:
        return None
    gone, come = np.array(pairs).T
    after = np.square(excess + counts[come] - counts[gone]).sum(axis=1)
    best = int(after.argmin())
    return pairs[best] if after[best] < np.square(excess).sum() else None


def fraction_levels(rows: int, seed: int) -> np.ndarray:
    """For each training row the smallest fraction it is in: 1 (only the whole), 2, 4, 8 or 16.

    The rows with a level of k or more are a k-th of all, so a smaller fraction is inside a larger.
    """
    order = np.random.default_rng([seed, 11]).permutation(rows)
    levels = np.ones(rows, dtype=np.uint8)
    for part in FRACTIONS:
        levels[order[: math.ceil(rows / part)]] = part
    return levels


def limited_rows(rows: int, limit: int | None, seed: int) -> np.ndarray | None:
    """Positions of the source rows that a limit keeps, chosen at random, in order; None for all."""
    if limit is None or limit >= rows:
        return None
    chosen = np.random.default_rng([seed, 12]).permutation(rows)[:limit]
    return np.sort(chosen)


def type_shares(rows: Rows, split_of: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """The share of each question type in each split that has rows."""
    counted: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    for patient, counts in rows.items():
        counted[split_of[patient]].update(counts)
    return {
        split: {kind: number / counts.total() for kind, number in sorted(counts.items())}
        for split, counts in counted.items()
        if counts
    }
