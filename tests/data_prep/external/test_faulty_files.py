"""Files that are damaged, or not as published: the row is rejected, or one line names the fault."""

import gzip
from pathlib import Path
from typing import Any

import pytest
from external_sets import (
    MS_CXR_COLUMNS,
    Import,
    edit,
    ms_cxr_rows,
    vqa_rad_rows,
    write_csv,
    write_json,
    write_ms_cxr_json,
)

from data_prep.external.items import Reading, account


@pytest.mark.parametrize(("width", "reason"), [("0", "degenerate_box"), ("wide", "bad_box")])
def test_a_question_that_lacks_a_box_of_its_truth_is_not_asked(
    imported: Import, tmp_path: Path, width: str, reason: str
) -> None:
    before = imported("ms_cxr")
    question = "Where is: left apical pneumothorax?"
    assert question in dict(before.asked())
    (table,) = (tmp_path / "sets" / "ms_cxr").glob("*.csv")
    header, first, *others = table.read_text().splitlines()
    faulty = first.split(",")
    faulty[header.split(",").index("w")] = width
    table.write_text("\n".join([header, first, *others, ",".join(faulty)]))
    result = imported("ms_cxr")
    assert question not in dict(result.asked())
    assert len(result.asked()) == len(before.asked()) - 1
    assert result.rejects[table.name, len(others) + 1] == reason
    others_left_out = before.audit["left_out"]["incomplete"]
    assert result.audit["left_out"]["incomplete"] == others_left_out + 2  # its two sound boxes
    assert result.audit["rows"]["conserved"]


@pytest.mark.parametrize("options", ["{[1]: 2}", "[" * 100_000, "(" * 1000, None])
def test_options_that_are_no_list_reject_their_row(
    imported: Import, tmp_path: Path, options: str | None
) -> None:
    imported("rexvqa")
    path = tmp_path / "sets/rexvqa/metadata/test_vqa_data.json"
    edit(path, lambda rows: rows["q1"].update(options=options))
    assert imported("rexvqa").rejects[path.name, 0] == "answer_not_in_choices"


@pytest.mark.parametrize(
    ("list_name", "change", "code"),
    [
        ("annotations", {"bbox": [60, 20, 30, 40, 50]}, "bad_box"),
        ("annotations", {"bbox": [10**400, 20, 30, 40]}, "bad_box"),
        ("annotations", {"image_id": [1]}, "unknown_form"),
        ("images", {"path": None}, "unknown_form"),
        ("images", {"id": [1]}, "unknown_form"),
        ("annotations", {"category_id": [1]}, None),  # its name is not asked
    ],
)
def test_a_damaged_entry_of_ms_cxrs_json_rejects_its_row(
    imported: Import, tmp_path: Path, list_name: str, change: dict[str, Any], code: str | None
) -> None:
    imported("ms_cxr")
    source = tmp_path / "sets" / "ms_cxr"
    (source / "MS_CXR_Local_Alignment_v1.1.0.csv").unlink()
    path = source / "MS_CXR_Local_Alignment_v1.0.0.json"
    write_ms_cxr_json(path)
    # A question of its own, since a question with a rejected row is not asked.
    other_phrase = {"label_text": "another phrase", "id": 99}
    edit(
        path,
        lambda content: content["annotations"].append(content["annotations"][0] | other_phrase),
    )
    edit(path, lambda content: content[list_name][0].update(change))
    assert imported("ms_cxr").rejects.get((path.name, 0)) == code


def test_a_study_without_a_list_of_findings_is_noted(imported: Import, tmp_path: Path) -> None:
    imported("padchest_gr")
    path = tmp_path / "sets/padchest_gr/grounded_reports_20240819.json"
    edit(path, lambda studies: studies[2].update(findings=None))
    edit(path, lambda studies: studies[0]["findings"][0].update(boxes=[[10**400, 0, 1, 1]]))
    result = imported("padchest_gr")
    assert f"1 studies of {path.name} have no findings" in result.audit["doubts"]
    assert result.rejects[path.name, 0] == "bad_box"


@pytest.mark.parametrize(
    ("change", "code"),
    [({"boxes": [[0.2, 0.2, 0.4]]}, "bad_box"), ({"abnormal": "yes"}, "unknown_form")],
)
def test_a_label_of_a_rejected_sentence_is_not_asked_as_absent(
    imported: Import, tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    imported("padchest_gr")
    path = tmp_path / "sets/padchest_gr/grounded_reports_20240819.json"
    edit(path, lambda studies: studies[0]["findings"][0].update(change))
    result = imported("padchest_gr")
    assert result.rejects[path.name, 0] == code
    # The third sentence denies the label that the first one states.
    assert ("Is there pleural effusion?", "No") not in result.asked()
    assert ("Is there pneumothorax?", "No") in result.asked()


def test_a_text_that_is_no_utf8_rejects_its_row(imported: Import, tmp_path: Path) -> None:
    imported("vqa_rad")
    path = tmp_path / "sets/vqa_rad/VQA_RAD Dataset Public.json"
    edit(path, lambda rows: rows[4].update(answer="half a pair: \ud800"))
    result = imported("vqa_rad")
    assert result.rejects[path.name, 4] == "bad_text"
    assert result.audit["rows"]["conserved"]


def test_a_column_that_is_missing_or_unknown_is_one_line(
    imported: Import, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported("ms_cxr")
    path = tmp_path / "sets/ms_cxr/MS_CXR_Local_Alignment_v1.1.0.csv"
    write_csv(path, MS_CXR_COLUMNS.replace("label_text", "caption"), ms_cxr_rows())
    capsys.readouterr()
    imported("ms_cxr", code=2)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"{path} lacks the column label_text of the published file")
    write_csv(path, f"{MS_CXR_COLUMNS},reader", [[*row, "R1"] for row in ms_cxr_rows()])
    result = imported("ms_cxr")
    assert any("has reader, which this program ignores" in line for line in result.audit["doubts"])


def test_the_hubs_copy_of_vqa_rad_is_refused(
    imported: Import, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported("vqa_rad")
    short = [{k: row[k] for k in ("question", "answer")} for row in vqa_rad_rows()]
    write_json(tmp_path / "sets/vqa_rad/VQA_RAD Dataset Public.json", short)
    capsys.readouterr()
    imported("vqa_rad", code=2)
    assert "lacks the key image_name, image_organ, answer_type" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("left apical", "left, apical", "line 2 has more values than columns"),
        ("left apical", '"left apical', "unexpected end of data"),
    ],
)
def test_a_csv_whose_values_are_shifted_is_refused(
    imported: Import,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    fault: str,
) -> None:
    imported("ms_cxr")
    path = tmp_path / "sets/ms_cxr/MS_CXR_Local_Alignment_v1.1.0.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    capsys.readouterr()
    imported("ms_cxr", code=2)
    assert capsys.readouterr().err.startswith(f"{path} does not read: {fault}")


def test_files_that_do_not_read_are_one_line(
    imported: Import, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported("ms_cxr")
    table = tmp_path / "split.csv.gz"
    content = bytearray(gzip.compress(b"dicom_id,study_id,subject_id,split\n" * 100))
    content[15:18] = b"\xff\xff\xff"
    table.write_bytes(content)
    capsys.readouterr()
    imported("ms_cxr", "--mimic-split", str(table), code=2)
    assert f"{table} does not read: " in capsys.readouterr().err
    imported("slake")
    path = tmp_path / "sets/slake/test.json"
    path.write_text("[" * 200_000)
    capsys.readouterr()
    imported("slake", code=2)
    assert f"{path} does not read as JSON: " in capsys.readouterr().err


def test_a_row_without_a_fate_is_a_fault_of_the_program() -> None:
    reading = Reading()
    reading.register("a.csv", 0, {})
    with pytest.raises(RuntimeError, match="1 rows are not accounted for"):
        account(reading, set())
