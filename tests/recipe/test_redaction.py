"""Secrets stay out of what loggers keep, and out of messages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from llm_client.server import host_of
from recipe import cluster
from recipe.console import hide_secrets, refuse_secrets
from recipe.program import compose_config


def test_variables_that_look_like_secrets_are_blanked() -> None:
    variables = "{HF_TOKEN: a, WANDB_API_KEY: b, HTTPS_PROXY: 'http://me:pw@proxy:3128', N: '1'}"
    config = compose_config("train", ["data.dir=DIR", f"+cluster.env={variables}"])
    OmegaConf.resolve(config)
    hide_secrets(config)
    hidden = {"HF_TOKEN": "***", "WANDB_API_KEY": "***", "N": "1"}
    hidden["HTTPS_PROXY"] = "http://***@proxy:3128"
    env = {**config.cluster.env}
    assert {name: env[name] for name in hidden} == hidden
    assert config.ray_kwargs.ray_init.runtime_env.env_vars == env


SECRETS = ["HF_TOKEN=s3cret", "WANDB_API_KEY=s3cret", "HTTPS_PROXY='http://me:s3cret@proxy:3128'"]


@pytest.mark.parametrize(
    ("variable", "module"),
    zip(SECRETS, ["recipe.train", "recipe.sft", "recipe.evaluate"], strict=True),
)
def test_a_secret_is_refused_before_anything_is_stored(
    variable: str, module: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    name = "out" if module == "recipe.evaluate" else "run_dir"
    overrides = ["data.dir=DIR", "cluster=cpu", f"{name}={out}", f"+cluster.env.{variable}"]
    done = subprocess.run(
        [sys.executable, "-m", module, *overrides], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"cluster.env.{variable.partition('=')[0]}: " in line
    assert "s3cret" not in done.stdout + done.stderr
    assert not out.exists()


def test_variables_that_are_no_secrets_pass() -> None:
    variables = "{TOKENIZERS_PARALLELISM: 'false', RAY_AUTH_MODE: token, RAY_AUTH_TOKEN_PATH: f}"
    refuse_secrets(compose_config("train", ["data.dir=DIR", f"+cluster.env={variables}"]))


@pytest.mark.parametrize("url", ["http://me:pw1@host:8000/v1", "http://host/v1?key=pw1"])
def test_a_judge_s_password_is_not_told(url: str) -> None:
    with pytest.raises(ValueError, match="not an address") as caught:
        host_of(url)
    assert "pw1" not in str(caught.value)
    assert "host" in str(caught.value)


def test_variables_that_a_job_has_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert cluster.variables_of_the_job() == {}
    for runtime in (None, {"env_vars": {"WANDB_MODE": "online"}}):
        job = json.dumps({"runtime_env": runtime, "metadata": {}})
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", job)
        expected = (runtime or {}).get("env_vars", {})
        assert cluster.variables_of_the_job() == expected


def test_the_head_of_a_cluster_may_have_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert cluster.gpus_are_elsewhere()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert not cluster.gpus_are_elsewhere()


def test_a_cold_start_has_secrets_too() -> None:
    config = compose_config("sft", ["data.dir=DIR", "+cluster.env={HF_TOKEN: a}"])
    hide_secrets(config)
    assert config.cluster.env.HF_TOKEN == "***"
