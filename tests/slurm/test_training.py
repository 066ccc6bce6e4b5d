"""Training on two nodes of a real SLURM: GRPO and SFT on the real engine, by their job scripts.

Both are asked in the middle to save and end, as the signal before a time limit does, and go on in a
second attempt.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

STEPS = 5
SFT_STEPS = 40
# No checkpoint but the one that is asked for: the runs can go on from no other.
COMMON = ("cluster=cpu", "model=tiny", "trainer.logger=[console,file,wandb]")
GRPO = (
    *COMMON,
    *("data.train_batch_size=4", "data.max_prompt_length=256", "data.max_response_length=24"),
    *("actor_rollout_ref.rollout.n=4", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8"),
    *("actor_rollout_ref.actor.use_kl_loss=false", "trainer.val_before_train=false"),
    *("trainer.test_freq=-1", "trainer.save_freq=1000", f"trainer.total_training_steps={STEPS}"),
)
SFT = (
    *COMMON,
    *("experiment=demo_sft", "data.val_max_samples=16", "trainer.save_freq=1000"),
    *("trainer.test_freq=1000", f"trainer.total_training_steps={SFT_STEPS}"),
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``data`` (prepared phantom set) and ``model`` (tiny, untrained)."""
    root = tmp_path_factory.mktemp("workspace")
    phantom, data = str(root / "phantom"), str(root / "data")
    for step in (
        ("phantom.draw", "--out", phantom, "--images", "120", "--seed", "3"),
        (
            *("data_prep.thinkvg", "--source", phantom, "--images", f"{phantom}/files"),
            *("--out", data, "--min-pixels", "12544", "--max-pixels", "15680"),
            *("--val", "0.1", "--test", "0.1"),
        ),
        ("phantom.tiny", "--data", data, "--out", str(root / "model")),
    ):
        subprocess.run([sys.executable, "-m", *step], check=True, timeout=300)
    return root


def lines(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics file so far."""
    path = run_dir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def train(submit: Any, workspace: Path, run_dir: Path, script: str, *overrides: str) -> Any:
    """Run a job script; ask it to save and end once two steps are logged; wait for its end."""
    job = submit(
        script,
        f"model.path={workspace / 'model'}",
        f"data.dir={workspace / 'data'}",
        f"run_dir={run_dir}",
        *overrides,
        options=("--gpus-per-node=1",),
    )
    states = ("PENDING", "CONFIGURING", "RUNNING")
    job.wait(lambda: len(lines(run_dir)) >= 2 or job.state not in states, "two steps", 400)
    assert job.state == "RUNNING", job.log[-8000:]
    job.slurm.run("scancel", "--signal=USR1", "--batch", job.number)
    job.wait_for_end("COMPLETED", 500)
    assert "the trainer saved a checkpoint and ended (step " in job.log
    return job


def test_grpo_on_two_nodes_goes_on_in_a_second_attempt(
    submit: Any, workspace: Path, tmp_path: Path, uploaded: Any
) -> None:
    run_dir = tmp_path / "run"
    job = train(submit, workspace, run_dir, "train.sbatch", *GRPO)
    assert [line["step"] for line in lines(run_dir)] == list(range(1, STEPS + 1))
    assert [point["_step"] for point in uploaded(run_dir)] == list(range(1, STEPS + 1))
    last = run_dir / "checkpoints" / f"global_step_{STEPS}" / "actor"
    shards = sorted(path.name for path in last.glob("model_*.pt"))
    assert shards == [f"model_world_size_2_rank_{rank}.pt" for rank in (0, 1)]
    # Ray names the other node where a line does not come from the driver's own.
    assert "ip=10.77.0.12" in (run_dir / "log.txt").read_text()
    # The job's log has the steps of both attempts, and nothing of the engines.
    assert {int(step) for step in re.findall(rf"^step +(\d+)/{STEPS} ", job.log, re.MULTILINE)} == (
        set(range(1, STEPS + 1))
    )
    assert "(TaskRunner pid=" not in job.log


def test_sft_on_two_nodes_goes_on_in_a_second_attempt(
    submit: Any, workspace: Path, tmp_path: Path, uploaded: Any
) -> None:
    run_dir = tmp_path / "run"
    job = train(submit, workspace, run_dir, "sft.sbatch", *SFT)
    trained = [line["step"] for line in lines(run_dir) if "train/loss" in line["data"]]
    assert trained == list(range(1, SFT_STEPS + 1))
    assert [point["_step"] for point in uploaded(run_dir)] == list(range(1, SFT_STEPS + 1))
    last = run_dir / "checkpoints" / f"global_step_{SFT_STEPS}"
    assert len(list(last.glob("model_world_size_2_rank_*.pt"))) == 2
    logs = tmp_path / "logs" / job.number / "attempt-1"
    assert {path.name for path in logs.glob("sft-*.log")} == {"sft-node1.log", "sft-node2.log"}
