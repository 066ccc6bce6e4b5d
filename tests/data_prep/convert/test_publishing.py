"""What one run leaves in its folder when others ran there before, run at once, or were killed."""

import json
import os
import re
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import pipeline
from data_prep.convert.training_files import check_whole, output_names, publish
from data_prep.program import NAME, InputError, alone_in
from data_prep.thinkvg import main

HOLD = """
import sys, time
from pathlib import Path
from data_prep.program import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_into_a_folder_is_refused(make_dataset, paths, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    with alone_in(out):
        assert main(paths(make_dataset({}), out)) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert re.fullmatch(
            rf"{out}: process {os.getpid()} on \S+ writes to this folder: wait .* --out", line
        )
        assert [path.name for path in out.iterdir()] == [NAME]
    assert main(paths(tmp_path / "set", out)) == 0
    assert not (out / NAME).exists()


def test_a_killed_run_holds_its_folder_no_longer(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with (
        pytest.raises(InputError, match=rf"process {process.pid} on .* writes to this folder"),
        alone_in(tmp_path),
    ):
        pass
    process.kill()
    process.wait()
    assert (tmp_path / NAME).exists()  # and is no hindrance
    with alone_in(tmp_path):
        pass


def test_a_file_that_changed_is_not_published(make_dataset, paths, tmp_path, capsys, monkeypatch):
    write = pipeline.write_training_files

    def write_and_spoil(folder, *arguments, **options):
        counts = write(folder, *arguments, **options)
        pq.write_table(pa.table({"a": [1, 2, 3]}), folder / "train.parquet")
        return counts

    monkeypatch.setattr(pipeline, "write_training_files", write_and_spoil)
    assert main(paths(make_dataset({}), tmp_path / "out")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "train.parquet does not hold the 1 rows that were written" in error
    assert not (tmp_path / "out" / "train.parquet").exists()


@pytest.mark.parametrize("content", [None, b"", b"PAR1 cut off"])
def test_a_file_that_does_not_read_is_not_whole(tmp_path, content):
    if content is not None:
        (tmp_path / "val.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"val\.parquet does not hold the 2 rows"):
        check_whole(tmp_path, {"val.parquet": 2})


def test_files_of_a_run_without_a_usable_row_are_apart(make_dataset, paths, tmp_path, capsys):
    out, dataset = tmp_path / "out", make_dataset({}, {"image_path": "/p10/p10000003/s1/b.jpg"})
    assert main(paths(dataset, out)) == 0
    assert (out / "train.parquet").exists()
    (dataset / "files" / "p10" / "p10000001" / "s50000001" / "a.jpg").unlink()
    assert main(paths(dataset, out)) == 2  # no row is usable any more
    assert f"{out} is as it was: no row" in capsys.readouterr().err
    assert json.loads((out / "audit.json").read_text())["rows"]["train"] == 1
    names = sorted(path.name for path in (out / "unusable").iterdir())
    assert names == ["audit.html", "audit.json", "missing_images.txt", "rejects.parquet"]
    assert json.loads((out / "unusable" / "audit.json").read_text())["rows"]["train"] == 0


def test_files_of_two_runs_never_stand_together(tmp_path, monkeypatch):
    """Killed at any rename, a folder holds files of the second run only, and no audit."""
    new = tmp_path / "new"
    for stop in range(len(output_names())):
        out = tmp_path / str(stop)
        for folder in (out, new):
            folder.mkdir(exist_ok=True)
            for name in output_names():
                (folder / name).write_text(folder.name)
        moved = iter(range(stop))

        def replace(source, target, moved=moved):
            if next(moved, None) is None:
                raise KeyboardInterrupt
            os.rename(source, target)

        monkeypatch.setattr("data_prep.convert.training_files.os.replace", replace)
        with pytest.raises(KeyboardInterrupt):
            publish(out, new)
        assert {path.read_text() for path in out.iterdir()} <= {"new"}
        assert not (out / "audit.json").exists()


@pytest.mark.parametrize("name", ["train.parquet", "rejects.parquet"])
def test_a_source_that_would_be_overwritten_is_refused(make_dataset, tmp_path, capsys, name):
    dataset = make_dataset({})
    source = dataset / "data" / name
    (dataset / "data" / "train.parquet").rename(source)
    before = source.read_bytes()
    arguments = ["--images", str(dataset), "--out", str(dataset / "data")]
    for given in (source, dataset):  # the file, or a folder that holds it
        assert main(["--source", str(given), *arguments]) == 2
        assert f"would overwrite the source {source}" in capsys.readouterr().err
    assert source.read_bytes() == before
