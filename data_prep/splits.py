"""Splits by patient, and nested fractions of the training rows."""

import math
from collections.abc import Mapping

import numpy as np

SPLITS = ("train", "val", "test")
FRACTIONS = (2, 4, 8, 16)
STRATIFY = ("auto", "always", "never")
# With "auto", a split of fewer rows is not stratified.
FEWEST_ROWS = 1000
# The largest difference between the shares of a question type in a split and in all rows.
TOLERANCE = 0.002
_TRIES = 400  # random exchanges, of which the best is made
_MOST_EXCHANGES = 2000

Rows = Mapping[str, Mapping[str, int]]


def split_patients(
    rows: Rows, val: float, test: float, seed: int, stratify: str = "auto"
) -> dict[str, str]:
    """Assign each patient to "train", "val" or "test".

    Patients are sorted by their number of rows, shuffled among equals, and drawn at even distances,
    so each split has its share of patients with few and with many rows. Then patients are exchanged
    with training patients of as many rows, until the shares of the question types in each split are
    about those of all rows.

    Args:
        rows: Each patient's number of rows by question type.
        val: Share of the patients; above 0 it is at least one patient if there are three or more.
        test: As `val`.
        seed: Of the shuffles.
        stratify: One of `STRATIFY`: whether to exchange patients.
    """
    totals = {patient: sum(counts.values()) for patient, counts in rows.items()}
    split_of = _draw(totals, val, test, seed)
    for number, split in enumerate(("val", "test")):
        size = sum(totals[patient] for patient, name in split_of.items() if name == split)
        if stratify == "always" or (stratify == "auto" and size >= FEWEST_ROWS):
            _balance(rows, split_of, split, np.random.default_rng([seed, 13, number]))
    return split_of


def _draw(totals: Mapping[str, int], val: float, test: float, seed: int) -> dict[str, str]:
    names = sorted(totals)
    order = np.random.default_rng([seed, 10]).permutation(len(names))
    remaining = sorted((names[index] for index in order), key=lambda name: totals[name])
    split_of = dict.fromkeys(names, "train")
    for split, share in (("val", val), ("test", test)):
        count = _count(share, len(names))
        # Evenly spaced positions, to draw patients with few rows and with many.
        drawn = {
            remaining[math.floor((number + 0.5) * len(remaining) / count)]
            for number in range(count)
        }
        split_of |= dict.fromkeys(drawn, split)
        remaining = [name for name in remaining if name not in drawn]
    return split_of


def _count(share: float, patients: int) -> int:
    if share <= 0 or patients < 3:
        return 0
    return max(1, round(share * patients))


def _balance(rows: Rows, split_of: dict[str, str], split: str, rng: np.random.Generator) -> None:
    """Exchange patients of `split` with training patients of as many rows, in `split_of`."""
    kinds = sorted({kind for counts in rows.values() for kind in counts})
    names = sorted(rows)
    counts = np.array([[rows[name].get(kind, 0) for kind in kinds] for name in names])
    in_split = np.array([split_of[name] == split for name in names])
    in_train = np.array([split_of[name] == "train" for name in names])
    if not in_split.any() or not in_train.any():
        return
    size = counts[in_split].sum()
    excess = counts[in_split].sum(axis=0) - counts.sum(axis=0) / counts.sum() * size
    totals = counts.sum(axis=1)
    by_size = {
        int(total): np.flatnonzero(in_train & (totals == total)).tolist()
        for total in np.unique(totals)
    }
    for _ in range(_MOST_EXCHANGES):
        if np.abs(excess).max() <= max(0.5, TOLERANCE * size):
            break
        best = _best_exchange(counts, np.flatnonzero(in_split), by_size, in_train, excess, rng)
        if best is None:
            break
        leaving, entering = best
        excess += counts[entering] - counts[leaving]
        in_split[[leaving, entering]] = [False, True]
        in_train[[leaving, entering]] = [True, False]
        by_size[int(counts[leaving].sum())].append(leaving)
        split_of[names[leaving]], split_of[names[entering]] = "train", split


def _best_exchange(
    counts: np.ndarray,
    in_split: np.ndarray,
    by_size: dict[int, list[int]],
    in_train: np.ndarray,
    excess: np.ndarray,
    rng: np.random.Generator,
) -> tuple[int, int] | None:
    """Return the best of some random exchanges as (leaving, entering), None if none of them helps.

    `counts` has shape (patients, question types), `excess` is how many rows of each type the split
    has too many.
    """
    candidates = in_split[rng.integers(len(in_split), size=_TRIES)]
    draws = rng.random(_TRIES)
    partners = [by_size[int(counts[index].sum())] for index in candidates]
    pairs = [
        (int(index), same_size[int(draw * len(same_size))])
        for index, same_size, draw in zip(candidates, partners, draws, strict=True)
        if same_size
    ]
    pairs = [pair for pair in pairs if in_train[pair[1]]]
    if not pairs:
        return None
    leaving, entering = np.array(pairs).T
    errors = np.square(excess + counts[entering] - counts[leaving]).sum(axis=1)
    best = int(errors.argmin())
    return pairs[best] if errors[best] < np.square(excess).sum() else None


def fraction_levels(rows: int, seed: int) -> np.ndarray:
    """Return for each training row the k of the smallest fraction 1/k that holds it; 1 is all rows.

    The rows of level k or more are the fraction 1/k, so each fraction contains the smaller ones.
    """
    order = np.random.default_rng([seed, 11]).permutation(rows)
    levels = np.ones(rows, dtype=np.uint8)
    for part in FRACTIONS:
        levels[order[: math.ceil(rows / part)]] = part
    return levels


def limited_rows(rows: int, limit: int | None, seed: int) -> np.ndarray:
    """Return the sorted indices of the source rows to use: all, or `limit` chosen at random."""
    if limit is None or limit >= rows:
        return np.arange(rows)
    chosen = np.random.default_rng([seed, 12]).permutation(rows)[:limit]
    return np.sort(chosen)
