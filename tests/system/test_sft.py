"""The supervised cold start on two processes: it learns, and it goes on after an end."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipe.run.checkpoints import mark_step

STEPS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, workspace: Path, run: Any) -> Path:
    """Run folder of a cold start that was done in two parts."""
    run_dir = tmp_path_factory.mktemp("sft")
    for last in (STEPS // 2, STEPS):
        finished = run(
            "recipe.sft",
            "experiment=demo_sft",
            "cluster=cpu",
            "model=tiny",
            f"model.path={workspace / 'model'}",
            f"data.dir={workspace / 'data'}",
            f"run_dir={run_dir}",
            "data.val_max_samples=16",
            f"trainer.total_training_steps={last}",
            "trainer.logger=[console,file]",
            "trainer.save_freq=0",  # only after the last step
            "trainer.test_freq=0",
        )
        assert finished.returncode == 0, finished.stdout[-8000:]
        (run_dir / f"console-{last}").write_text(finished.stdout)
    return run_dir


def test_the_log_covers_both_parts(folder: Path, metrics: Any) -> None:
    assert sorted(metrics(folder)) == list(range(1, STEPS + 1))


def test_the_console_is_a_few_lines_of_loss(folder: Path, foreign_lines: Any) -> None:
    for first, last in ((1, STEPS // 2), (STEPS // 2 + 1, STEPS)):
        output = (folder / f"console-{last}").read_text()
        assert foreign_lines(output) == []
        lines = output.splitlines()
        assert f"training from step {first} to step {last}" in lines
        assert any(line.startswith(f"step {first}/{last}  ") for line in lines)
        assert any(line.startswith(f"step {last}/{last}  ") for line in lines)
        assert any(line.startswith(f"val  {last}/{last}  ") for line in lines)
        assert lines[-1] == f"finished: {folder}"
    log = (folder / "log.txt").read_text()
    assert log.count("==== ") == 2
    assert "Warning" in log
    assert "have to be in `processor_kwargs`" not in log  # of transformers, for every message


def test_the_loss_falls(folder: Path) -> None:
    losses = [
        entry["data"]["train/loss"]
        for entry in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        if "train/loss" in entry["data"]
    ]
    assert len(losses) == STEPS
    assert losses[-1] < losses[0] - 0.3


def test_the_checkpoint_loads_in_transformers(folder: Path) -> None:
    import torch
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    saved = folder / "checkpoints" / f"global_step_{STEPS}" / "huggingface"
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(saved, dtype="auto")
    assert model.dtype == torch.float32  # as it was trained; verl's configuration says bfloat16
    assert (saved / "preprocessor_config.json").is_file()  # for transformers 4
    assert model.config.text_config.vocab_size == len(
        AutoProcessor.from_pretrained(saved).tokenizer
    )


def test_the_shards_of_two_ranks_merge_to_what_verl_gathered(
    folder: Path, tmp_path: Path, run: Any
) -> None:
    from transformers import Qwen2_5_VLForConditionalGeneration

    step = folder / "checkpoints" / f"global_step_{STEPS}"
    without = tmp_path / "checkpoint"
    shutil.copytree(step, without, ignore=shutil.ignore_patterns("*.safetensors"))
    assert len(list(without.glob("model_world_size_2_rank_*.pt"))) == 2
    exported = run("recipe.export", str(without), str(tmp_path / "out"))
    assert exported.returncode == 0, exported.stdout
    gathered, merged = (
        Qwen2_5_VLForConditionalGeneration.from_pretrained(path, dtype="auto").state_dict()
        for path in (step / "huggingface", tmp_path / "out")
    )
    assert gathered.keys() == merged.keys()
    assert all(gathered[name].equal(merged[name]) for name in gathered)


# of the run that is interrupted: steps of an epoch, of the whole run, and its rows for each step
EPOCH, WHOLE, ROWS = 4, 8, 8
TOO_LONG = 5
"""Place of a row that is longer than the run can take."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, workspace: Path) -> Path:
    """Data folder with the rows of `EPOCH` steps, and one that is too long."""
    out = tmp_path_factory.mktemp("small")
    table = pq.read_table(workspace / "data" / "sft_train.parquet").slice(0, EPOCH * ROWS + 1)
    rows = table.to_pylist()
    rows[TOO_LONG]["messages"][-1]["content"] += " opacity" * 500
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), out / "sft_train.parquet")
    shutil.copy(workspace / "data" / "sft_val.parquet", out)
    return out


@pytest.fixture(scope="module")
def start(workspace: Path, small: Path, run: Any) -> Any:
    """Start the run in a folder; its output."""

    def begin(run_dir: Path, *overrides: str) -> str:
        finished = run(
            "recipe.sft",
            "experiment=demo_sft",
            "cluster=cpu",
            "model=tiny",
            f"model.path={workspace / 'model'}",
            f"data.dir={small}",
            f"run_dir={run_dir}",
            f"data.train_batch_size={ROWS}",
            "data.micro_batch_size_per_gpu=4",
            f"data.val_max_samples={ROWS}",
            "data.filter_overlong_rows=true",
            f"trainer.total_epochs={WHOLE // EPOCH}",
            "trainer.logger=[console,file]",
            "trainer.save_freq=2",
            "trainer.test_freq=100",
            "trainer.max_ckpt_to_keep=null",
            "checkpoint.save_contents=[model,optimizer,extra]",
            *overrides,
        )
        assert finished.returncode == 0, finished.stdout[-8000:]
        return str(finished.stdout)

    return begin


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, start: Any) -> Path:
    """Run folder of a run that nothing interrupted."""
    run_dir = tmp_path_factory.mktemp("whole")
    start(run_dir)
    return run_dir


@pytest.mark.parametrize("step", [EPOCH, EPOCH // 2], ids=["end of an epoch", "middle of one"])
def test_a_run_that_was_interrupted_goes_on_as_if_it_was_not(
    whole: Path, start: Any, tmp_path: Path, metrics: Any, step: int
) -> None:
    run_dir = tmp_path / "run"
    later = [f"global_step_{later}" for later in range(step + 1, WHOLE + 1)]
    shutil.copytree(whole, run_dir, ignore=shutil.ignore_patterns(*later, "stop*"))
    mark_step(run_dir / "checkpoints", step)
    start(run_dir)
    again, before = metrics(run_dir), metrics(whole)
    assert sorted(again) == sorted(before) == list(range(1, WHOLE + 1))
    for name in ("train/loss", "train/grad_norm", "train/lr", "train/global_tokens", "val/loss"):
        values = [{s: m[name] for s, m in log.items() if name in m} for log in (again, before)]
        assert values[0] == values[1], name


def test_rows_that_are_too_long_are_left_out_and_listed(whole: Path, small: Path) -> None:
    listed = (whole / "overlong" / "sft_train.jsonl").read_text().splitlines()
    index = pq.read_table(small / "sft_train.parquet")["extra_info"][TOO_LONG].as_py()["index"]
    assert [json.loads(line)["index"] for line in listed] == [index]
    assert (whole / "overlong" / "sft_val.jsonl").read_text() == ""


def test_rows_that_are_too_long_are_told_before_anything_starts(
    workspace: Path, small: Path, run: Any, tmp_path: Path
) -> None:
    finished = run(
        "recipe.sft",
        *("experiment=demo_sft", "cluster=cpu", "model=tiny"),
        *(f"model.path={workspace / 'model'}", f"data.dir={small}", f"run_dir={tmp_path / 'run'}"),
    )
    assert finished.returncode == 2
    (line,) = (line for line in finished.stdout.splitlines() if line.startswith("error: "))
    assert "1 rows are longer than data.max_length=512" in line
    assert not (tmp_path / "run" / "checkpoints").exists()
