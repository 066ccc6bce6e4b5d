"""What the engine's processes on any node get: whole paths, and texts as variables."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipe import program
from recipe.program import compose_config

PREPARE = """
import json, sys
from recipe import console
from recipe.program import compose_config, set_environment
from recipe.train.__main__ import prepare
config = compose_config("train", ["data.dir=DIR", "cluster=cpu", *sys.argv[1:]])
set_environment(config)
prepare(config)
models = [config.model.path, config.actor_rollout_ref.model.path]
console.say(json.dumps([models, dict(config.ray_kwargs.ray_init.runtime_env.env_vars)]))
"""


def prepared(folder: Path, *overrides: str, **variables: str) -> tuple[list[str], dict[str, str]]:
    """The models' paths and the variables of Ray's workers, of a start in `folder`."""
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, f"run_dir={folder / 'run'}", *overrides],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(program.CONFIG_FOLDER.parent), **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    paths, workers = json.loads(done.stdout.splitlines()[-1])
    return paths, workers


def test_workers_get_what_the_user_set_and_texts_only(tmp_path: Path) -> None:
    overrides = ["+cluster.env.A_NUMBER=3", "+cluster.env.NOTHING=null", "model.path=MODEL"]
    workers = prepared(tmp_path, *overrides, GOMP_SPINCOUNT="300")[1]
    assert workers["GOMP_SPINCOUNT"] == "300"  # the configuration has 1000
    assert workers["VERL_PLATFORM"] == "cpu"
    assert workers["A_NUMBER"] == "3"
    assert "NOTHING" not in workers


def test_a_base_model_in_this_folder_is_found_from_others(tmp_path: Path) -> None:
    for name in ("base", "sft"):
        (tmp_path / name).mkdir()
    paths = prepared(tmp_path, "ablation=rl_only", "base_model=base", "model.path=sft")[0]
    assert paths == [str(tmp_path / "sft"), str(tmp_path / "base")]
    hub = ["ablation=rl_only", "base_model=Qwen/A", "model.path=Qwen/B"]
    assert prepared(tmp_path, *hub)[0] == ["Qwen/B", "Qwen/A"]


def test_a_variable_without_a_value_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(program.host, "adapt", lambda: None)
    variables = ["+cluster.env.A_NUMBER=3", "+cluster.env.NOTHING=null"]
    program.set_environment(compose_config("train", ["data.dir=DIR", *variables]))
    assert os.environ["A_NUMBER"] == "3"
    assert "NOTHING" not in os.environ
