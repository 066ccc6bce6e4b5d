"""GRPO on the real engine: what is logged, what is kept, and what a killed run goes on with."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from recipe.workspace import LAYOUT
from reward.ground_truth import QUESTION_TYPES
from reward.settings import COMPONENTS
from reward.thinkvg import SCORE_KEYS

STEPS = 6
SAVE_EVERY = 2
TABLE_EVERY = 3
OVERRIDES = (
    f"trainer.total_training_steps={STEPS}",
    f"trainer.save_freq={SAVE_EVERY}",
    "trainer.logger=[console,file,wandb,tensorboard]",
    f"trainer.v1.thinkvg.rollout_table.every={TABLE_EVERY}",
    "actor_rollout_ref.actor.optim.lr=1e-3",
    # An untrained model earns no reward and so has no advantage; the entropy moves its weights.
    "actor_rollout_ref.actor.entropy_coeff=0.1",
    # The reference is the model at the start: how far the policy has moved from it.
    "actor_rollout_ref.actor.use_kl_loss=true",
    "actor_rollout_ref.actor.kl_loss_coef=1e-3",
)


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, run: Any, training: Any
) -> tuple[Path, str]:
    """Folder and output of a run from the first step to the last."""
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    command = training(
        run_dir,
        *OVERRIDES,
        f"trainer.rollout_data_dir={run_dir / 'rollouts'}",
        # The rollout engine's greedy answers after the last step, for the test of the export.
        f"trainer.validation_data_dir={run_dir / 'validation'}",
        f"trainer.test_freq={STEPS}",
        "data.val_max_samples=16",
    )
    with pytest.MonkeyPatch.context() as environment:
        # Too long for any socket in it: recipe.run.host gives it a short name.
        environment.setenv("TMPDIR", str(tmp_path_factory.mktemp("x" * 100)))
        finished = run(*command)
    assert finished.returncode == 0, finished.stdout[-8000:]
    return run_dir, finished.stdout


def prompts_of(run_dir: Path) -> dict[int, list[str]]:
    """The prompts that each step rolled out, sorted within the step."""
    return {
        int(path.stem): sorted(json.loads(line)["input"] for line in path.open())
        for path in (run_dir / "rollouts").glob("*.jsonl")
    }


def test_every_component_is_logged_at_every_step(uninterrupted: Any, metrics: Any) -> None:
    run_dir, _ = uninterrupted
    logged = metrics(run_dir)
    assert sorted(logged) == list(range(1, STEPS + 1))
    for values in logged.values():
        for name in (*COMPONENTS, *SCORE_KEYS):
            assert f"reward/{name}/mean" in values
            assert f"reward/{name}/std" in values
        assert values["reward/score/mean"] == pytest.approx(values["critic/score/mean"], abs=1e-5)


def test_the_console_is_a_line_for_each_step(
    uninterrupted: Any, metrics: Any, foreign_lines: Any
) -> None:
    run_dir, output = uninterrupted
    assert foreign_lines(output) == []
    assert max(map(len, re.findall("^(?:step|val) .*", output, re.MULTILINE))) <= 120
    shown = re.findall(rf"^step +(\d)/{STEPS} +(\S+)", output, re.MULTILINE)
    logged = {step: values["critic/score/mean"] for step, values in metrics(run_dir).items()}
    assert shown == [(str(step), f"{score:.3f}") for step, score in sorted(logged.items())]
    log = (run_dir / "log.txt").read_text()
    assert "(TaskRunner pid=" in log
    assert "WARNING" in log  # vLLM's
    assert "step:1" not in log  # all numbers of a step are in metrics.jsonl
    assert "target_num_threads" not in log  # TransferQueue's warning, 80 times a step


def test_rollout_follows_the_actor(
    uninterrupted: Any, metrics: Any, check_rollout_follows: Any
) -> None:
    run_dir, _ = uninterrupted
    check_rollout_follows(metrics(run_dir))


def test_no_row_is_lost_before_training(uninterrupted: Any, workspace: Path) -> None:
    run_dir, output = uninterrupted
    rows = pq.read_metadata(workspace / "data" / "train.parquet").num_rows
    dropped = (run_dir / "overlong" / "train.jsonl").read_text().splitlines()
    assert f"train: {rows} rows, {rows - len(dropped)} used, {len(dropped)} longer than" in output


def test_checkpoint_is_a_hugging_face_folder(uninterrupted: Any, workspace: Path) -> None:
    import torch
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    run_dir, _ = uninterrupted
    folder = run_dir / "checkpoints" / f"global_step_{STEPS}" / "actor" / "huggingface"
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype="auto")
    assert model.dtype == torch.float32  # as it was trained; verl's configuration says bfloat16
    assert (folder / "preprocessor_config.json").is_file()  # for transformers 4
    trained = model.state_dict()
    start = Qwen2_5_VLForConditionalGeneration.from_pretrained(workspace / "model").state_dict()
    assert trained.keys() == start.keys()
    assert any(not trained[name].equal(start[name]) for name in trained)
    assert len(AutoProcessor.from_pretrained(folder).tokenizer) == len(trained["lm_head.weight"])


@pytest.mark.parametrize("library", ["vllm", "transformers", "transformers 4.57"])
def test_an_exported_model_answers_like_the_rollout_engine(
    uninterrupted: Any, tmp_path: Path, run: Any, greedy_answers: Any, library: str, request: Any
) -> None:
    run_dir, _ = uninterrupted
    out = tmp_path / "exported"
    exported = run("recipe.export", str(run_dir), str(out))
    assert exported.returncode == 0, exported.stdout
    assert f"global_step_{STEPS}" in (out / "README.md").read_text()
    assert "synthetic phantom set" in (out / "README.md").read_text()
    name, _, older = library.partition(" ")
    packages = request.getfixturevalue("older_transformers") if older else None
    found = greedy_answers(name, out, packages=packages)
    dumped = (run_dir / "validation" / f"{STEPS}.jsonl").read_text().splitlines()
    rolled_out = [json.loads(line) for line in dumped]
    assert len(rolled_out) == 16
    for row in rolled_out:
        assert row["output"] in found[row["gts"]]


def tensorboard_steps(run_dir: Path, metric: str) -> dict[int, float]:
    """Values of a scalar by step, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in events.Scalars(metric)]
    assert len(dict(found)) == len(found), f"{metric} has a step twice"
    return dict(found)


def test_wandb_has_one_point_a_step_with_every_curve(
    uninterrupted: Any, metrics: Any, uploaded: Any
) -> None:
    run_dir, _ = uninterrupted
    points, logged = uploaded(run_dir), metrics(run_dir)
    assert [point["_step"] for point in points] == list(range(1, STEPS + 1))
    for point in points:
        for name in ("score", *COMPONENTS):
            for kind in ("mean", "std"):
                key = f"reward/{name}/{kind}"
                assert point[key] == pytest.approx(logged[point["_step"]][key])
            counts = point[f"histogram/{name}"]["values"]
            assert sum(counts) == 16  # 4 prompts x 4 rollouts
        shares = [value for key, value in point.items() if re.fullmatch("by_type/.*/share", key)]
        assert sum(shares) == pytest.approx(1.0)
    tables = [point["_step"] for point in points if "rollouts" in point]
    assert tables == list(range(TABLE_EVERY, STEPS + 1, TABLE_EVERY))
    staged = [path.read_bytes() for path in (run_dir / "artifacts" / "staging").glob("*")]
    assert any(content.startswith(b"\x89PNG") for content in staged), "the table has no pictures"


def test_the_workspace_names_only_what_runs_log(uninterrupted: Any, uploaded: Any) -> None:
    run_dir, _ = uninterrupted
    points = uploaded(run_dir)
    logged = {name for point in points for name in point}
    named = {name for panels in LAYOUT.values() for metrics in panels.values() for name in metrics}
    # In so few rollouts a question type may not occur; its share is logged and always 0 then.
    absent = {
        kind
        for kind in QUESTION_TYPES
        if not any(point[f"by_type/{kind}/share"] for point in points)
    }
    assert len(absent) < len(QUESTION_TYPES)
    assert {name for name in named - logged if name.split("/")[1] not in absent} == set()


def test_tensorboard_has_the_same_curves(uninterrupted: Any, metrics: Any) -> None:
    run_dir, _ = uninterrupted
    for name in ("score", *COMPONENTS):
        metric = f"reward/{name}/mean"
        wanted = {step: values[metric] for step, values in metrics(run_dir).items()}
        assert tensorboard_steps(run_dir, metric) == pytest.approx(wanted, abs=1e-6)


def kill_in_the_middle_of_a_step(
    command: list[str], steps_done: Callable[[], int], after: int
) -> None:
    """Start a run, and end all its processes with SIGKILL once `after` steps are logged."""
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "WANDB_MODE": "offline"},
    ) as process:
        deadline = time.monotonic() + 600
        while steps_done() < after:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "the run did not get far enough to be killed"
            time.sleep(0.05)
        everything = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGKILL)
        for child in everything:
            if child.is_running():
                child.kill()
        psutil.wait_procs(everything, timeout=30)


def test_a_killed_run_goes_on_from_its_checkpoint(
    uninterrupted: Any,
    tmp_path: Path,
    run: Any,
    training: Any,
    metrics: Any,
    uploaded: Any,
    check_rollout_follows: Any,
) -> None:
    command = training(tmp_path, *OVERRIDES, f"trainer.rollout_data_dir={tmp_path / 'rollouts'}")

    def steps_done() -> int:
        try:
            return max(metrics(tmp_path), default=0)
        except (FileNotFoundError, json.JSONDecodeError):
            return 0

    kill_in_the_middle_of_a_step(command, steps_done, after=SAVE_EVERY + 1)
    killed_at = max(metrics(tmp_path))
    assert SAVE_EVERY < killed_at < STEPS

    resumed = run(*command)
    assert resumed.returncode == 0, resumed.stdout[-8000:]
    assert sorted(metrics(tmp_path)) == list(range(1, STEPS + 1))
    check_rollout_follows(metrics(tmp_path))
    assert sorted(tensorboard_steps(tmp_path, "reward/score/mean")) == list(range(1, STEPS + 1))
    assert [point["_step"] for point in uploaded(tmp_path)] == list(range(1, STEPS + 1))
    reference, _ = uninterrupted
    assert prompts_of(tmp_path) == prompts_of(reference)
