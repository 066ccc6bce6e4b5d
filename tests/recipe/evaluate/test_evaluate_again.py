"""Metrics made anew from kept predictions, AR-scores, and the comparison of two models."""

import dataclasses
import json

import pyarrow.parquet as pq
import pytest

from data_prep.program import SYNTHETIC, InputError
from recipe.compare import main as compare
from recipe.evaluate.__main__ import check_beside, shows_no_patient
from recipe.evaluate.predictions import (
    add_ar_scores,
    score_predictions,
    write_predictions,
)
from recipe.program import compose_config


@pytest.fixture
def two_models(make_prediction, tmp_path):
    """SFT: wrong, IoU 0.5. GRPO: right, IoU 0.8. Ten questions of five patients."""
    paths = []
    for name, answer, height in (("sft", "No", 50), ("grpo", "Yes", 80)):
        predictions = [
            dataclasses.replace(
                make_prediction(i, answer, height), extra_info={"patient": f"p{i // 2}"}
            )
            for i in range(10)
        ]
        paths.append(tmp_path / f"{name}.jsonl")
        write_predictions(paths[-1], score_predictions(predictions))
    return paths


def test_two_models_compared(two_models, tmp_path, capsys):
    assert compare([*map(str, two_models), "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    gain = found["difference"]["overall"]
    assert gain["a_score"] == {"mean": 1.0, "ci95": [1.0, 1.0]}
    assert gain["v_score"]["mean"] == pytest.approx(0.3)
    assert found["before"]["closed"]["v_score"]["mean"] == pytest.approx(0.5)
    assert "+0.300 [+0.300, +0.300]" in capsys.readouterr().out


def test_a_folder_stands_for_its_greedy_answers(two_models, tmp_path, capsys):
    folders = [tmp_path / name for name in ("before", "after")]
    for folder, file in zip(folders, two_models, strict=True):
        folder.mkdir()
        file.rename(folder / "greedy.jsonl")
    assert compare([*map(str, folders)]) == 0
    assert "+0.300 [+0.300, +0.300]" in capsys.readouterr().out


def test_other_questions_cannot_be_compared(two_models, tmp_path, capsys):
    lines = two_models[0].read_text().splitlines(keepends=True)
    short = tmp_path / "short.jsonl"
    short.write_text("".join(lines[1:]))
    assert compare([str(short), str(two_models[1])]) == 2
    assert "'q0'" in capsys.readouterr().err


def test_ar_scores_are_the_judges_grades(make_prediction, judge_server):
    # The test's judge gives 9 and 9 for the same words, else 9 to one and 2 to the other.
    predictions = [
        make_prediction(0, "Yes"),
        make_prediction(1, "No"),
        dataclasses.replace(make_prediction(2), response="nothing"),
    ]
    scored = add_ar_scores(predictions, {"base_url": judge_server.url})
    values = [p.scores["ar_score"] for p in scored]
    assert values[0] == 1.0
    assert values[1] in (pytest.approx(2 / 9), 1.0)  # the grades stand by position, not by side
    assert values[2] == 0.0
    assert judge_server.seen()["requests"] == 2
    assert "seen" in json.loads(judge_server.seen()["bodies"][0]["messages"][-1]["content"])[
        "answer_1"
    ].get("reasoning", "seen")


def test_predictions_are_synthetic_if_they_are_of_a_split_that_is(
    make_prediction, make_truth, write_parquet
):
    split = write_parquet("test", [make_truth(), make_truth()])
    on_split = [
        dataclasses.replace(make_prediction(i), extra_info={"patient": f"p9000000{i}"})
        for i in range(2)
    ]
    assert not shows_no_patient(split, on_split)
    pq.write_table(pq.read_table(split).replace_schema_metadata(SYNTHETIC), split)
    assert shows_no_patient(split, on_split)
    # predictions of an earlier evaluation, on another split
    others = [dataclasses.replace(p, extra_info={"patient": "p123456789"}) for p in on_split]
    assert not shows_no_patient(split, others)


def test_another_models_questions_are_checked_before_any_is_answered(two_models, tmp_path):
    sft, _ = two_models
    folder = tmp_path / "sft"
    folder.mkdir()
    sft.rename(folder / "greedy.jsonl")
    config = compose_config("evaluate", ["data.dir=D", f"+beside.SFT={folder}"])
    check_beside(config, {f"q{i}" for i in range(10)})
    with pytest.raises(InputError, match=r"beside\.SFT=.*: 1 of the 10 questions .* 1 are others"):
        check_beside(config, {f"q{i}" for i in range(1, 11)})
