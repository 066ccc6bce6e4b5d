"""Runs that were killed and resumed reach W&B with every step once, by W&B's client and a stub."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.program import SYNTHETIC
from recipe.run.folder import WANDB_ID

# The trainer's own way to its loggers, without an engine: steps FIRST..LAST, then the end.
TRAIN = """
import os, signal, sys
from pathlib import Path
import numpy as np
from PIL import Image
from recipe.run.folder import set_variables
from recipe.loggers import continue_from
from recipe.train.metrics import Sample, log_histograms, log_table
from reward.ground_truth import GroundTruth
run_dir, first, last, end = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
set_variables(run_dir)
continue_from(first - 1)
os.environ.setdefault("WANDB_DATA_DIR", str(run_dir))
import wandb
from verl.utils.tracking import Tracking
sample = {"answer": "Yes", "question_type": "closed", "regions": [], "think_regions": []}
truth = GroundTruth.parse(sample | {"image_size": [8, 8], "coordinates": "absolute"})
Image.new("RGB", (8, 8)).save(run_dir / "black.png")
tracking = Tracking("project", "run", ["file", "wandb"], config={"trainer": {}})
for step in range(first, last + 1):
    log_histograms(tracking, {"lengths": np.histogram([step, step + 1], bins=2)}, step)
    if step % 3 == 0:
        rollout = Sample(str(run_dir / "black.png"), "?", f"step {step}", truth, 0.5)
        log_table(tracking, [rollout], step)
        texts = wandb.Table(columns=["output"], data=[[f"step {step}"]])
        tracking.log({"val/generations": texts}, step, backend=["wandb"])
    tracking.log({"critic/score/mean": step / 10}, step)
if end == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
tracking.finish()
"""
CONFIG = """
trainer: {project_name: project, experiment_name: run, logger: [file, wandb]}
cluster: {env: {HF_TOKEN: a-secret}}
data: {train_files: DATA, val_files: DATA}
"""
STEPS = list(range(1, 10))
Starts = list[tuple[int, int, str]]

# Most starts resume behind a checkpoint that is older than the last step logged.
RUNS: dict[str, Starts] = {
    "killed": [(1, 6, "killed"), (4, 9, "ended")],
    "ended": [(1, 6, "ended"), (4, 9, "ended")],
    "killed twice": [(1, 5, "ended"), (3, 7, "killed"), (6, 9, "killed")],
    "killed after its checkpoint": [(1, 6, "killed"), (7, 9, "ended")],
}


def train(
    run_dir: Path,
    starts: Starts,
    environment: dict[str, str],
    mode: str,
    metadata: dict[bytes, bytes] = SYNTHETIC,
) -> None:
    """Run the starts, one after another, in one run folder, with data of that `metadata`."""
    (run_dir / ".hydra").mkdir(parents=True, exist_ok=True)
    data = run_dir / "data.parquet"
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata(metadata), data)
    (run_dir / ".hydra" / "config.yaml").write_text(CONFIG.replace("DATA", str(data)))
    for first, last, end in starts:
        command = [sys.executable, "-c", TRAIN, str(run_dir), str(first), str(last), end]
        variables = environment | {"WANDB_MODE": mode}
        done = subprocess.run(command, env=variables, capture_output=True, timeout=120, check=False)
        assert (done.returncode == 0) == (end == "ended"), done.stderr[-2000:]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of runs that were logged offline."""
    root = tmp_path_factory.mktemp("trained")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    for name, starts in RUNS.items():
        train(root / name, starts, clean, "offline")
    return {name: root / name for name in RUNS}


def steps(points: list[dict[str, Any]]) -> list[int]:
    return [point["_step"] for point in points]


def offline_folders(run_dir: Path) -> list[Path]:
    return sorted(run_dir.glob("wandb/offline-run-*"))


def check_points(points: list[dict[str, Any]]) -> None:
    """Check that every step is there once, in order, with its number, histogram and table."""
    assert steps(points) == STEPS
    for step, point in zip(STEPS, points, strict=True):
        assert point["critic/score/mean"] == pytest.approx(step / 10)
        assert point["lengths"] == {
            "_type": "histogram",
            "values": [1, 1],
            "bins": [step, step + 0.5, step + 1],
        }
    for table in ("rollouts", "val/generations"):
        assert [point["_step"] for point in points if table in point] == [3, 6, 9]


@pytest.mark.parametrize("order", ["as started", "the other way round"])
@pytest.mark.parametrize("name", RUNS)
def test_an_offline_run_has_every_step_once(
    trained: dict[str, Path],
    wandb_server: Any,
    uploaded: Any,
    tmp_path: Path,
    name: str,
    order: str,
) -> None:
    run_dir = Path(shutil.copytree(trained[name], tmp_path / "run"))
    assert len(offline_folders(run_dir)) == len(RUNS[name])
    if order != "as started":
        folders = offline_folders(run_dir)
        for folder in folders:
            folder.rename(folder.with_name(f"moved-{folder.name}"))
        for folder, swapped in zip(folders, reversed(folders), strict=True):
            folder.with_name(f"moved-{folder.name}").rename(swapped)
    check_points(uploaded(run_dir))
    assert wandb_server.replaced == 0
    run_id = (run_dir / WANDB_ID).read_text().strip()
    assert f"{run_id}/config.yaml" in wandb_server.uploads
    config = json.loads(wandb_server.configs[run_id])
    assert config["trainer"]["value"]["experiment_name"] == "run"
    assert config["cluster"]["value"] == {"env": {"HF_TOKEN": "***"}}
    media = [path for path in wandb_server.uploads if path.startswith(f"{run_id}/media/table/")]
    assert len(media) == 6


def test_a_table_keeps_its_pictures(
    trained: dict[str, Path], wandb_server: Any, uploaded: Any, tmp_path: Path
) -> None:
    uploaded(Path(shutil.copytree(trained["killed"], tmp_path / "run")))
    table = json.loads(wandb_server.uploads["artifacts/rollouts.table.json"])
    ((picture, *_, output, answer, score),) = table["data"]
    assert output.startswith("step ")
    assert (answer, score) == ("Yes", 0.5)
    assert (picture["_type"], picture["width"], picture["height"]) == ("image-file", 8, 8)
    assert wandb_server.uploads[f"artifacts/{picture['path']}"].startswith(b"\x89PNG")


def test_a_run_that_is_uploaded_between_its_starts_and_again(
    wandb_server: Any, wandb_environment: dict[str, str], uploaded: Any, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    first, second = RUNS["killed"]
    train(run_dir, [first], wandb_environment, "offline")
    assert steps(uploaded(run_dir)) == [1, 2, 3, 4, 5, 6]
    train(run_dir, [second], wandb_environment, "offline")
    check_points(uploaded(run_dir))
    check_points(uploaded(run_dir))
    assert wandb_server.replaced == 0


@pytest.mark.parametrize("name", RUNS)
def test_an_online_run_has_every_step_once(
    wandb_server: Any, wandb_environment: dict[str, str], tmp_path: Path, name: str
) -> None:
    train(tmp_path / "run", RUNS[name], wandb_environment, "online")
    last_was_killed = RUNS[name][-1][2] == "killed"
    points = wandb_server.history((tmp_path / "run" / WANDB_ID).read_text().strip())
    expected = STEPS[: len(points)] if last_was_killed else STEPS
    assert steps(points) == expected
    assert wandb_server.replaced == 0


@pytest.mark.parametrize("modes", [("online", "offline"), ("offline", "online")], ids=" ".join)
@pytest.mark.parametrize("name", ["killed", "ended", "killed after its checkpoint"])
def test_a_run_that_was_online_for_a_while(
    wandb_server: Any,
    wandb_environment: dict[str, str],
    uploaded: Any,
    tmp_path: Path,
    name: str,
    modes: tuple[str, str],
) -> None:
    for start, mode in zip(RUNS[name], modes, strict=True):
        train(tmp_path / "run", [start], wandb_environment, mode)
    check_points(uploaded(tmp_path / "run"))
    assert wandb_server.replaced == 0


def test_patients_tables_are_not_sent_by_a_later_online_start(
    wandb_server: Any, wandb_environment: dict[str, str], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    train(run_dir, [(1, 6, "killed")], wandb_environment, "offline", metadata={})
    resume = (
        "from pathlib import Path; from recipe.run.folder import set_variables;"
        f"from recipe.loggers import continue_from; set_variables(Path({str(run_dir)!r}));"
        "continue_from(6)"
    )
    variables = wandb_environment | {"WANDB_MODE": "online"}
    command = [sys.executable, "-c", resume]
    done = subprocess.run(
        command, env=variables, capture_output=True, text=True, timeout=120, check=True
    )
    assert f"tables of 2 steps stay in {run_dir}" in done.stdout
    points = wandb_server.history((run_dir / WANDB_ID).read_text().strip())
    assert steps(points) == [1, 2, 3, 4, 5, 6]
    assert all("critic/score/mean" in point and "lengths" in point for point in points)
    assert not any("rollouts" in point or "val/generations" in point for point in points)
    assert not [path for path in wandb_server.uploads if "table" in path or "media" in path]


def test_a_run_without_the_logger_is_not_sent(
    trained: dict[str, Path], wandb_server: Any, wandb_environment: dict[str, str], tmp_path: Path
) -> None:
    run_dir = Path(shutil.copytree(trained["ended"], tmp_path / "run"))
    config = run_dir / ".hydra" / "config.yaml"
    config.write_text(CONFIG.replace("[file, wandb]", "[file]"))
    resume = "from recipe.loggers import continue_from; continue_from(3)"
    variables = {"WANDB_MODE": "online", "VERL_FILE_LOGGER_PATH": str(run_dir / "metrics.jsonl")}
    command = [sys.executable, "-c", resume]
    subprocess.run(command, env=wandb_environment | variables, timeout=120, check=True)
    assert wandb_server.runs == {}
    for name in ("metrics.jsonl", "histograms.jsonl"):
        lines = (run_dir / name).read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_wandb_sync_alone_loses_steps_or_numbers(
    trained: dict[str, Path], wandb_server: Any, wandb_environment: dict[str, str], tmp_path: Path
) -> None:
    """Why there is a program of our own; when this fails, W&B has learned it."""
    online = {key: value for key, value in wandb_environment.items() if key != "WANDB_MODE"}
    found = {}
    for name in ("killed", "ended"):
        run_dir = Path(shutil.copytree(trained[name], tmp_path / name))
        for folder in reversed(offline_folders(run_dir)):
            command = [sys.executable, "-m", "wandb", "sync", str(folder)]
            subprocess.run(command, env=online, capture_output=True, timeout=120, check=True)
        run_id = (run_dir / WANDB_ID).read_text().strip()
        found[name] = sorted(steps(wandb_server.history(run_id)))
    assert found["killed"] == [4, 5, 6, 7, 8, 9]  # the first start's file has no description
    assert found["ended"] == [*range(4, 10), *range(10, 16)]  # its steps under new numbers


@pytest.mark.parametrize("fault", ["no run", "no metrics", "no login"])
def test_what_cannot_be_uploaded_is_one_line(
    trained: dict[str, Path], wandb_environment: dict[str, str], tmp_path: Path, fault: str
) -> None:
    run_dir = Path(shutil.copytree(trained["killed"], tmp_path / "run"))
    if fault == "no run":
        (run_dir / WANDB_ID).unlink()
    elif fault == "no metrics":
        (run_dir / "metrics.jsonl").unlink()
    else:
        del wandb_environment["WANDB_API_KEY"]
    ended = subprocess.run(
        [sys.executable, "-m", "recipe.sync", str(run_dir)],
        env=wandb_environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 2
    message = {
        "no run": "wandb_run_id: no such file",
        "no metrics": "metrics.jsonl: no such file",
        "no login": "run `wandb login`",
    }
    assert message[fault] in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
