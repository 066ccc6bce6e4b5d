"""The rollout has the actor's weights: change the actor, and its probabilities follow."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# What rollout and actor may differ by; with the weights of before it is many times that.
TOLERANCE = 0.05
DRIVER = Path(__file__).parent / "drivers" / "weight_sync_driver.py"


@pytest.fixture(scope="module")
def probabilities(
    tmp_path_factory: pytest.TempPathFactory, training: Any
) -> dict[str, list[float]]:
    """What `weight_sync_driver.py` saw."""
    folder = tmp_path_factory.mktemp("sync")
    overrides = training(folder)[1:]
    finished = subprocess.run(
        [sys.executable, str(DRIVER), *overrides, str(folder)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "WANDB_MODE": "offline"},
    )
    assert finished.returncode == 0, (finished.stdout + finished.stderr)[-8000:]
    loaded: dict[str, list[float]] = json.loads((folder / "result.json").read_text())
    return loaded


def test_rollout_starts_with_the_actors_weights(probabilities: dict[str, list[float]]) -> None:
    assert probabilities["before"] == pytest.approx(
        probabilities["before_reference"], abs=TOLERANCE
    )


def test_rollout_follows_a_changed_actor(probabilities: dict[str, list[float]]) -> None:
    assert probabilities["after"] == pytest.approx(probabilities["after_reference"], abs=TOLERANCE)


def test_the_change_is_one_that_old_weights_would_not_pass(
    probabilities: dict[str, list[float]],
) -> None:
    old = probabilities["old_weights_on_new_tokens"]
    gap = sum(abs(a - b) for a, b in zip(probabilities["after"], old, strict=True)) / len(old)
    assert gap > 10 * TOLERANCE
