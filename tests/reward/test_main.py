"""The offline command."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from reward.__main__ import main
from reward.thinkvg import SCORE_KEYS

TRUTH: dict[str, Any] = {
    "question_type": "closed",
    "answer": "Yes",
    "choices": None,
    "regions": [],
    "think_regions": [],
    "image_size": [100, 100],
    "coordinates": "absolute",
}
GOOD = {"id": "a", "response": "<answer>Yes</answer>", "ground_truth": TRUTH}


def _write(folder: Path, *lines: str) -> Path:
    path = folder / "in.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _run(source: Path, target: Path, preset: str = "dense") -> int:
    return main(["--preset", preset, "--input", str(source), "--output", str(target)])


def test_lines_come_out_in_order_one_for_one(tmp_path: Path) -> None:
    rows = [
        GOOD | {"id": 7, "ground_truth": json.dumps(TRUTH), "extra_info": {"index": 1}},
        GOOD | {"id": "é", "response": ""},
        GOOD,
        GOOD,  # twice in, twice out
    ]
    source = _write(tmp_path, *map(json.dumps, rows))
    assert _run(source, tmp_path / "out.jsonl") == 0
    scored = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in scored] == [7, "é", "a", "a"]
    assert all(list(row) == ["id", *SCORE_KEYS] for row in scored)
    assert [row["answer"] for row in scored] == [1, 0, 1, 1]


def test_an_interrupt_ends_it_at_once(tmp_path: Path) -> None:
    source = _write(tmp_path, *[json.dumps(GOOD | {"response": "<think>so</think>" * 50})] * 60_000)
    command = ["--preset", "dense", "--input", str(source), "--output", str(tmp_path / "out.jsonl")]
    child = subprocess.Popen([sys.executable, "-m", "reward", *command], stderr=subprocess.DEVNULL)
    try:
        while not any(path.stat().st_size for path in tmp_path.glob("*.tmp")):
            assert child.poll() is None
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        child.wait(5)  # scoring the rest takes longer
    finally:
        child.kill()
    assert child.returncode != 0
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_samples_of_one_question_are_told_apart(tmp_path: Path) -> None:
    source = _write(tmp_path, *(json.dumps(GOOD | {"sample": k}) for k in range(3)))
    assert _run(source, tmp_path / "out.jsonl") == 0
    scored = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["sample"] for row in scored] == [0, 1, 2]
    assert list(scored[0]) == ["id", "sample", *SCORE_KEYS]


def test_an_empty_file_gives_an_empty_file(tmp_path: Path) -> None:
    assert _run(_write(tmp_path), tmp_path / "out.jsonl", "paper") == 0
    assert (tmp_path / "out.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "not a JSON object"),
        ("", "is empty"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "id"}), "'id'"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "response"}), "'response'"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "ground_truth"}), "'ground_truth'"),
        (json.dumps(GOOD | {"response": None}), "'response'"),
        (json.dumps(GOOD | {"ground_truth": 3}), "'ground_truth'"),
        (json.dumps(GOOD | {"ground_truth": "{"}), "ground_truth"),
        (json.dumps(GOOD | {"ground_truth": TRUTH | {"answer": "x"}}), "answer"),
    ],
)
def test_a_malformed_line_is_named_and_nothing_is_written(
    line: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _write(tmp_path, json.dumps(GOOD), line, json.dumps(GOOD))
    assert _run(source, tmp_path / "out.jsonl") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{source}, line 2" in error
    assert named in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]


def test_an_existing_output_is_kept_on_failure(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    target.write_text("before")
    assert _run(_write(tmp_path, "{"), target) == 2
    assert target.read_text() == "before"


def test_wrong_paths_and_presets_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _write(tmp_path, json.dumps(GOOD))
    for arguments, named in (
        ((tmp_path / "none.jsonl", tmp_path / "out.jsonl"), "none.jsonl"),
        ((source, tmp_path / "none" / "out.jsonl"), "none"),
        ((source, source), "is the input"),
        ((source, tmp_path / "out.jsonl", "nosuch"), "nosuch"),
        ((source, tmp_path), "is a folder"),
    ):
        assert _run(*arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert named in error
    assert source.read_text() == json.dumps(GOOD) + "\n"


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    source, target = _write(tmp_path, json.dumps(GOOD)), tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "reward", "--preset", "paper"]
    subprocess.run(
        [*command, "--input", str(source), "--output", str(target)],
        check=True,
        capture_output=True,
    )
    assert len(target.read_text().splitlines()) == 1
