"""Evaluation on real vLLM: every question answered, and images in the size that boxes are in."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

DRIVER = Path(__file__).with_name("image_size_driver.py")


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
