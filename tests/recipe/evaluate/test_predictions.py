import dataclasses
import json
from pathlib import Path

import pytest

from data_prep.program import InputError
from recipe.evaluate.predictions import read_predictions, score_predictions, write_predictions
from reward.settings import load_preset
from reward.thinkvg import SCORE_KEYS, compute_score


def test_a_file_is_read_as_it_was_written(tmp_path, make_prediction):
    predictions = score_predictions([make_prediction(0), make_prediction(1, sample=3)])
    write_predictions(tmp_path / "deep" / "p.jsonl", predictions)
    assert read_predictions(tmp_path / "deep" / "p.jsonl") == predictions


def test_lines_have_exactly_the_documented_keys(tmp_path, make_prediction):
    write_predictions(tmp_path / "p.jsonl", [make_prediction(0)])
    (line,) = (tmp_path / "p.jsonl").read_text().splitlines()
    assert list(json.loads(line)) == [
        "id",
        "index",
        "sample",
        "response",
        "ground_truth",
        "extra_info",
        "scores",
        "is_cut",
    ]


def test_a_response_with_line_breaks_and_marks_of_other_scripts_stays_one_line(
    tmp_path, make_prediction
):
    odd = dataclasses.replace(make_prediction(0), response="a\n\u2028\r µ 左")
    write_predictions(tmp_path / "p.jsonl", [odd])
    assert read_predictions(tmp_path / "p.jsonl") == [odd]


def test_a_failed_write_leaves_the_earlier_file_and_nothing_else(tmp_path, make_prediction):
    path = tmp_path / "p.jsonl"
    write_predictions(path, [make_prediction(0)])
    before = path.read_bytes()
    not_a_number = dataclasses.replace(make_prediction(1), scores={"score": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_predictions(path, [not_a_number])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_scores_are_those_of_the_dense_preset(make_prediction):
    prediction = make_prediction(0, height=60)
    (scored,) = score_predictions([prediction])
    expected = compute_score(
        "thinkvg", prediction.response, prediction.ground_truth, **load_preset("dense")
    )
    assert tuple(scored.scores) == SCORE_KEYS
    assert scored.scores == expected
    assert scored.scores["mean_iou"] == pytest.approx(0.6)


def test_another_preset_gives_other_scores(make_prediction):
    (scored,) = score_predictions([make_prediction(0, height=60)], preset="paper")
    assert scored.scores["grounding"] == 0.0  # 0.6 is below the published threshold of 0.75


BROKEN = [
    ("{", r"p.jsonl:2: Invalid JSON"),
    ("[]", r"p.jsonl:2: Input should be an object"),
    ('{"id": "x"}', r"p.jsonl:2: index: Field required"),
    ("index=true", r"p.jsonl:2: index: Input should be a valid integer"),
    ("sample=null", r"p.jsonl:2: sample: Input should be a valid integer"),
    ("response=1", r"p.jsonl:2: response: Input should be a valid string"),
    ('scores={"score": "1"}', r"p.jsonl:2: scores.score: Input should be a valid number"),
    ('scores={"score": NaN}', r"p.jsonl:2: scores.score: Input should be a finite number"),
    ("extra=1", r"p.jsonl:2: extra: Unexpected keyword argument"),
    ("ground_truth={}", r"p.jsonl:2: ground_truth: ground_truth lacks"),
    ("index=0", r"p.jsonl:2: id 'q0' sample 0 is already on line 1"),  # the first line again
]


@pytest.mark.parametrize(("line", "message"), BROKEN)
def test_a_broken_line_is_named(tmp_path: Path, make_prediction, line, message):
    path = tmp_path / "p.jsonl"
    write_predictions(path, [make_prediction(0)])
    first = path.read_text()
    if "=" in line:
        key, value = line.split("=")
        line = json.dumps(json.loads(first) | {key: json.loads(value)})
    path.write_text(first + line + "\n")
    with pytest.raises(InputError, match=message):
        read_predictions(path)


def test_a_missing_or_empty_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl: no such predictions file"):
        read_predictions(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match=r"empty\.jsonl: no predictions"):
        read_predictions(tmp_path / "empty.jsonl")
