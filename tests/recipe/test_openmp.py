"""Threads that wait soon sleep: OpenMP says itself, as it loads, which settings it has taken."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.program import encode_metadata


def settings(*arguments: str) -> list[dict[str, str]]:
    """What each OpenMP that a program loads displays, one dictionary for each."""
    given = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in given}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**environment, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    displayed = re.findall(r"ENVIRONMENT BEGIN(.*?)ENVIRONMENT END", done.stderr, re.DOTALL)
    return [dict(re.findall(r"(\w+) = '(.*?)'", each)) for each in displayed]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Prepared files, as far as a program reads before it refuses them or makes a tokenizer."""
    names = ["data_source", "prompt", "images", "ability", "reward_model", "extra_info"]
    columns: dict[str, list[object]] = {name: ["x"] for name in names}
    columns["messages"] = [[{"role": "user", "content": "What is seen?"}]]
    metadata = encode_metadata({"model_family": "qwen3_vl"})
    for name in ("train", "val", "test", "sft_train", "sft_val"):
        table = pa.table(columns).replace_schema_metadata(metadata)
        pq.write_table(table, tmp_path / f"{name}.parquet")
    return tmp_path


def test_pre_training_spins_for_a_moment_only(data: Path) -> None:
    displayed = settings("phantom.tiny", "--data", str(data), "--out", str(data / "model"))
    assert displayed
    assert all(each["GOMP_SPINCOUNT"] == "1000" for each in displayed)


@pytest.mark.parametrize("program", ["train", "sft", "evaluate"])
def test_torch_loads_with_the_cluster_s_variables(data: Path, program: str) -> None:
    (data / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    for name in ("model.safetensors", "tokenizer_config.json", "preprocessor_config.json"):
        (data / name).touch()
    overrides = ("cluster=cpu", "model=tiny", f"model.path={data}", f"data.dir={data}")
    displayed = settings(f"recipe.{program}", *overrides)
    assert displayed
    for each in displayed:
        assert each["OMP_NUM_THREADS"] == "1"
        assert each["GOMP_SPINCOUNT"] == "1000"
