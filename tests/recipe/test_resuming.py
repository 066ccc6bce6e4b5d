"""What a run that is started again keeps: its W&B id and history, and the answer to a request."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipe import run_identity
from recipe.metrics_file import values_by_step
from recipe.stop_request import VARIABLE, StopRequest
from recipe.wandb_files import BLOCK, FILE_HEADER, encode, fill_in, forget_after, history, records

LOG = """
import sys, wandb
run = wandb.init(project="p", id="abc", mode="offline", dir=sys.argv[1], resume="allow")
for step in range(int(sys.argv[2]), int(sys.argv[3])):
    run.log({"reward/score/mean": step / 10, "text": "x" * 9000}, step=step)
run.finish()
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in (*run_identity.PASSED_ON, VARIABLE):
        monkeypatch.delenv(name, raising=False)


def start(folder: Path, first: int, end: int) -> None:
    subprocess.run(
        [sys.executable, "-c", LOG, str(folder), str(first), str(end)], check=True, timeout=60
    )


def test_records_survive_blocks(tmp_path):
    bodies = [b"", b"a", bytes(BLOCK - 20), b"b" * (3 * BLOCK), b"c" * 100]
    (tmp_path / "file").write_bytes(encode(bodies))
    assert list(records(tmp_path / "file")) == bodies


@pytest.mark.parametrize("cut", [1, 40, 110])
def test_a_cut_off_end_ends_the_records(tmp_path, cut):
    whole = encode([b"a" * 10, b"b" * 100])
    (tmp_path / "file").write_bytes(whole[:-cut])
    assert list(records(tmp_path / "file")) in ([b"a" * 10], [])


def test_a_file_without_records(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert list(records(tmp_path / "file")) == []
    (tmp_path / "file").write_bytes(FILE_HEADER)
    assert list(records(tmp_path / "file")) == []


def test_steps_that_come_again_leave_the_offline_history(tmp_path):
    start(tmp_path, 1, 9)
    forget_after(tmp_path, "abc", 5)
    points = history(tmp_path, "abc")
    assert [point["_step"] for point in points] == [1, 2, 3, 4, 5]
    assert points[2]["reward/score/mean"] == pytest.approx(0.3)
    start(tmp_path, 6, 8)
    assert [point["_step"] for point in history(tmp_path, "abc")] == [1, 2, 3, 4, 5, 6, 7]
    assert history(tmp_path, "another") == []


def test_steps_that_a_kill_took_come_back(tmp_path):
    start(tmp_path, 1, 4)
    logged = {step: {"reward/score/mean": step / 10} for step in (1, 2, 3, 4, 5)}
    forget_after(tmp_path, "abc", 1)
    fill_in(tmp_path, "abc", logged)
    start(tmp_path, 6, 8)
    points = history(tmp_path, "abc")
    assert [point["_step"] for point in points] == [1, 2, 3, 4, 5, 6, 7]
    assert [point["reward/score/mean"] for point in points] == pytest.approx(
        [step / 10 for step in range(1, 8)]
    )
    fill_in(tmp_path, "abc", logged)
    assert history(tmp_path, "abc") == points
    fill_in(tmp_path, "another", logged)
    assert history(tmp_path, "another") == []


def test_the_last_line_of_a_step_counts():
    lines = [{"step": 1, "data": {"a": 1, "b": 2}}, {"step": 1, "data": {"b": 3}}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    assert values_by_step(text) == {1: {"a": 1, "b": 3}}


def test_a_run_folder_keeps_its_id(tmp_path, monkeypatch):
    first = run_identity.run_id(tmp_path)
    assert run_identity.run_id(tmp_path) == first
    assert run_identity.run_id(tmp_path / "other") != first
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    assert run_identity.run_id(tmp_path) == "mine"
    monkeypatch.delenv("WANDB_RUN_ID")
    assert run_identity.run_id(tmp_path) == "mine"


def test_what_the_user_set_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    passed_on = run_identity.set_variables(tmp_path)
    assert passed_on["WANDB_MODE"] == "online"
    assert passed_on["WANDB_RESUME"] == "allow"
    assert passed_on["VERL_FILE_LOGGER_PATH"] == str(tmp_path / "metrics.jsonl")
    assert os.environ["WANDB_RUN_ID"] == passed_on["WANDB_RUN_ID"]


def test_a_request_is_answered_once(tmp_path):
    request = StopRequest(tmp_path / "stop")
    assert not request.asked()
    (tmp_path / "stop").touch()
    assert request.asked()
    assert request.answered() is None
    request.answer(7)
    assert not request.asked()
    assert StopRequest(tmp_path / "stop").answered() == 7


def test_a_new_run_forgets_what_an_earlier_one_was_asked(tmp_path, monkeypatch):
    request = StopRequest(tmp_path / "stop")
    request.answer(7)
    (tmp_path / "stop").touch()
    request.begin()
    assert request.answered() is None
    assert not request.asked()


def test_a_launcher_s_request_may_come_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "stop"))
    (tmp_path / "stop").touch()
    request = StopRequest(tmp_path / "stop")
    request.begin()
    assert request.asked()
