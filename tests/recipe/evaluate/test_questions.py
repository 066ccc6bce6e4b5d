import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.program import InputError
from recipe.evaluate.predictions import read_images, read_questions


def test_questions_come_in_file_order_with_their_index(write_parquet, make_truth):
    path = write_parquet("test", [make_truth(), make_truth("single", "B")])
    questions = read_questions(path)
    assert [q.index for q in questions] == [0, 1]
    assert [q.ground_truth.answer for q in questions] == ["Yes", "B"]


def test_images_are_found_by_index(write_parquet, make_truth):
    path = write_parquet("test", [make_truth() for _ in range(4)])
    assert read_images(path, [3, 1, 99]) == {1: "1.jpg", 3: "3.jpg"}


def test_images_may_be_in_the_file(tmp_path):
    rows = [{"extra_info": {"index": 0}, "images": [{"bytes": b"PNG", "min_pixels": 1}]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    assert read_images(tmp_path / "test.parquet", [0]) == {0: b"PNG"}


GOOD = {"reward_model": {"ground_truth": "{}"}, "extra_info": {"index": 0}}
BROKEN = [
    ([GOOD], "row 0: ground_truth lacks question_type"),
    ([GOOD | {"reward_model": {"style": "rule"}}], 'row 0: column "reward_model" has no "ground'),
    ([{"reward_model": GOOD["reward_model"]}], 'column "extra_info" is missing'),
    ([{"extra_info": GOOD["extra_info"]}], 'column "reward_model" is missing'),
]


@pytest.mark.parametrize(("rows", "message"), BROKEN)
def test_an_unusable_file_is_named_with_row_or_column(tmp_path, rows, message):
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(InputError, match=rf"bad\.parquet: {message}"):
        read_questions(path)


def test_index_must_be_there_and_unique(tmp_path, make_truth):
    path = tmp_path / "bad.parquet"
    row = {"reward_model": {"ground_truth": json.dumps(make_truth())}}
    for extras, message in (
        ([{"index": 1}, {"index": 1}], 'same "index" in several rows'),
        ([{"index": "one"}, {"index": "two"}], 'row 0: column "extra_info" has no whole number'),
    ):
        pq.write_table(pa.Table.from_pylist([row | {"extra_info": e} for e in extras]), path)
        with pytest.raises(InputError, match=message):
            read_questions(path)


def test_a_missing_file_and_one_of_another_kind_are_named(tmp_path):
    with pytest.raises(InputError, match="no such parquet file"):
        read_questions(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("hello, this is not parquet")
    with pytest.raises(InputError, match=r"text\.parquet: not a readable parquet file"):
        read_questions(tmp_path / "text.parquet")


def test_no_wanted_image_gives_none(write_parquet, make_truth):
    assert read_images(write_parquet("test", [make_truth()]), []) == {}
