"""The file that says that a run has done all its steps."""

import os
from pathlib import Path

import pytest

from recipe.program import compose_config
from recipe.run.checkpoints import mark_step
from recipe.train import __main__ as program
from recipe.train.__main__ import FINISHED, train


@pytest.mark.parametrize(
    ("overrides", "step", "is_finished"),
    [([], 0, True), (["trainer.val_only=true"], 0, True), (["trainer.val_only=true"], 5, False)],
    ids=["a training", "a validation alone", "a validation of a run that was interrupted"],
)
def test_only_the_end_of_its_steps_finishes_a_run(
    overrides: list[str],
    step: int,
    is_finished: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for part in ("refuse_faulty", "prepare", "run_engine", "start_from"):
        monkeypatch.setattr(program, part, lambda *_: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    paths = ["data.dir=DIR", "model.path=MODEL", f"run_dir={tmp_path}"]
    if step:
        mark_step(tmp_path / "checkpoints", step)
    train(compose_config("train", [*paths, "cluster.fork_processes=false", *overrides]))
    assert (tmp_path / FINISHED).is_file() == is_finished
    # Ray must not join a cluster that happens to run on this machine
    assert os.environ.pop("RAY_ADDRESS") == "local"
