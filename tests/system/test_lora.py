"""LoRA on the real engines: the base stays; adapters train, reach the rollout, are exported."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from recipe.export import read_shards
from recipe.run.checkpoints import mark_step

LORA = "lora=r16"
STEPS = 4


def weights(model: Path) -> dict[str, torch.Tensor]:
    from transformers import Qwen2_5_VLForConditionalGeneration

    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(model, dtype=torch.float32)
    return dict(loaded.state_dict())


def check_base_and_adapters(shards: Path, base: Path) -> dict[str, torch.Tensor]:
    """The base is as it was, adapters are in language layers only and moved; return these."""
    before = weights(base)
    state = {
        name.removeprefix("base_model.model."): value for name, value in read_shards(shards).items()
    }
    adapters = {name: value for name, value in state.items() if ".lora_" in name}
    frozen = {
        name.replace(".base_layer.", "."): value
        for name, value in state.items()
        if name not in adapters
    }
    assert frozen.keys() == before.keys()
    assert all(frozen[name].equal(before[name]) for name in frozen)
    layers = len({name.split("layers.")[1].split(".")[0] for name in adapters})
    # two matrices at each of the seven linear layers of a block
    assert len(adapters) == layers * 7 * 2
    assert all(name.startswith("model.language_model.layers.") for name in adapters)
    # the second matrix of an adapter is 0 at first
    assert all(value.abs().max() > 0 for value in adapters.values())
    return adapters


@pytest.fixture(scope="module")
def sft(tmp_path_factory: Any, workspace: Path, run: Any) -> Any:
    """Start a cold start with LoRA in a folder."""

    def start(run_dir: Path) -> None:
        finished = run(
            *("recipe.sft", "experiment=demo_sft", "cluster=cpu", "model=tiny", LORA),
            *(f"model.path={workspace / 'model'}", f"data.dir={workspace / 'data'}"),
            *(f"run_dir={run_dir}", "data.val_max_samples=16", "optim.lr=1e-2"),
            *("trainer.total_training_steps=6", "trainer.logger=[console,file]"),
            *("trainer.save_freq=3", "trainer.test_freq=100", "trainer.max_ckpt_to_keep=null"),
        )
        assert finished.returncode == 0, finished.stdout[-8000:]

    return start


@pytest.fixture(scope="module")
def cold_start(tmp_path_factory: Any, sft: Any) -> Path:
    run_dir: Path = tmp_path_factory.mktemp("lora-sft")
    sft(run_dir)
    return run_dir


def losses(run_dir: Path) -> list[float]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    values = (json.loads(line)["data"] for line in lines)
    return [value["train/loss"] for value in values if "train/loss" in value]


def test_a_cold_start_trains_adapters_only(cold_start: Path, workspace: Path) -> None:
    shards = cold_start / "checkpoints" / "global_step_6"
    check_base_and_adapters(shards, workspace / "model")
    assert losses(cold_start)[-1] < losses(cold_start)[0] - 0.5


def test_a_cold_start_resumes_with_its_adapters(cold_start: Path, sft: Any, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(cold_start, run_dir, ignore=shutil.ignore_patterns("global_step_6", "stop*"))
    mark_step(run_dir / "checkpoints", 3)
    sft(run_dir)
    assert losses(run_dir) == losses(cold_start)


@pytest.fixture(scope="module")
def grpo(tmp_path_factory: Any, run: Any, training: Any) -> tuple[Path, Any]:
    """Run folder of GRPO with LoRA that was done in two parts, and its command."""
    run_dir: Path = tmp_path_factory.mktemp("lora-grpo")
    for last in (STEPS - 1, STEPS):
        finished = run(
            *training(
                run_dir,
                LORA,
                f"trainer.total_training_steps={last}",
                "trainer.save_freq=1",
                "actor_rollout_ref.actor.optim.lr=1e-2",
                # An untrained model earns no reward; the entropy moves its adapters.
                "actor_rollout_ref.actor.entropy_coeff=0.1",
                # The reference is the base without adapters: how far the policy has moved from it.
                "actor_rollout_ref.actor.use_kl_loss=true",
                "actor_rollout_ref.actor.kl_loss_coef=1e-3",
                f"trainer.validation_data_dir={run_dir / 'validation'}",
                f"trainer.test_freq={last}",
                "data.val_max_samples=16",
            )
        )
        assert finished.returncode == 0, finished.stdout[-8000:]
    return run_dir, finished


def test_the_rollout_follows_the_adapters(
    grpo: Any, metrics: Any, check_rollout_follows: Any
) -> None:
    run_dir, _ = grpo
    logged = metrics(run_dir)
    # The last step is the first after a resume: there the engine has the checkpoint's adapters.
    assert sorted(logged) == list(range(1, STEPS + 1))
    check_rollout_follows(logged)


def test_the_base_stays(grpo: Any, workspace: Path) -> None:
    run_dir, _ = grpo
    actor = run_dir / "checkpoints" / f"global_step_{STEPS}" / "actor"
    check_base_and_adapters(actor, workspace / "model")


def test_the_merged_export_answers_like_base_and_adapters(
    grpo: Any, workspace: Path, tmp_path: Path, run: Any, greedy_answers: Any
) -> None:
    """The rollout engine has base and adapters apart; its answers of the last validation."""
    run_dir, _ = grpo
    out = tmp_path / "exported"
    exported = run("recipe.export", str(run_dir), str(out))
    assert exported.returncode == 0, exported.stdout
    assert not any("lora" in name for name in weights(out))
    answers = greedy_answers("transformers", out)
    rows = (run_dir / "validation" / f"{STEPS}.jsonl").read_text().splitlines()
    assert len(rows) == 16
    for row in map(json.loads, rows):
        assert row["output"] in answers[row["gts"]]
    assert answers != greedy_answers("transformers", workspace / "model"), "as the base answers"
