"""The options of an import: shared patients, MIMIC-CXR's split, sizes, a limit."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from external_sets import (
    Import,
    write,
    write_csv,
)

from data_prep.external.__main__ import main


def test_shared_patients_may_stay_or_be_listed_ahead(
    imported: Import, training: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_shared = imported("ms_cxr", "--train", str(training), "--keep-shared")
    assert "p10000002" in {info["patient"] for info in with_shared.info}
    assert with_shared.audit["shared_with_training"] == {"patients": 1, "questions": 1}
    assert "patients shared with --train: 1 in 1 questions" in capsys.readouterr().out
    listed = tmp_path / "exclude.txt"
    ahead = imported("ms_cxr", "--exclude-list", str(listed))
    assert ahead.audit["shared_with_training"] is None
    assert "give --train, or --exclude-list" in capsys.readouterr().err
    assert listed.read_text().split() == [f"p1000000{n}" for n in (1, 2, 4, 5, 6, 8)]
    # Validation counts as training: patient 12 is there.
    gold = imported("imagenome", "--train", str(training))
    assert gold.audit["shared_with_training"] == {"patients": 1, "questions": 2}


@pytest.mark.parametrize("content", [b"PAR1junk", None])
def test_a_damaged_split_of_the_training_data_is_one_line(
    imported: Import,
    training: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
) -> None:
    imported("ms_cxr")
    path = training / "val.parquet"
    if content is None:
        pq.write_table(pa.table({"other": [1]}), path)
    else:
        path.write_bytes(content)
    capsys.readouterr()
    imported("ms_cxr", "--train", str(training), code=2)
    assert f"--train: {path} names no patients" in capsys.readouterr().err


def test_training_files_are_not_overwritten(
    tmp_path: Path, training: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = write("slake", tmp_path / "sets")
    assert main([*options, "--out", str(training)]) == 2
    assert "holds training files" in capsys.readouterr().err
    assert main([*options, "--exclude-list", "x", "--out", str(tmp_path / "out")]) == 2
    assert "slake has no images of MIMIC-CXR" in capsys.readouterr().err


def test_ms_cxr_by_mimics_split(imported: Import, tmp_path: Path) -> None:
    table = tmp_path / "mimic-cxr-2.0.0-split.csv"
    rows = [["aa", 50000001, 10000001, "train"], ["cc", 50000003, 10000003, "test"]]
    write_csv(table, "dicom_id,study_id,subject_id,split", rows)
    result = imported("ms_cxr", "--mimic-split", str(table))
    assert [info["patient"] for info in result.info] == ["p10000003"]
    assert result.audit["left_out"] == {"other_split": 12}


@pytest.mark.parametrize("size", [(0, 240), (-200, 240)])
def test_a_size_without_area_is_one_line(
    imported: Import, tmp_path: Path, capsys: pytest.CaptureFixture[str], size: tuple[int, int]
) -> None:
    imported("vindr_cxr")
    sizes = tmp_path / "sizes.csv"
    write_csv(sizes, "image_id,width,height", [["0a1b", *size]])
    capsys.readouterr()
    imported("vindr_cxr", "--sizes", str(sizes), code=2)
    assert f"--sizes {sizes}: 0a1b has no area" in capsys.readouterr().err


def test_a_limit_leaves_rows_out(imported: Import) -> None:
    result = imported("vindr_cxr", "--limit", "3")
    assert result.audit["left_out"]["limit"] > 0
    assert len(result.rows) == 3


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--keep-shared"], "--keep-shared needs --train"),
        (["--train", "nowhere"], "--train: nowhere/train.parquet does not exist"),
        (["--min-pixels", "0"], "--min-pixels is 0"),
    ],
)
def test_wrong_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], fault: str
) -> None:
    paths = [f"--{name}={tmp_path}" for name in ("source", "images")]
    arguments = ["--set", "ms_cxr", *paths, f"--out={tmp_path / 'out'}", *options]
    assert main(arguments) == 2
    assert fault in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "options", "fault"),
    [
        ("rexvqa", ["--split", "train"], "--split train: of rexvqa, this program reads test"),
        ("vindr_cxr", ["--split", "all"], "--split all: of vindr_cxr, this program reads test"),
        ("slake", ["--split", "all"], "--split all: of slake, this program reads test, val, train"),
        ("gemex", ["--mimic-split", "a.csv"], "--mimic-split says nothing of gemex"),
        ("slake", ["--sizes", "a.csv"], "--sizes says nothing of slake"),
        ("ms_cxr", ["--fit", "pad"], "--fit says nothing of ms_cxr"),
    ],
)
def test_an_option_that_a_set_has_no_use_for_is_refused(
    name: str,
    options: list[str],
    fault: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = [f"--{option}={tmp_path}" for option in ("source", "images", "out")]
    assert main(["--set", name, *paths, *options]) == 2
    assert capsys.readouterr().err.startswith(fault)
