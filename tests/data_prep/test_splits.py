from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.splits import FRACTIONS, fraction_rows, limited_rows, split_patients


@given(
    st.lists(st.integers(0, 60).map(lambda number: f"p{number}"), max_size=300),
    st.floats(0, 0.4),
    st.floats(0, 0.4),
    st.integers(0, 5),
)
def test_patients_are_dealt_out_in_the_shares_asked_for(patients, val, test, seed):
    split_of = split_patients(patients, val, test, seed)
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
    split_of = split_patients(patients, 0.1, 0.2, seed=0)
    for split, share in (("val", 0.1), ("test", 0.2)):
        for kind in ("few", "many"):
            count = sum(value == split for name, value in split_of.items() if name.startswith(kind))
            assert abs(count - 100 * share) <= 2


def test_the_seed_decides_who_goes_where():
    patients = [f"p{number}" for number in range(100)]
    first = split_patients(patients, 0.2, 0.2, seed=0)
    assert first == split_patients(patients[::-1], 0.2, 0.2, seed=0)
    assert first != split_patients(patients, 0.2, 0.2, seed=1)


@given(st.integers(0, 500), st.integers(0, 5))
def test_fractions_are_nested(rows, seed):
    fractions = fraction_rows(rows, seed)
    larger = list(range(rows))
    for part in FRACTIONS:
        smaller = fractions[part]
        assert set(smaller) <= set(larger)
        assert len(smaller) == -(-rows // part)
        assert smaller == sorted(set(smaller))
        larger = smaller


@pytest.mark.parametrize(("limit", "kept"), [(None, 50), (60, 50), (50, 50), (7, 7)])
def test_a_limit_keeps_so_many_rows(limit, kept):
    rows = limited_rows(50, limit, seed=0)
    assert len(set(rows)) == kept
    assert rows == sorted(rows)
    assert set(rows) <= set(range(50))
