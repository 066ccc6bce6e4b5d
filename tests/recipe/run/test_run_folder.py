"""What a run's folder holds decides whether a run may start in it, and what it goes on from."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import DictConfig

from data_prep.program import InputError
from recipe.program import compose_config
from recipe.run.checkpoints import LAST, check_resumable, mark_step, prune
from recipe.run.folder import (
    FILE,
    PASSED_ON,
    VARIABLE,
    StopRequest,
    check_free,
    check_same_run,
    lock,
    note_settings,
)

JUDGE = "reward.custom_reward_function.reward_kwargs.judge"


def run(folder: Path, *overrides: str, program: str = "train") -> DictConfig:
    """The configuration of a run in `folder`."""
    fixed = ["data.dir=DIR", "cluster=cpu", "model.path=MODEL", f"run_dir={folder}"]
    return compose_config(program, [*fixed, *overrides])


def checkpoint(folder: Path, step: int, world: int = 1, lacks: str = "", sft: bool = False) -> None:
    """Leave what verl leaves of a step."""
    holder = folder / "checkpoints" / f"global_step_{step}"
    shards = holder if sft else holder / "actor"
    shards.mkdir(parents=True)
    (holder / "data.pt").touch()
    for rank in range(world):
        for part in {"model", "optim", "extra_state"} - {lacks}:
            (shards / f"{part}_world_size_{world}_rank_{rank}.pt").touch()


@pytest.mark.parametrize(
    "change",
    ["seed=1", "reward=paper", "ablation=dapo", "model.path=OTHER", "data.fraction=1of8"],
)
def test_another_run_in_the_folder_is_refused(tmp_path: Path, change: str) -> None:
    note_settings(run(tmp_path), "train")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="choose another run_dir="):
        check_same_run(run(tmp_path, change), "train")


@pytest.mark.parametrize(
    "change",
    [
        "trainer.total_training_steps=9",
        "trainer.save_freq=1",
        "trainer.logger=[console]",
        "cluster.nodes=2",
        "trainer.experiment_name=other",
    ],
)
def test_the_same_run_may_go_on_otherwise(tmp_path: Path, change: str) -> None:
    note_settings(run(tmp_path), "train")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    check_same_run(run(tmp_path, change), "train")


def test_a_judge_may_move(tmp_path: Path) -> None:
    note_settings(run(tmp_path, "reward=paper_judge", f"{JUDGE}.base_url=http://a/v1"), "train")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    check_same_run(run(tmp_path, "reward=paper_judge", f"{JUDGE}.base_url=http://b/v1"), "train")


def test_a_run_that_got_nowhere_or_begins_anew_is_no_obstacle(tmp_path: Path) -> None:
    note_settings(run(tmp_path), "train")
    check_same_run(run(tmp_path, "seed=1"), "train")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    check_same_run(run(tmp_path, "seed=1", "trainer.resume_mode=disable"), "train")
    (tmp_path / FILE).write_text("{")
    check_same_run(run(tmp_path, "seed=1"), "train")


def test_settings_of_both_programs_are_json(tmp_path: Path) -> None:
    note_settings(run(tmp_path, program="sft"), "sft")
    assert json.loads((tmp_path / FILE).read_text())["optim.lr"] == pytest.approx(1e-5)
    checkpoint(tmp_path, 5, sft=True)
    with pytest.raises(InputError, match="coordinate_smoothing=0, here 2"):
        check_same_run(run(tmp_path, "coordinate_smoothing=2", program="sft"), "sft")


def test_one_program_at_a_time(tmp_path: Path) -> None:
    text = "import sys, pathlib, recipe.run.folder as l; l.lock(pathlib.Path(sys.argv[1]))\n"
    hold = [sys.executable, "-c", text + "print(1, flush=True); sys.stdin.read()", str(tmp_path)]
    with subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline()
        with pytest.raises(InputError, match=rf"process {other.pid} on .* writes .* run_dir="):
            lock(tmp_path, 0)
        with pytest.raises(InputError, match="writes to this folder"):
            check_free(tmp_path)
    check_free(tmp_path)
    subprocess.run([sys.executable, "-c", text, str(tmp_path)], check=True)
    lock(tmp_path, 0)
    lock(tmp_path, 0)


@pytest.mark.parametrize("program", ["train", "sft"])
def test_a_whole_checkpoint_is_gone_on_from(tmp_path: Path, program: str) -> None:
    config = run(tmp_path, program=program)
    check_resumable(config, program)
    checkpoint(tmp_path, 5, sft=program == "sft")
    mark_step(tmp_path / "checkpoints", 5)
    check_resumable(config, program)


@pytest.mark.parametrize("program", ["train", "sft"])
def test_a_checkpoint_that_cannot_be_loaded_is_named(tmp_path: Path, program: str) -> None:
    checkpoint(tmp_path, 5, lacks="optim", sft=program == "sft")
    mark_step(tmp_path / "checkpoints", 5)
    with pytest.raises(InputError, match=r"optim_world_size_1_rank_0\.pt is missing"):
        check_resumable(run(tmp_path, program=program), program)
    with pytest.raises(InputError, match="was saved by 1 GPUs and this run has 4"):
        check_resumable(run(tmp_path, "cluster.gpus_per_node=4", program=program), program)
    mark_step(tmp_path / "checkpoints", 10)
    with pytest.raises(InputError, match=r"global_step_10 is gone: .*there are 5"):
        check_resumable(run(tmp_path, program=program), program)
    check_resumable(run(tmp_path, "trainer.resume_mode=disable", program=program), program)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("null", "is not set"),
        ("/nowhere/global_step_5", "no such folder"),
        ("/nowhere/last", "give a folder called global_step_N"),
    ],
)
def test_a_path_to_go_on_from_that_is_none(tmp_path: Path, path: str, told: str) -> None:
    overrides = ["trainer.resume_mode=resume_path", f"trainer.resume_from_path={path}"]
    with pytest.raises(InputError, match=told):
        check_resumable(run(tmp_path, *overrides), "train")
    with pytest.raises(InputError, match="choose auto, disable or resume_path"):
        check_resumable(run(tmp_path, "trainer.resume_mode=maybe"), "train")


def test_old_checkpoints_go_but_never_the_marked_one(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        checkpoint(tmp_path, step)
    holder = tmp_path / "checkpoints"

    def left() -> list[int]:
        return sorted(int(path.name.split("_")[-1]) for path in holder.glob("global_step_*"))

    prune(run(tmp_path), "train")
    assert left() == [5, 10, 15, 20]  # no marker: nothing is known of them
    mark_step(holder, 15)
    prune(run(tmp_path, "trainer.max_actor_ckpt_to_keep=null"), "train")
    assert left() == [5, 10, 15, 20]
    named = ("trainer.resume_mode=resume_path", f"trainer.resume_from_path={holder}/global_step_5")
    prune(run(tmp_path, *named), "train")
    assert left() == [5, 10, 15, 20]
    prune(run(tmp_path), "train")
    assert left() == [10, 15]
    prune(run(tmp_path, "trainer.max_actor_ckpt_to_keep=1"), "train")
    assert left() == [15]


def test_only_steps_with_a_model_are_offered(tmp_path: Path) -> None:
    for step in (5, 10):
        checkpoint(tmp_path, step)
    holder = tmp_path / "checkpoints"
    shutil.rmtree(holder / "global_step_5" / "actor")  # as verl removes an old checkpoint
    mark_step(holder, 15)
    with pytest.raises(InputError, match=r"\(there are 10\)"):
        check_resumable(run(tmp_path), "train")


def test_a_launcher_is_told_where_the_marker_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    StopRequest(tmp_path / "stop").tell_marker(tmp_path / LAST)
    assert not (tmp_path / "stop.marker").exists()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "stop"))
    StopRequest(tmp_path / "stop").tell_marker(tmp_path / LAST)
    assert (tmp_path / "stop.marker").read_text() == f"{tmp_path / LAST}\n"


PREPARE = """
import importlib, json, sys
from recipe import console
from recipe.program import compose_config
program, folder, *overrides = sys.argv[1:]
fixed = ["data.dir=DIR", "cluster=cpu", "model.path=MODEL", f"run_dir={folder}"]
config = compose_config(program, [*fixed, *overrides])
importlib.import_module(f"recipe.{program}.__main__").prepare(config)
if program == "train":
    console.say(json.dumps(dict(config.ray_kwargs.ray_init.runtime_env.env_vars)))
"""


@pytest.mark.parametrize("program", ["train", "sft"])
def test_a_start_leaves_its_settings_and_takes_the_folder(tmp_path: Path, program: str) -> None:
    job = {"runtime_env": {"env_vars": {"WANDB_MODE": "offline"}}, "metadata": {}}
    variables = {
        **os.environ,
        "RANK": "0",
        "WANDB_MODE": "offline",
        "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(job),
        VARIABLE: str(tmp_path / "stop"),
    }
    for name in (*PASSED_ON, "RAY_ADDRESS"):
        if name != "WANDB_MODE":
            variables.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, program, str(tmp_path / "run")],
        env=variables,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / FILE).read_text())["seed"] == 0
    assert "process" in (tmp_path / "run" / "lock").read_text()
    marker = tmp_path / "run" / "checkpoints" / LAST
    assert (tmp_path / "stop.marker").read_text() == f"{marker}\n"
    if program == "train":
        given = json.loads(done.stdout.splitlines()[-1])
        assert "WANDB_MODE" not in given  # the job's own; Ray refuses it twice
        assert given["WANDB_RUN_ID"]
        # what a worker on another node says reaches the console of the program
        assert given["THINKVG_CONSOLE_FILE"] == str(tmp_path / "run" / "console.txt")
