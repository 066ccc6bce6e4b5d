import json
import math

import pytest

from data_prep.program import InputError
from recipe.metrics_log import read_metrics


def write(path, *rows, end="\n"):
    path.write_text("\n".join(json.dumps(row) for row in rows) + end)
    return path


def test_metrics_become_columns_by_step(tmp_path):
    path = write(
        tmp_path / "metrics.jsonl",
        {"step": 2, "data": {"a": 2, "b": None}},
        {"step": 1, "data": {"a": 1.5}},
    )
    log = read_metrics(path)
    assert log.table.index.to_list() == [1, 2]
    assert log.table["a"].to_list() == [1.5, 2.0]
    assert math.isnan(log.table.loc[2, "b"])
    assert log.notes == ()


def test_lines_of_one_step_are_joined(tmp_path):
    path = write(
        tmp_path / "metrics.jsonl",
        {"step": 1, "data": {"train/loss": 3.0}},
        {"step": 1, "data": {"val/loss": 4.0}},
    )
    log = read_metrics(path)
    assert log.table.loc[1].to_dict() == {"train/loss": 3.0, "val/loss": 4.0}
    assert log.notes == ()


def test_a_step_logged_again_after_a_resume_replaces_the_first_and_is_noted(tmp_path):
    path = write(
        tmp_path / "metrics.jsonl", *({"step": s, "data": {"a": v}} for s, v in ((1, 1), (1, 7)))
    )
    log = read_metrics(path)
    assert log.table["a"].to_list() == [7.0]
    assert log.notes == ("1 steps were logged again after a resume; the later values count",)


def test_a_last_line_that_was_cut_off_is_left_out_and_noted(tmp_path):
    path = write(tmp_path / "metrics.jsonl", {"step": 1, "data": {"a": 1}})
    path.write_text(path.read_text() + '{"step": 2, "da')
    log = read_metrics(path)
    assert log.table.index.to_list() == [1]
    assert "cut off" in log.notes[0]


def test_a_whole_last_line_without_a_line_end_counts(tmp_path):
    log = read_metrics(write(tmp_path / "m.jsonl", {"step": 1, "data": {"a": 1}}, end=""))
    assert log.table.index.to_list() == [1]
    assert log.notes == ()


BROKEN = [
    ("{", "m.jsonl:2: not JSON"),
    ('{"step": 2}', "m.jsonl:2: expected"),
    ('{"data": {}}', "m.jsonl:2: expected"),
    ("[]", "m.jsonl:2: expected"),
]


@pytest.mark.parametrize(("line", "message"), BROKEN)
def test_a_broken_line_is_named(tmp_path, line, message):
    path = write(tmp_path / "m.jsonl", {"step": 1, "data": {"a": 1}})
    path.write_text(path.read_text() + line + "\n" + '{"step": 3, "data": {"a": 1}}\n')
    with pytest.raises(InputError, match=message):
        read_metrics(path)


def test_an_empty_log_has_no_steps(tmp_path):
    (tmp_path / "m.jsonl").write_text("")
    assert len(read_metrics(tmp_path / "m.jsonl").table) == 0
