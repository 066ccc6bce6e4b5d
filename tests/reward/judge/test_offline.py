"""The offline command and the evaluation with a judged preset."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from data_prep.program import InputError
from recipe.evaluate.predictions import Prediction, score_predictions
from reward.__main__ import main
from reward.thinkvg import SCORE_KEYS

TRUTH: dict[str, Any] = {
    "question_type": "open",
    "answer": "Left effusion",
    "regions": [],
    "think_regions": [],
    "image_size": [9, 9],
    "coordinates": "absolute",
}


def row(number: int) -> dict[str, Any]:
    """A row that is right if its number is even; each has other reasoning."""
    answer = "Left effusion" if number % 2 == 0 else f"Finding {number}"
    response = f"<think>Step {number}.</think><answer>{answer}</answer><location></location>"
    return {"id": number, "response": response, "ground_truth": TRUTH}


def write(folder: Path, count: int) -> Path:
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(row(number)) + "\n" for number in range(count)))
    return path


def run(source: Path, *judge: str) -> int:
    target = source.with_name("out.jsonl")
    options = [part for pair in judge for part in ("--judge", pair)]
    files = ["--input", str(source), "--output", str(target)]
    return main(["--preset", "paper_judge", *files, *options])


def test_lines_come_out_in_order_one_for_one(judge_server, tmp_path) -> None:
    judge_server.control(delay_s=0.03)
    assert run(write(tmp_path, 300), f"base_url={judge_server.url}", "max_concurrency=8") == 0
    scored = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["id"] for line in scored] == list(range(300))
    assert [line["answer"] for line in scored] == [1, 0] * 150
    assert all(list(line) == ["id", *SCORE_KEYS] for line in scored)
    assert 4 <= judge_server.seen()["peak"] <= 8


@pytest.mark.parametrize(
    ("judge", "named"),
    [
        ([], r"judge\.base_url is not set"),
        (["base_url=https://api.example.com/v1"], "data use agreement"),
        (["base_url=http://127.0.0.1:1/v1", "timeout=3"], "unknown setting judge.timeout"),
        (["base_url"], "write KEY=VALUE"),
        (["base_url=[", ""], "not YAML"),
        (["base_url=http://127.0.0.1:1/v1", "api_key_env=NO_SUCH_KEY"], "NO_SUCH_KEY is not set"),
    ],
)
def test_a_wrong_setting_is_one_line(judge, named, tmp_path, capsys) -> None:
    assert run(write(tmp_path, 1), *judge) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(named, line)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_preset_without_a_judge_takes_no_settings_of_one(tmp_path, capsys) -> None:
    source = write(tmp_path, 1)
    files = ["--input", str(source), "--output", str(tmp_path / "out.jsonl")]
    assert main(["--preset", "dense", *files, "--judge", "model=x"]) == 2
    assert "it has no judge" in capsys.readouterr().err


def test_a_faulty_row_is_named_by_its_line(judge_server, tmp_path, capsys) -> None:
    source = write(tmp_path, 5)
    with source.open("a") as out:
        out.write(json.dumps(row(5) | {"ground_truth": {}}) + "\n")
    assert run(source, f"base_url={judge_server.url}") == 2
    assert "in.jsonl, line 6: ground_truth lacks" in capsys.readouterr().err


@pytest.mark.parametrize(("count", "asked"), [(40, 40), (5000, 768)])
def test_too_many_faults_end_the_command(count, asked, judge_server, tmp_path, capsys) -> None:
    judge_server.control(always="401")
    # A long file is not read to its end: three blocks of 256 are enough to tell.
    assert run(write(tmp_path, count), f"base_url={judge_server.url}") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("reward:")]
    assert f"the judge failed for {asked} of {asked} responses" in line
    assert not (tmp_path / "out.jsonl").exists()


def test_a_fault_of_a_row_does_not_wait_for_the_judge(judge_server, tmp_path, capsys) -> None:
    judge_server.control(always="hang")
    source = write(tmp_path, 5)
    lines = source.read_text().splitlines()
    source.write_text("\n".join([json.dumps(row(9) | {"ground_truth": {}}), *lines]))
    start = time.monotonic()
    assert run(source, f"base_url={judge_server.url}") == 2
    assert time.monotonic() - start < 10
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
    assert "in.jsonl, line 1: ground_truth lacks" in line


def test_few_faults_are_counted_in_the_output(judge_server, tmp_path) -> None:
    judge_server.control(shares={"401": 0.1})
    assert run(write(tmp_path, 300), f"base_url={judge_server.url}") == 0
    scored = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert 10 < sum(line["judge_failed"] for line in scored) < 50
    assert all(line["judge_used"] + line["judge_failed"] == 1 for line in scored)
    assert [line["answer"] for line in scored] == [1, 0] * 150


def predictions(count: int) -> list[Prediction]:
    rows = map(row, range(count))
    return [Prediction(str(n), n, 0, line["response"], TRUTH) for n, line in enumerate(rows)]


def test_an_evaluation_is_judged(judge_server) -> None:
    scored = score_predictions(predictions(20), "paper_judge", {"base_url": judge_server.url})
    assert [one.scores["answer"] for one in scored] == [1, 0] * 10
    assert all(one.scores["judge_used"] for one in scored)


def test_an_evaluation_ends_with_too_many_faults(judge_server) -> None:
    judge_server.control(always="401")
    with pytest.raises(InputError, match="the judge failed for 20 of 20 responses"):
        score_predictions(predictions(20), "paper_judge", {"base_url": judge_server.url})
