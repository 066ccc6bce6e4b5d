"""Evaluation on real vLLM: every question answered, and images in the size that boxes are in."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from recipe.program import compose_config

DRIVER = Path(__file__).with_name("image_size_driver.py")


@contextmanager
def model_server(model: Path, log: Path) -> Iterator[str]:
    """Base URL of a real vLLM server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(model), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512"]
    command += ["--limit-mm-per-prompt", json.dumps({"image": 1, "video": 0})]
    env = dict(compose_config("evaluate", ["cluster=cpu", "data.dir=DIR"]).cluster.env)
    with (
        log.open("w") as out,
        subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **env}
        ) as server,
    ):
        try:
            deadline = time.monotonic() + 300
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    break
                except OSError:
                    assert server.poll() is None, log.read_text()[-5000:]
                    assert time.monotonic() < deadline, log.read_text()[-5000:]
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, workspace: Path, run: Any) -> Path:
    """Folder that `recipe.evaluate` wrote."""
    out = tmp_path_factory.mktemp("evaluation")
    finished = run(
        "recipe.evaluate",
        "cluster=cpu",
        "model=tiny",
        f"model.path={workspace / 'model'}",
        f"data.dir={workspace / 'data'}",
        f"out={out}",
        "data.max_prompt_length=256",
        "data.max_response_length=16",
        "sampling.samples=2",
    )
    assert finished.returncode == 0, finished.stdout[-8000:]
    return out


def test_every_question_is_answered_once_and_sampled(evaluated: Path, workspace: Path) -> None:
    rows = pq.read_table(workspace / "data" / "test.parquet").column("extra_info").to_pylist()
    for name, times in (("greedy", 1), ("sampled", 2)):
        lines = (evaluated / f"{name}.jsonl").read_text().splitlines()
        indices = [json.loads(line)["index"] for line in lines]
        assert sorted(indices) == sorted([row["index"] for row in rows] * times)


def test_controls_are_the_same_questions(evaluated: Path) -> None:
    indices = {
        name: [json.loads(line)["index"] for line in (evaluated / f"{name}.jsonl").open()]
        for name in ("greedy", "blank", "shuffled")
    }
    assert indices["blank"] == indices["shuffled"] == indices["greedy"]
    metrics = json.loads((evaluated / "metrics.json").read_text())
    # An untrained model says nothing: it cannot beat what does not look at the picture.
    assert set(metrics["no_better_than"]["v_score"]) == {
        "region prior, region told",
        "region prior, region named by the model",
        "blank image",
        "shuffled images",
    }


def test_kept_predictions_give_the_same_metrics(
    evaluated: Path, workspace: Path, tmp_path: Path, run: Any
) -> None:
    finished = run(
        "recipe.evaluate",
        "cluster=cpu",
        f"data.dir={workspace / 'data'}",
        f"predictions={evaluated}",
        f"out={tmp_path}",
    )
    assert finished.returncode == 0, finished.stdout[-8000:]
    first, again = (
        json.loads((folder / "metrics.json").read_text()) for folder in (evaluated, tmp_path)
    )
    assert {**again, "model": ""} == {**first, "model": ""}


def test_a_server_gives_the_answers_of_the_engine(
    evaluated: Path, workspace: Path, tmp_path: Path, run: Any
) -> None:
    with model_server(workspace / "model", tmp_path / "log") as address:
        finished = run(
            "recipe.evaluate",
            "cluster=cpu",
            f"server.base_url={address}",
            f"data.dir={workspace / 'data'}",
            f"out={tmp_path / 'out'}",
            "data.max_response_length=16",
            "sampling.samples=0",
            "controls=[]",
        )
    assert finished.returncode == 0, finished.stdout[-8000:]
    served, local = (
        [json.loads(line)["response"] for line in (folder / "greedy.jsonl").open()]
        for folder in (tmp_path / "out", evaluated)
    )
    # vLLM's server leaves out a character that an answer ends in the middle of.
    assert served == [text.rstrip("\ufffd") for text in local]


def test_metrics_stand_beside_the_baselines(evaluated: Path) -> None:
    metrics = json.loads((evaluated / "metrics.json").read_text())
    assert 0 <= metrics["overall"]["reward"] <= 1
    assert set(metrics["by_type"]) == {"closed", "single", "multi", "open", "overall"}
    assert metrics["baselines"]["majority"]["a_score"] > 0
    assert metrics["baselines"]["region_prior"]["v_score"] > 0
    table = (evaluated / "metrics.md").read_text()
    assert "majority answer" in table
    assert "region prior" in table


def test_the_engine_sees_images_in_the_size_of_the_ground_truth(
    tmp_path: Path, workspace: Path, run: Any
) -> None:
    data = tmp_path / "data"
    phantom = workspace / "phantom"
    # Limits under which portrait and landscape pictures come out with unequal sides.
    prepared = run(
        "data_prep.thinkvg",
        *("--source", str(phantom), "--images", str(phantom / "files"), "--out", str(data)),
        *("--min-pixels", "3136", "--max-pixels", "12544", "--limit", "60"),
    )
    assert prepared.returncode == 0, prepared.stdout
    finished = subprocess.run(
        [sys.executable, str(DRIVER), str(workspace / "model"), str(data), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ,
    )
    assert finished.returncode == 0, (finished.stdout + finished.stderr)[-8000:]
    sizes = json.loads((tmp_path / "sizes.json").read_text())
    assert sizes["seen"] == sizes["ground_truth"]
    assert len({tuple(size) for size in sizes["seen"]}) > 1
