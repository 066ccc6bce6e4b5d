"""The lists that a user gives: what is kept out, and the findings for the judge."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.program import InputError
from data_prep.sources.side_tables import findings_of, read_exclusion, read_findings
from data_prep.thinkvg import main

PATH = "/p10/p10000001/s50000001/ab-cd.jpg"
NAMED = (PATH, "p10000001", "s50000001")


@pytest.mark.parametrize(
    "text",
    [
        PATH,
        "files/p10/p10000001/s50000001/ab-cd.jpg",
        "AB-CD",  # DICOM names are in lower case
        "10000001",  # a patient or a study, as in MIMIC's tables
        "50000001",
        "P10000001",
        "S50000001/",
        "10000001,50000001,ab-cd",
        "subject_id,study_id\n10000001,50000009",
        "x; 's50000001'; y",
        "\ufeffp10000001",
    ],
)
def test_entries_are_taken_in_many_forms(tmp_path, text):
    (tmp_path / "list.txt").write_text(text)
    exclusion = read_exclusion(tmp_path / "list.txt")
    assert exclusion.has(*NAMED)
    assert len(exclusion.unknown([PATH])) < len(exclusion)


@pytest.mark.parametrize("entry", ["1.2.840.10008", "1.2.840.10008.dcm", "/a/1.2.840.10008.JPG"])
@pytest.mark.parametrize("image", ["1.2.840.10008", "a/1.2.840.10008.jpg"])
def test_names_of_dicom_files_have_dots(tmp_path, entry, image):
    (tmp_path / "list.txt").write_text(entry)
    exclusion = read_exclusion(tmp_path / "list.txt")
    assert exclusion.has(image, "", "")
    assert not exclusion.has("1.2.840.dcm", "", "")


@pytest.mark.parametrize("text", ["10000002", "p100000", "nonsense", "s10000001", "ab"])
def test_other_entries_keep_nothing_out(tmp_path, text):
    (tmp_path / "list.txt").write_text(text)
    exclusion = read_exclusion(tmp_path / "list.txt")
    assert not exclusion.has(*NAMED)
    assert exclusion.unknown([PATH]) == [text]


def test_entries_that_name_no_row_are_pointed_out(phantom, paths, tmp_path, capsys):
    file = tmp_path / "list.txt"
    arguments = [*paths(phantom, tmp_path / "out"), "--exclude", str(file), "--workers", "1"]
    file.write_text("nonsense\np99999998\n")
    assert main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"--exclude {file}: none of its 2 entries names a row, such as nonsense" in error
    assert not (tmp_path / "out").exists()
    # With a limit the rows may be among those left out.
    assert main([*arguments, "--limit", "20"]) == 0
    assert "2 of 2 entries of --exclude name no row" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "image_path,findings\nfiles/p10/p10000001/s50000001/ab-cd.jpg,Clear.\n"),
        ("a.csv", "study,findings\n50000001,Clear.\n"),  # a number
        ("a.csv", "study,findings\nS50000001,Clear.\n"),
        ("a.CSV", "study,findings\ns50000001,Clear.\n"),
        ("a.csv", "\ufeffstudy,findings\ns50000001,Clear.\n"),
        ("a.csv", "image_path,study,findings\n,s50000001,Clear.\n"),  # an empty path
        ("a.csv", "study,findings\ns50000001,Clear.\ns50000001,Clear.\n"),  # the same twice
        ("a.jsonl", '{"study": 50000001, "findings": "Clear."}\n'),
    ],
)
def test_findings_are_found_by_keys_in_many_forms(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    table = read_findings(tmp_path / name)
    assert findings_of(table, PATH, "s50000001") == "Clear."
    assert findings_of(table, f"files{PATH}", "s50000001") == "Clear."
    assert findings_of(table, "/p10/p10000002/s2/b.jpg", "s50000002") is None


def test_findings_over_several_lines_are_read(tmp_path):
    rows = "".join(f's5000{number:04},"Clear.\nBoth."\n' for number in range(3000))
    (tmp_path / "a.csv").write_text(f"study,findings\n{rows}")
    assert read_findings(tmp_path / "a.csv")["s50002999"] == "Clear.\nBoth."


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "study,findings\ns1,caf\xe9\n".encode("latin-1"), "findings is no UTF-8"),
        ("a.csv", "study,findings\ns\xe9,x\n".encode("latin-1"), "study is no UTF-8"),
        ("a.csv", b"study,findings\ns1,0\n", "findings holds int64, not text"),
        ("a.csv", b"study,findings\n1.5,x\n", "study holds double, not text"),
        ("a.jsonl", b'{"study": "s1", "findings": ["a"]}\n', "findings holds list"),
        ("a.csv", b"study,findings\n", "holds no findings"),
        ("a.csv", b"study,findings\ns1,\ns2,x\ns3,\n,y\ns2,z\n", "different findings for s2"),
        ("a.csv", b'study,findings\ns1," "\n', "holds no findings"),
        ("a.csv", b"study,findings,findings\ns1,a,b\n", "has the column findings twice"),
        ("a.csv", b"study;findings\ns1;a\n", "it has study;findings"),
        ("a.csv", b"", "does not read"),
        ("a.txt", b"", "is none of .parquet"),
    ],
)
def test_a_table_at_fault_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_findings(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_that_is_no_utf8_in_parquet_is_named(tmp_path):
    raw = pa.array([b"caf\xe9"], pa.binary())
    column = pa.Array.from_buffers(pa.string(), 1, raw.buffers())
    pq.write_table(pa.table({"study": ["s1"], "findings": column}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="findings is no UTF-8"):
        read_findings(tmp_path / "a.parquet")


def test_images_without_findings_are_counted(phantom, paths, tmp_path, capsys):
    arguments = [*paths(phantom, tmp_path / "out"), "--workers", "1", "--limit", "100"]
    source = pq.read_table(phantom / "data" / "train-00000-of-00001.parquet")
    table = tmp_path / "findings.csv"
    table.write_text(f"image_path,findings\n{source['image_path'][0].as_py()},Clear.\n")
    assert main([*arguments, "--findings", str(table)]) == 0
    assert "images have no findings" in capsys.readouterr().err
    doubts = json.loads((tmp_path / "out" / "audit.json").read_text())["doubts"]
    assert any("images have no findings" in doubt for doubt in doubts)
    table.write_text("image_path,findings\nnone.jpg,Clear.\n")
    assert main([*arguments[:-2], "--findings", str(table)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"--findings {table} names none of the 400 images: its first key is none.jpg" in error
