"""A short run of the fuzzer, and proof that it sees a fault; the long one is `make fuzz`."""

import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from reward.thinkvg import SCORE_KEYS

FUZZER = Path(__file__).parents[2] / "tools" / "fuzz_reward.py"


@pytest.fixture(scope="module")
def fuzzer() -> ModuleType:
    """The fuzzer's module, which belongs to no package."""
    spec = importlib.util.spec_from_file_location("fuzz_reward", FUZZER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_reward"] = module
    spec.loader.exec_module(module)
    return module


def test_thousands_of_responses_without_a_fault(tmp_path: Path) -> None:
    failures = tmp_path / "failures.jsonl"
    command = [sys.executable, str(FUZZER), "--count", "6000", "--seed", "1"]
    done = subprocess.run(
        [*command, "--workers", "2", "--failures", str(failures)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, failures.read_text() if failures.exists() else done.stderr
    assert "6000 responses, 0 faults" in done.stdout


def test_the_same_seed_gives_the_same_responses(fuzzer: ModuleType) -> None:
    first, again, other = (list(fuzzer.responses(seed, 50)) for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, ""),
        ({"score": math.nan}, "score is nan"),
        ({"mean_iou": math.inf}, "mean_iou is inf"),
        ({"answer": 1.5}, "answer is 1.5"),
        ({"n_boxes": 1}, "n_boxes is 1"),  # an integer
        ({"extra": 0.0}, "keys"),
    ],
)
def test_a_fault_is_seen(fuzzer: ModuleType, changes: dict[str, float], fault: str) -> None:
    result = dict.fromkeys(SCORE_KEYS, 0.5) | changes
    assert fuzzer.fault_of(result).startswith(fault)
    assert bool(fuzzer.fault_of(result)) is bool(fault)


def test_an_exception_is_a_fault(fuzzer: ModuleType) -> None:
    _, fault = fuzzer.check("text", "no JSON", "dense")
    assert fault.startswith("raised ValueError")


def test_a_slow_response_is_a_fault(fuzzer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzer, "LONGEST_SECONDS", 0.0)
    _, fault = fuzzer.check("text", fuzzer.ground_truths(0)[0], "dense")
    assert fault.startswith("took")
