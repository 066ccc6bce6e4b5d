"""Killed at any moment, the preparation leaves only whole files, and a second run ends it."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.convert import Converter, rejects_file
from data_prep.sources.base import stamp
from data_prep.thinkvg import main

OPTIONS = ["--val", "0.1", "--test", "0.1"]


@pytest.fixture(scope="module")
def large(phantom, tmp_path_factory):
    """The phantom's rows several times over: some batches, so that there is something to stop."""
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
    parts = out / ".parts"
    return {
        "first part": (parts / "part-000000.arrow").exists(),
        "writing": (parts / "files").is_dir(),
        "published": (out / "test.parquet").exists() or (parts / "files" / "audit.json").exists(),
    }[stage]


@pytest.mark.parametrize("stage", ["first part", "writing", "published"])
def test_a_killed_run_leaves_whole_files_only_and_goes_on(large, phantom, whole, tmp_path, stage):
    command = [sys.executable, "-m", "data_prep.thinkvg", *arguments(large, phantom, tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not is_at(tmp_path, stage) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = contents(tmp_path)
    assert {name: whole[name] for name in left} == left
    assert "audit.json" not in left or left == whole
    assert main(arguments(large, phantom, tmp_path)) == 0
    assert contents(tmp_path) == whole
    assert not (tmp_path / ".parts").exists()


def test_parts_of_a_stopped_run_are_not_made_again(
    large, phantom, whole, tmp_path, monkeypatch, capsys
):
    made = []
    convert = Converter.__call__

    def stop_at_second(self, batch):
        made.append(batch.number)
        if len(made) == 2:
            raise KeyboardInterrupt
        convert(self, batch)

    monkeypatch.setattr(Converter, "__call__", stop_at_second)
    assert main(arguments(large, phantom, tmp_path)) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert main(arguments(large, phantom, tmp_path)) == 0
    assert made == [0, 1, 1, 2]
    assert contents(tmp_path) == whole


def test_parts_of_other_settings_are_not_used(large, phantom, tmp_path, monkeypatch):
    def stop(self, batch):
        convert(self, batch)
        raise KeyboardInterrupt

    convert = Converter.__call__
    with monkeypatch.context() as patch:
        patch.setattr(Converter, "__call__", stop)
        assert main(arguments(large, phantom, tmp_path / "stopped")) == 130
    for name in ("stopped", "fresh"):
        assert main([*arguments(large, phantom, tmp_path / name), "--limit", "2999"]) == 0
    assert contents(tmp_path / "stopped") == contents(tmp_path / "fresh")


def test_an_earlier_result_stays_until_the_new_one_is_whole(large, phantom, whole, tmp_path):
    assert main(arguments(large, phantom, tmp_path)) == 0
    assert main([*arguments(large, phantom, tmp_path), "--seed", "1"]) == 0
    files = contents(tmp_path)
    assert files.keys() == whole.keys()
    assert files["test.parquet"] != whole["test.parquet"]
    assert json.loads(files["audit.json"])["parameters"]["seed"] == 1


def test_a_tokenizer_that_changed_is_noticed(tmp_path):
    """Its folder's own time stays the same when a file in it is written anew."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    before, when = stamp(tmp_path / "model"), (tmp_path / "model").stat().st_mtime_ns
    assert stamp(tmp_path / "model") == before
    (tmp_path / "model" / "tokenizer.json").write_text('{"a": 1}')
    assert (tmp_path / "model").stat().st_mtime_ns == when
    assert stamp(tmp_path / "model") != before


def test_a_run_killed_while_it_removes_its_parts_goes_on(
    large, phantom, whole, tmp_path, monkeypatch
):
    remove = shutil.rmtree

    def stop_after_one(folder, **options):
        if not (tmp_path / "audit.json").exists():
            return remove(folder, **options)
        rejects_file(folder, 1).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", stop_after_one)
        assert main(arguments(large, phantom, tmp_path)) == 130
    assert main(arguments(large, phantom, tmp_path)) == 0
    assert contents(tmp_path) == whole
    assert not (tmp_path / ".parts").exists()
