"""The supervised cold start on two processes: it learns, and it goes on after an end."""

import shutil
from pathlib import Path
from typing import Any

import pytest

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
            "trainer.save_freq=100",
            "trainer.test_freq=100",
        )
        assert finished.returncode == 0, finished.stdout[-8000:]
    return run_dir


def test_the_log_covers_both_parts(folder: Path, metrics: Any) -> None:
    assert sorted(metrics(folder)) == list(range(1, STEPS + 1))


def test_the_loss_falls(folder: Path) -> None:
    import json

    losses = [
        entry["data"]["train/loss"]
        for entry in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        if "train/loss" in entry["data"]
    ]
    assert len(losses) == STEPS
    assert losses[-1] < losses[0] - 0.3


def test_the_checkpoint_loads_in_transformers(folder: Path) -> None:
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    saved = folder / "checkpoints" / f"global_step_{STEPS}" / "huggingface"
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(saved)
    assert model.config.text_config.vocab_size == len(
        AutoProcessor.from_pretrained(saved).tokenizer
    )


def test_the_shards_of_two_ranks_merge_to_what_verl_gathered(
    folder: Path, tmp_path: Path, run: Any
) -> None:
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    step = folder / "checkpoints" / f"global_step_{STEPS}"
    without = tmp_path / "checkpoint"
    shutil.copytree(step, without, ignore=shutil.ignore_patterns("*.safetensors"))
    assert len(list(without.glob("model_world_size_2_rank_*.pt"))) == 2
    exported = run("recipe.export", str(without), str(tmp_path / "out"))
    assert exported.returncode == 0, exported.stdout
    # Not "auto": verl writes float32 weights beside a configuration that says bfloat16.
    gathered, merged = (
        Qwen2_5_VLForConditionalGeneration.from_pretrained(path, dtype=torch.float32).state_dict()
        for path in (step / "huggingface", tmp_path / "out")
    )
    assert gathered.keys() == merged.keys()
    assert all(gathered[name].equal(merged[name]) for name in gathered)
