"""Counting repeated questions, against plain sets."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from data_prep.convert.training_files import count_repeats

few = st.sampled_from(["", "a", "b", "aa", "é"])


@given(st.lists(st.tuples(few, few, few), max_size=60))
def test_counts_as_sets_do(rows: list[tuple[str, str, str]]) -> None:
    columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
    columns = columns or [pa.array([], pa.string())] * 3
    table = pa.table(columns, names=["image_path", "question", "answer"])
    questions = {(image, question) for image, question, _ in rows}
    assert count_repeats(table) == {
        "rows": len(rows) - len(questions),
        "other_answers": len(set(rows)) - len(questions),
    }
