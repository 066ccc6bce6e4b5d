"""What a run that is started again keeps: its W&B id, and the answer to a request."""

import os

import pytest

from recipe.run.folder import PASSED_ON, VARIABLE, StopRequest, set_variables, wandb_run_id


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in (*PASSED_ON, VARIABLE):
        monkeypatch.delenv(name, raising=False)


def test_a_run_folder_keeps_its_id(tmp_path, monkeypatch):
    first = wandb_run_id(tmp_path)
    assert wandb_run_id(tmp_path) == first
    assert wandb_run_id(tmp_path / "other") != first
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    assert wandb_run_id(tmp_path) == "mine"
    monkeypatch.delenv("WANDB_RUN_ID")
    assert wandb_run_id(tmp_path) == "mine"


def test_what_the_user_set_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    passed_on = set_variables(tmp_path)
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
