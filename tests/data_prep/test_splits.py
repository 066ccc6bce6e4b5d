from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.splits import FRACTIONS, SPLITS, fraction_levels, limited_rows, split_patients


def rows_of(patients):
    """Rows by patient and type, all of one type."""
    return {name: {"open": count} for name, count in Counter(patients).items()}


@given(
    st.lists(st.integers(0, 60).map(lambda number: f"p{number}"), max_size=300),
    st.floats(0, 0.4),
    st.floats(0, 0.4),
    st.integers(0, 5),
    st.sampled_from(["auto", "always", "never"]),
)
def test_patients_are_dealt_out_in_the_shares_asked_for(patients, val, test, seed, stratify):
    split_of = split_patients(rows_of(patients), val, test, seed, stratify)
    assert set(split_of) == set(patients)
    counts = Counter(split_of.values())
    for split, share in (("val", val), ("test", test)):
        expected = share * len(split_of)
        assert abs(counts[split] - expected) <= 1
        if share > 0 and len(split_of) >= 3:
            assert counts[split] >= 1


def test_each_split_has_patients_with_few_and_with_many_rows():
    patients = [f"few{number}" for number in range(100)]
    patients += [f"many{number}" for number in range(100) for _ in range(9)]
    split_of = split_patients(rows_of(patients), 0.1, 0.2, seed=0)
    for split, share in (("val", 0.1), ("test", 0.2)):
        for kind in ("few", "many"):
            count = sum(value == split for name, value in split_of.items() if name.startswith(kind))
            assert abs(count - 100 * share) <= 2


def test_the_seed_decides_who_goes_where():
    patients = [f"p{number}" for number in range(100)]
    first = split_patients(rows_of(patients), 0.2, 0.2, seed=0)
    assert first == split_patients(rows_of(patients[::-1]), 0.2, 0.2, seed=0)
    assert first != split_patients(rows_of(patients), 0.2, 0.2, seed=1)


def mixed_rows(patients, seed=0):
    """Patients with 1 to 12 rows whose types lean one way or another."""
    rng = np.random.default_rng(seed)
    rows = {}
    for number in range(patients):
        leaning = rng.dirichlet([0.6, 0.4, 0.5, 0.5])
        counts = rng.multinomial(rng.integers(1, 13), leaning)
        rows[f"p{number}"] = dict(zip(("open", "closed", "single", "multi"), counts, strict=True))
    return rows


def type_shares(rows, split_of):
    """The share of each question type in each split that has rows."""
    counted = {split: Counter() for split in SPLITS}
    for patient, counts in rows.items():
        counted[split_of[patient]].update(counts)
    return {
        split: {kind: number / counts.total() for kind, number in sorted(counts.items())}
        for split, counts in counted.items()
        if counts
    }


def largest_gap(rows, split_of):
    """By how much the share of a type in val or test differs from that in all rows."""
    everyone = type_shares(rows, dict.fromkeys(rows, "train"))["train"]
    shares = type_shares(rows, split_of)
    return max(
        abs(shares[split].get(kind, 0) - everyone[kind])
        for split in ("val", "test")
        for kind in everyone
    )


@pytest.mark.parametrize("seed", range(5))
def test_stratified_splits_have_the_types_in_the_shares_of_all_rows(seed):
    rows = mixed_rows(4000, seed)
    dealt = split_patients(rows, 0.05, 0.05, seed, "never")
    split_of = split_patients(rows, 0.05, 0.05, seed, "auto")
    assert largest_gap(rows, split_of) <= 0.0025 < largest_gap(rows, dealt)
    assert split_of == split_patients(rows, 0.05, 0.05, seed, "always")
    sizes = [
        Counter(sum(rows[name].values()) for name, split in one.items() if split == "val")
        for one in (split_of, dealt)
    ]
    assert sizes[0] == sizes[1]


def test_small_splits_are_exchanged_only_on_request():
    rows = mixed_rows(300)
    dealt = split_patients(rows, 0.1, 0.1, 0, "never")
    assert split_patients(rows, 0.1, 0.1, 0, "auto") == dealt
    assert largest_gap(rows, split_patients(rows, 0.1, 0.1, 0, "always")) < largest_gap(rows, dealt)


@given(st.integers(0, 500), st.integers(0, 5))
def test_fractions_are_nested(rows, seed):
    levels = fraction_levels(rows, seed)
    assert len(levels) == rows
    for part in FRACTIONS:
        # Rows of a larger level are in every larger fraction too.
        assert (levels >= part).sum() == -(-rows // part)


@pytest.mark.parametrize("limit", [None, 50, 60])
def test_no_limit_keeps_all_rows(limit):
    assert limited_rows(50, limit, seed=0).tolist() == list(range(50))


def test_a_limit_keeps_so_many_rows():
    rows = limited_rows(50, 7, seed=0).tolist()
    assert len(set(rows)) == 7
    assert rows == sorted(rows)
    assert set(rows) <= set(range(50))
