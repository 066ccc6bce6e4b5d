"""A small phantom set and an untrained tiny model, and a way to run the programs on them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pyarrow.parquet as pq
import pytest

PROGRAM_TIMEOUT = 600
RESPONSE_LENGTH = 24

GAP = 2e-5
"""The most that probabilities of rollout and actor may differ by on average, in float32."""

ROOT = Path(__file__).parents[2]
GREEDY = Path(__file__).parent / "drivers" / "greedy_driver.py"

# The newest transformers 4, and the newest of what it and verl need in a version of its time.
OLDER = ("transformers==4.57.6", "tokenizers==0.22.2", "huggingface_hub==0.36.2", "datasets==4.4.1")

# `train(RUN_DIR, *overrides)` and so on: the command line of a program on the small set.
Command = Callable[..., list[str]]
Run = Callable[..., subprocess.CompletedProcess[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder starts engines."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("system")
            item.add_marker(pytest.mark.timeout(3 * PROGRAM_TIMEOUT))


def show_log(output: str) -> None:
    """Print the end of the log that a failed program names, for pytest's report."""
    name, _, path = (output.splitlines() or [""])[-1].partition(": ")
    if name == "log":
        print(Path(path).read_text(errors="replace")[-20_000:])


NUMBER = r"-?\d+(\.\d+)?(e[-+]\d+)?"
DURATION = r"\d+ (s|min|h \d\d min|d \d+ h)"
OWN_LINES = (
    r"log: \S+/log\.txt",
    r"starting .*",
    r"(train|val): \d+ rows, \d+ used, \d+ longer than .*",
    r"training from step \d+ to step \d+",
    r" {8,}(reward|loss)( +[a-z/]+)+ +left",
    rf"(step|val ) +\d+/\d+( +{NUMBER})+( +{DURATION})?",
    rf"step \d+: checkpoint saved in {NUMBER} s",
    r"step \d+: the judge failed for \d+ of \d+",
    r"finished: \S+",
    r"\d+ of \d+ questions of the \w+ split",
    r"answering, \w+: question \d+ of \d+, \d\d:\d\d",
    r"\| .* \|",
    r"- \*\*.*\*\*.*",
    r"\S+/metrics\.md",
    "",
)


@pytest.fixture(scope="session")
def foreign_lines() -> Callable[[str], list[str]]:
    """The lines of a console that none of our programs prints of its own."""
    own = re.compile("|".join(f"(?:{form})" for form in OWN_LINES))
    return lambda output: [line for line in output.splitlines() if not own.fullmatch(line)]


@pytest.fixture(scope="session")
def run() -> Run:
    """Run ``python -m ARGUMENTS`` to its end; everything it started is gone afterwards."""

    def execute(*arguments: str, timeout: float = PROGRAM_TIMEOUT) -> Any:
        with subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "WANDB_MODE": "offline"},
        ) as process:
            try:
                output, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                for child in [*psutil.Process(process.pid).children(recursive=True), process]:
                    child.kill()
                output, _ = process.communicate()
                pytest.fail(f"{arguments[0]} took more than {timeout} s\n{output[-5000:]}")
        if process.returncode:
            show_log(output)
        return subprocess.CompletedProcess(arguments, process.returncode, output)

    return execute


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """Folder with ``data`` (prepared phantom set) and ``model`` (tiny, untrained)."""
    root = tmp_path_factory.mktemp("workspace")
    phantom = str(root / "phantom")
    steps = [
        ("phantom.draw", "--out", phantom, "--images", "120", "--seed", "3"),
        (
            "data_prep.thinkvg",
            *("--source", phantom, "--images", f"{phantom}/files", "--out", str(root / "data")),
            *("--min-pixels", "12544", "--max-pixels", "15680", "--val", "0.1", "--test", "0.1"),
        ),
        ("phantom.tiny", "--data", str(root / "data"), "--out", str(root / "model")),
    ]
    for step in steps:
        finished = run(*step)
        assert finished.returncode == 0, finished.stdout
    return root


@pytest.fixture(scope="session")
def open_rows(workspace: Path) -> list[dict[str, Any]]:
    """Training rows of open questions."""
    rows = pq.read_table(workspace / "data" / "train.parquet").to_pylist()
    return [row for row in rows if '"open"' in row["reward_model"]["ground_truth"]]


@pytest.fixture(scope="session")
def training(workspace: Path) -> Command:
    """Command line of a short GRPO run in a folder of its own."""

    def command(run_dir: Path, *overrides: str) -> list[str]:
        return [
            "recipe.train",
            "cluster=cpu",
            "model=tiny",
            f"model.path={workspace / 'model'}",
            f"data.dir={workspace / 'data'}",
            f"run_dir={run_dir}",
            "data.train_batch_size=4",
            "data.max_prompt_length=256",
            f"data.max_response_length={RESPONSE_LENGTH}",
            "actor_rollout_ref.rollout.n=4",
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
            "actor_rollout_ref.actor.use_kl_loss=false",
            "trainer.val_before_train=false",
            "trainer.test_freq=-1",
            "trainer.save_freq=-1",
            "trainer.logger=[console,file]",
            *overrides,
        ]

    return command


@pytest.fixture
def greedy_answers(workspace: Path, tmp_path: Path) -> Callable[..., dict[str, list[str]]]:
    """`greedy_driver.py` in a process of its own: ground truth -> texts."""

    def answer(
        library: str,
        model: Path,
        limit: int = RESPONSE_LENGTH,
        packages: Path | None = None,
        data: Path = workspace / "data",
    ) -> dict[str, list[str]]:
        """Answers of the environment's own libraries, or of those in `packages` before them."""
        out = tmp_path / "answers.json"
        arguments = [GREEDY, library, model, data, out, limit]
        finished = subprocess.run(
            [sys.executable, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | ({"PYTHONPATH": f"{packages}:{ROOT}"} if packages else {}),
        )
        assert finished.returncode == 0, (finished.stdout + finished.stderr)[-8000:]
        return dict(json.loads(out.read_text()))

    return answer


@pytest.fixture(scope="session")
def older_transformers(
    tmp_path_factory: pytest.TempPathFactory, cannot_run: Callable[[str], NoReturn]
) -> Path:
    """A folder with transformers 4.57 and what it needs in another version than 5 does."""
    folder = tmp_path_factory.mktemp("older")
    command = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *OLDER]
    installed = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=300
    )
    if installed.returncode:
        cannot_run(f"transformers 4.57 cannot be installed: {installed.stderr[-300:]}")
    return folder


def read_metrics(run_dir: Path) -> dict[int, dict[str, float]]:
    """Metrics of each step, from the file that verl's logger wrote."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return {entry["step"]: entry["data"] for entry in map(json.loads, lines)}


@pytest.fixture(scope="session")
def metrics() -> Callable[[Path], dict[int, dict[str, float]]]:
    """`read_metrics`."""
    return read_metrics


@pytest.fixture(scope="session")
def check_rollout_follows() -> Callable[[dict[int, dict[str, float]]], None]:
    """A check of the metrics of a run whose KL has the model at the start as its reference."""

    def check(logged: dict[int, dict[str, float]]) -> None:
        """The policy moves away from its start, and the rollout's probabilities move with it."""
        assert logged[1]["actor/kl_loss"] == pytest.approx(0, abs=1e-6)
        for step in range(2, max(logged) + 1):
            assert logged[step]["actor/kl_loss"] > 0.1
        for values in logged.values():
            assert values["training/rollout_probs_diff_mean"] < GAP
            # With earlier weights, they would differ by as much as the policy has moved since.
            assert values["training/rollout_actor_log_prob_diff/mean"] < 0.02

    return check
