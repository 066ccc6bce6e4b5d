"""THINKVG_PREFLIGHT: a false alarm can be passed, but not what would harm others."""

from pathlib import Path

import pytest
from omegaconf import DictConfig

from data_prep.program import InputError
from recipe.preflight.__main__ import main
from recipe.preflight.checklist import refuse_faulty
from recipe.program import compose_config
from recipe.run.folder import note_settings

FAULT = "data.train_batch_size=4096"


@pytest.fixture
def overrides(prepared: Path, tmp_path: Path) -> list[str]:
    """A run with one fault, which harms nobody else."""
    paths = [f"data.dir={prepared / 'data'}", f"model.path={prepared / 'model'}"]
    settings = ["cluster=cpu", "model=tiny", "experiment=demo_grpo", FAULT]
    return [*settings, *paths, f"run_dir={tmp_path}"]


def test_on_refuses(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THINKVG_PREFLIGHT", "on")
    with pytest.raises(InputError, match=FAULT):
        refuse_faulty(compose_config("train", overrides), "train")


@pytest.mark.parametrize(("mode", "is_shown"), [("warn", True), ("off", False)])
def test_others_pass_a_fault(
    overrides: list[str],
    mode: str,
    is_shown: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("THINKVG_PREFLIGHT", mode)
    refuse_faulty(compose_config("train", overrides), "train")
    shown = [line for line in capsys.readouterr().out.splitlines() if FAULT in line]
    assert [line.startswith("warning: ") for line in shown] == [True] * is_shown


@pytest.mark.parametrize("mode", ["warn", "off"])
def test_no_mode_passes_another_run(
    overrides: list[str], mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THINKVG_PREFLIGHT", mode)
    note_settings(compose_config("train", [*overrides, "seed=7"]), "train")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="holds another run"):
        refuse_faulty(compose_config("train", overrides), "train")


def test_another_mode_is_refused(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THINKVG_PREFLIGHT", "no")
    with pytest.raises(InputError, match="THINKVG_PREFLIGHT=no: choose on, warn"):
        refuse_faulty(compose_config("train", overrides), "train")


def test_an_evaluation_merges_shards_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse_shards(config: DictConfig) -> None:
        raise InputError("its weights are in shards")

    monkeypatch.setattr("recipe.preflight.__main__.start_from", refuse_shards)
    arguments = ["--program", "evaluate", "data.dir=DIR", "model.path=./MODEL", "cluster=cpu"]
    monkeypatch.setattr("sys.argv", ["preflight", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert "model.path=./MODEL: no such folder" in capsys.readouterr().out
