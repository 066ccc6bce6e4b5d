"""The demo's stages: done once, gone on with, begun anew when the command changes."""

from pathlib import Path

import pytest

from phantom.demo import Plan
from phantom.stages import Ledger, Stage, StageFailed, run_stage


def stage(output: Path, *options: str) -> Stage:
    """A stage that makes a folder, with a command that every Python has."""
    return Stage("make", "make a folder", ("venv", "--without-pip", *options, str(output)), output)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "stages")


def test_a_stage_is_done_once(tmp_path: Path, ledger: Ledger) -> None:
    made = stage(tmp_path / "out")
    assert not ledger.is_done(made)
    run_stage(made, ledger, tmp_path / "logs")
    assert ledger.is_done(made)
    assert ledger.seconds(made) > 0


def test_another_command_starts_with_an_empty_folder(tmp_path: Path, ledger: Ledger) -> None:
    run_stage(stage(tmp_path / "out"), ledger, tmp_path / "logs")
    (tmp_path / "out" / "left-over").touch()
    other = stage(tmp_path / "out", "--copies")
    assert not ledger.is_done(other)
    run_stage(other, ledger, tmp_path / "logs")
    assert not (tmp_path / "out" / "left-over").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, ledger: Ledger) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    with pytest.raises(StageFailed, match="out is not of an earlier run"):
        run_stage(stage(tmp_path / "out"), ledger, tmp_path / "logs")
    assert (tmp_path / "out" / "precious").exists()


def test_a_forgotten_stage_starts_with_an_empty_folder(tmp_path: Path, ledger: Ledger) -> None:
    made = stage(tmp_path / "out")
    run_stage(made, ledger, tmp_path / "logs")
    (tmp_path / "out" / "left-over").touch()
    ledger.forget([made])
    assert not ledger.is_done(made)
    run_stage(made, ledger, tmp_path / "logs")
    assert not (tmp_path / "out" / "left-over").exists()


def test_an_interrupted_stage_keeps_what_it_has(tmp_path: Path, ledger: Ledger) -> None:
    begun = stage(tmp_path / "out")
    ledger.record(begun, 5.0, done=False)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoint").touch()
    run_stage(begun, ledger, tmp_path / "logs")
    assert (tmp_path / "out" / "checkpoint").exists()
    assert ledger.seconds(begun) >= 5.0


def test_a_stage_without_its_output_is_not_done(tmp_path: Path, ledger: Ledger) -> None:
    ledger.record(stage(tmp_path / "out"), 1.0, done=True)
    assert not ledger.is_done(stage(tmp_path / "out"))


def test_a_failed_stage_says_so_and_is_not_done(tmp_path: Path, ledger: Ledger) -> None:
    failing = stage(tmp_path / "out", "--no-such-option")
    with pytest.raises(StageFailed, match="make ended with code 2"):
        run_stage(failing, ledger, tmp_path / "logs")
    assert not ledger.is_done(failing)


def test_no_two_stages_share_a_folder(tmp_path: Path) -> None:
    stages = Plan(tmp_path, seed=0).stages()
    assert len({made.output for made in stages}) == len(stages)
    assert len({made.name for made in stages}) == len(stages)


def test_a_failed_training_names_its_fault_and_its_log(tmp_path: Path, ledger: Ledger) -> None:
    command = ("recipe.sft", "cluster=cpu", "model=tiny", "data.dir=/nowhere", "model.path=x")
    failing = Stage("sft", "train", command, tmp_path / "sft", tmp_path / "metrics.jsonl", 9)
    with pytest.raises(StageFailed) as before:
        run_stage(failing, ledger, tmp_path / "logs")
    lines = str(before.value).splitlines()
    assert "model.path=x: no such folder" in lines[0]
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("stage sft ended with code 2; run the same command to resume")
    assert lines[2:] == [f"log: {tmp_path / 'logs' / 'sft.log'}"]
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "log.txt").touch()  # of a start whose engines ran
    with pytest.raises(StageFailed) as during:
        run_stage(failing, ledger, tmp_path / "logs")
    assert str(during.value).splitlines()[-1] == f"log: {tmp_path / 'sft' / 'log.txt'}"
