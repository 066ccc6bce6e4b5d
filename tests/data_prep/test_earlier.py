"""Data prepared again: patients stay in their splits, or a remark says that they do not."""

import json
import shutil

import pytest

from data_prep.earlier import read_splits
from data_prep.thinkvg import main

PATIENTS = 30


@pytest.fixture
def dataset(make_dataset):
    """One row and one picture for each of 30 patients."""
    names = [f"p10/p100000{number:02}/s50000001/a.jpg" for number in range(PATIENTS)]
    folder = make_dataset(*({"image_path": f"/{name}"} for name in names))
    pictures = [folder / "files" / name for name in names]
    (drawn,) = (picture for picture in pictures if picture.is_file())
    for picture in pictures:
        picture.parent.mkdir(parents=True, exist_ok=True)
        if picture != drawn:
            shutil.copy(drawn, picture)
    return folder


@pytest.fixture
def options(dataset, paths):
    """The command for a folder, with a tenth of the patients in val, a fifth in test."""
    return lambda out, *more: [*paths(dataset, out), "--val", "0.1", "--test", "0.2", *more]


def doubts(out):
    return json.loads((out / "audit.json").read_text())["doubts"]


@pytest.fixture
def exclude(tmp_path):
    """A list with one patient, without whom a seed draws other splits."""
    file = tmp_path / "excluded.txt"
    file.write_text("p10000000\n")
    return ["--exclude", str(file)]


def test_patients_keep_their_splits(options, tmp_path, exclude):
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(options(first)) == 0
    splits = read_splits(first)
    assert len(splits) == PATIENTS
    assert main(options(second, *exclude, "--splits-of", str(first), "--seed", "5")) == 0
    assert read_splits(second) == {key: splits[key] for key in splits if key != "p10000000"}


def test_new_patients_are_drawn(options, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert main([*options(first), "--limit", "20"]) == 0
    assert main(options(second, "--splits-of", str(first))) == 0
    splits, more = read_splits(first), read_splits(second)
    assert splits.items() <= more.items()
    new = [more[patient] for patient in more if patient not in splits]
    assert sorted(new) == ["test"] * 2 + ["train"] * 7 + ["val"]


def test_a_remark_says_that_training_patients_are_tested(options, tmp_path, exclude, capsys):
    out = tmp_path / "out"
    assert main(options(out)) == 0
    assert not doubts(out)
    before = read_splits(out)
    assert main(options(out, *exclude)) == 0
    moved = sum(
        before[patient] == "train" and split != "train"
        for patient, split in read_splits(out).items()
    )
    assert moved
    (doubt,) = doubts(out)
    assert f"{moved} patients of val and test were training patients in {out}" in doubt
    assert doubt in capsys.readouterr().err
    splits = read_splits(out)
    assert main(options(out, "--splits-of", str(out))) == 0
    assert splits.items() <= read_splits(out).items()


def test_a_folder_that_was_not_prepared_is_named(options, tmp_path, capsys):
    assert main(options(tmp_path / "out", "--splits-of", str(tmp_path))) == 2
    assert f"--splits-of: {tmp_path} holds no train.parquet" in capsys.readouterr().err


def test_a_run_without_a_usable_row_leaves_the_files_of_the_run_before(
    dataset, options, tmp_path, capsys
):
    out = tmp_path / "out"
    assert main(options(out)) == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    splits = read_splits(out)
    moved = (dataset / "files").rename(tmp_path / "elsewhere")
    (dataset / "files").mkdir()
    again = options(out, "--splits-of", str(out))
    assert main(again) == 2
    assert f"listed in {out / 'unusable' / 'missing_images.txt'}" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    (dataset / "files").rmdir()
    moved.rename(dataset / "files")
    assert main(again) == 0
    assert read_splits(out) == splits
    assert not (out / "unusable").exists()
