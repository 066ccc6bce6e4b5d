"""Stopped or killed at any moment, the preparation leaves only whole files, and can start again."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.convert.examples import Converter
from data_prep.thinkvg import main

OPTIONS = ["--val", "0.1", "--test", "0.1"]
WORK = ".work"


@pytest.fixture(scope="module")
def large(phantom, tmp_path_factory):
    """The phantom's rows several times over: enough for two workers."""
    out = tmp_path_factory.mktemp("large")
    table = pq.read_table(phantom / "data" / "train-00000-of-00001.parquet")
    (out / "data").mkdir()
    pq.write_table(pa.concat_tables([table] * 3), out / "data" / "train.parquet")
    return out


def contents(out):
    return {
        path.name: path.read_bytes()
        for path in out.iterdir()
        if path.is_file() and not path.name.startswith(".")
    }


def arguments(large, phantom, out, workers=1):
    folders = ["--source", str(large), "--images", str(phantom), "--out", str(out)]
    return [*folders, *OPTIONS, "--workers", str(workers)]


@pytest.fixture(scope="module")
def whole(large, phantom, tmp_path_factory):
    """All files of a run that was left alone."""
    out = tmp_path_factory.mktemp("whole")
    assert main(arguments(large, phantom, out)) == 0
    return contents(out)


def test_the_bytes_do_not_depend_on_the_workers(large, phantom, whole, tmp_path):
    assert main(arguments(large, phantom, tmp_path, workers=2)) == 0
    assert contents(tmp_path) == whole


def is_at(out, stage):
    """Whether a run has come as far as `stage`, as its files tell."""
    work = out / WORK
    return {
        "converting": work.is_dir() and len(list(work.iterdir())) > 1,  # beside the source rows
        "writing": (work / "files").is_dir(),
        "published": (out / "test.parquet").exists() or (work / "files" / "audit.json").exists(),
    }[stage]


def start_until(stage, command, out):
    """Starts a run and waits until it has come as far as `stage`."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not is_at(out, stage) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    return process


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stage", ["converting", "writing", "published"])
def test_a_killed_run_leaves_whole_files_only_and_can_start_again(
    large, phantom, whole, tmp_path, stage, workers
):
    options = arguments(large, phantom, tmp_path, workers)
    process = start_until(stage, [sys.executable, "-m", "data_prep.thinkvg", *options], tmp_path)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = contents(tmp_path)
    assert {name: whole[name] for name in left} == left
    assert "audit.json" not in left or left == whole
    assert main(options) == 0
    assert contents(tmp_path) == whole
    assert not (tmp_path / WORK).exists()
    assert psutil.wait_procs(children, timeout=20)[1] == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stopped_run_says_so_in_one_line_and_leaves_nothing(large, phantom, tmp_path, workers):
    options = arguments(large, phantom, tmp_path, workers)
    command = [sys.executable, "-m", "data_prep.thinkvg", *options]
    process = start_until("converting", command, tmp_path)
    for member in [process, *psutil.Process(process.pid).children(recursive=True)]:
        member.send_signal(signal.SIGINT)  # as a terminal does
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.decode().splitlines()[-1] == "stopped; the same command starts from the first row"
    assert "Traceback" not in error.decode()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_worker_is_said_in_one_line(large, phantom, tmp_path, monkeypatch, capsys):
    def kill_self(self, rows, positions):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(Converter, "__call__", kill_self)
    assert main(arguments(large, phantom, tmp_path, workers=2)) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("a worker process was killed")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_in_one_line(large, phantom, tmp_path, monkeypatch, capsys):
    def fill(self, rows, positions):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Converter, "__call__", fill)
    assert main(arguments(large, phantom, tmp_path, workers=2)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"{tmp_path}: No space left on device"


def test_an_earlier_result_stays_until_the_new_one_is_whole(
    large, phantom, whole, tmp_path, monkeypatch
):
    assert main(arguments(large, phantom, tmp_path)) == 0
    with monkeypatch.context() as patch:
        patch.setattr("data_prep.pipeline.publish", lambda *_: sys.exit(1))
        with pytest.raises(SystemExit):
            main([*arguments(large, phantom, tmp_path), "--seed", "1"])
    assert contents(tmp_path) == whole
    assert main([*arguments(large, phantom, tmp_path), "--seed", "1"]) == 0
    files = contents(tmp_path)
    assert files.keys() == whole.keys()
    assert files["test.parquet"] != whole["test.parquet"]
    assert json.loads(files["audit.json"])["parameters"]["seed"] == 1


def test_what_a_killed_run_left_is_not_used(large, phantom, whole, tmp_path):
    (tmp_path / WORK / "files").mkdir(parents=True)
    for name in ("rows.arrow", "examples.arrow", "files/train.parquet"):
        (tmp_path / WORK / name).write_bytes(b"half of a file")
    assert main(arguments(large, phantom, tmp_path)) == 0
    assert contents(tmp_path) == whole
