"""A batch in which every sequence has the same length trains, on two ranks."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

PROMPTS = 4


@pytest.fixture(scope="module")
def equal_prompts(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose training prompts all have the same number of tokens."""
    from transformers import AutoProcessor

    from recipe.data.datasets import prompt_length

    processor = AutoProcessor.from_pretrained(workspace / "model")
    table = pq.read_table(workspace / "data" / "train.parquet")
    rows = defaultdict(list)
    for number, row in enumerate(table.to_pylist()):
        rows[prompt_length(row, processor)].append(number)
    most = max(rows.values(), key=len)
    assert len(most) >= 2 * PROMPTS
    folder = tmp_path_factory.mktemp("equal")
    pq.write_table(table.take(most[: 2 * PROMPTS]), folder / "train.parquet")
    (folder / "val.parquet").symlink_to(workspace / "data" / "val.parquet")
    return folder


def test_equal_lengths_train(
    equal_prompts: Path, tmp_path: Path, run: Any, training: Any, metrics: Any
) -> None:
    finished = run(
        *training(
            tmp_path,
            f"data.dir={equal_prompts}",
            "cluster.gpus_per_node=2",
            # Every response is as long as it may be.
            "actor_rollout_ref.rollout.ignore_eos=true",
            "trainer.total_training_steps=2",
        )
    )
    assert finished.returncode == 0, finished.stdout[-8000:]
    logged = metrics(tmp_path)
    assert sorted(logged) == [1, 2]
    for values in logged.values():
        assert values["response_length/min"] == values["response_length/max"]
        assert values["prompt_length/min"] == values["prompt_length/max"]
        assert values["training/rollout_actor_log_prob_diff/mean"] < 0.05
