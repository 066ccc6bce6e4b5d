"""Each external set in its published shape: which rows are asked, rejected and left out."""

import functools
import gzip
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from external_sets import (
    MS_CXR_COLUMNS,
    SIZE,
    VINDR_BOXES,
    WRITERS,
    draw,
    mimic,
    ms_cxr_rows,
    vqa_rad_rows,
    write,
    write_csv,
    write_json,
    write_ms_cxr_json,
)
from PIL import Image

from data_prep.external.__main__ import main
from data_prep.external.answers import alternatives
from data_prep.external.importing import SETS
from data_prep.external.items import Reading, account
from data_prep.images import main as images_main
from data_prep.rows.prompts import load_templates
from recipe.evaluate.predictions import read_questions

PIXELS = ["--min-pixels", "12544", "--max-pixels", "15680", "--workers", "1"]

Import = Callable[..., "Imported"]


class Imported:
    """What an import wrote."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.audit = json.loads((out / "audit.json").read_text())
        test = out / "test.parquet"
        self.rows = pq.read_table(test).to_pylist() if test.exists() else []
        self.rejects = {
            (row["source_file"], row["source_index"]): row["reason"]
            for row in pq.read_table(out / "rejects.parquet").to_pylist()
        }
        self.info = [row["extra_info"] for row in self.rows]
        self.truths = [json.loads(row["reward_model"]["ground_truth"]) for row in self.rows]

    def asked(self) -> list[tuple[str, Any]]:
        return [
            (info["question"], truth["answer"])
            for info, truth in zip(self.info, self.truths, strict=True)
        ]


def run(folder: Path, name: str, *options: str, code: int = 0) -> Imported:
    """Import a set of `folder`, which is written there first."""
    if not (folder / "sets" / name).exists():
        write(name, folder / "sets")
    paths = [f"--source={folder / 'sets' / name}", f"--images={folder / 'sets' / name}-images"]
    out = folder / "out" / name
    assert main(["--set", name, *paths, f"--out={out}", *PIXELS, *options]) == code
    return Imported(out)


@pytest.fixture
def imported(tmp_path: Path) -> Import:
    """Imports a set into the test's own folder, with more options."""
    return functools.partial(run, tmp_path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Import:
    """Imports a set without options, once for all tests."""
    return functools.cache(functools.partial(run, tmp_path_factory.mktemp("sets")))


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """A folder whose training split has the patients 2 and, in validation, 12."""
    folder = tmp_path / "train"
    folder.mkdir()
    values = {"model_family": "qwen2_5_vl", "min_pixels": 12544, "max_pixels": 15680}
    metadata = {b"thinkvg": json.dumps({**values, "prompt_template": "thinkvg"}).encode()}
    for name, patient in (("train", "p10000002"), ("val", "p10000012")):
        table = pa.table({"extra_info": [{"patient": patient, "index": 0}]})
        pq.write_table(table.replace_schema_metadata(metadata), folder / f"{name}.parquet")
    return folder


@pytest.mark.parametrize("name", list(WRITERS))
def test_every_row_has_one_fate_and_every_question_reads(name: str, plain: Import) -> None:
    result = plain(name)
    counts = result.audit["rows"]
    assert counts["conserved"]
    assert counts["source"] == sum(counts[k] for k in ("in_questions", "rejects", "left_out"))
    assert counts["rejects"] == len(result.rejects) == sum(result.audit["rejects"].values())
    assert counts["left_out"] == sum(result.audit["left_out"].values())
    assert "internal_error" not in result.audit["rejects"]
    assert len(read_questions(result.out / "test.parquet")) == len(result.rows)
    for row, info, truth in zip(result.rows, result.info, result.truths, strict=True):
        assert row["data_source"] == info["set"]
        assert info["set"].split(":")[0] == name
        assert Image.open(row["images"][0]["image"]).mode in ("L", "RGB")
        assert len(info["original_boxes"]) == len(truth["regions"])
        template = load_templates().texts[truth["question_type"]]
        assert row["prompt"][0]["content"].startswith(f"<image>\n{info['question']}\n")
        assert row["prompt"][0]["content"].splitlines()[2][:20] == template.splitlines()[2][:20]
    assert "doubt" in (result.out / "audit.html").read_text()


@pytest.mark.parametrize("name", list(WRITERS))
def test_boxes_are_mapped_once_from_the_original(name: str, plain: Import) -> None:
    result = plain(name)
    for info, truth in zip(result.info, result.truths, strict=True):
        width, height = truth["image_size"]
        for region, box in zip(truth["regions"], info["original_boxes"], strict=True):
            scale = np.array([width, height] * 2) / np.array(info["original_size"] * 2)
            assert np.abs(np.array(region["box"]) - np.array(box) * scale).max() <= 0.5


def test_indices_of_sets_do_not_collide(plain: Import) -> None:
    indices = [info["index"] for name in WRITERS for info in plain(name).info]
    assert len(set(indices)) == len(indices)
    assert list(WRITERS) == list(SETS)


def test_ms_cxr(imported: Import, training: Path) -> None:
    result = imported("ms_cxr", "--train", str(training))
    assert result.asked() == [
        ("Where is: left apical pneumothorax?", "left apical pneumothorax"),
        ("Where is: left pneumothorax?", "left pneumothorax."),
    ]
    # Boxes are x, y, width, height, of one phrase together.
    assert result.info[0]["original_boxes"] == [[60, 20, 90, 60], [10, 100, 30, 130]]
    assert {info["scored"] for info in result.info} == {"boxes"}
    assert result.info[0]["patient"] == "p10000001"
    assert result.audit["left_out"] == {
        **{"other_split": 1, "shared_patient": 1, "repeat": 1},
        "incomplete": 1,  # "apical pneumothorax" has a faulty box, too
    }
    assert result.audit["shared_with_training"] == {"patients": 1, "questions": 1}
    file = "MS_CXR_Local_Alignment_v1.1.0.csv"
    assert result.rejects == {
        (file, 5): "size_mismatch",
        (file, 6): "missing_image",
        (file, 7): "degenerate_box",
        (file, 9): "box_outside",
        (file, 10): "bad_box",
        (file, 11): "no_patient",
    }
    assert (result.out / "missing_images.txt").read_text().count("ee.jpg") == 1


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


def test_ms_cxr_by_mimics_split(imported: Import, tmp_path: Path) -> None:
    table = tmp_path / "mimic-cxr-2.0.0-split.csv"
    rows = [["aa", 50000001, 10000001, "train"], ["cc", 50000003, 10000003, "test"]]
    write_csv(table, "dicom_id,study_id,subject_id,split", rows)
    result = imported("ms_cxr", "--mimic-split", str(table))
    assert [info["patient"] for info in result.info] == ["p10000003"]
    assert result.audit["left_out"] == {"other_split": 12}


def test_ms_cxr_as_json_joins_a_pictures_entries(
    imported: Import, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported("ms_cxr")
    source = tmp_path / "sets" / "ms_cxr"
    (source / "MS_CXR_Local_Alignment_v1.1.0.csv").unlink()
    write_ms_cxr_json(source / "MS_CXR_Local_Alignment_v1.0.0.json")
    capsys.readouterr()
    result = imported("ms_cxr")
    assert result.asked() == [("Where is: left apical pneumothorax?", "left apical pneumothorax")]
    assert len(result.truths[0]["regions"]) == 2
    assert list(result.rejects.values()) == ["unknown_form"]
    assert "has no column split: all of its rows are used" in capsys.readouterr().err


def test_imagenome_is_a_check_of_the_frame(plain: Import) -> None:
    result = plain("imagenome")
    assert [q for q, _ in result.asked()] == [
        "Where is the left lung?",
        "Where is the right lung?",
        "Where is the left lung?",
    ]
    assert result.info[0]["original_boxes"] == [[60, 10, 110, 120]]
    assert Counter(result.rejects.values()) == {
        "degenerate_box": 1,
        "box_outside": 1,
        "no_patient": 1,
    }
    assert "a check of the frame" in result.audit["doubts"][0]


def test_vindr_cxr(plain: Import) -> None:
    result = plain("vindr_cxr")
    assert [q for q in result.asked() if q[0].startswith("Where")] == [
        ("Where is the cardiomegaly?", "Cardiomegaly"),
        ("Where is the nodule/mass?", "Nodule/Mass"),
    ]
    assert result.info[1]["original_boxes"] == [[20, 20, 60, 60], [150, 40, 180, 90]]
    closed = [q for q in result.asked() if not q[0].startswith("Where")]
    assert Counter(closed) == {
        ("Is there cardiomegaly?", "Yes"): 1,
        ("Is there cardiomegaly?", "No"): 2,
        ("Is there nodule/mass?", "Yes"): 1,
        ("Is there nodule/mass?", "No"): 1,
        ("Is this chest X-ray normal?", "Yes"): 1,
        ("Is this chest X-ray normal?", "No"): 2,
    }
    assert result.audit["left_out"] == {"no_box": 1, "asks_nothing": 4}
    assert "has 4 columns of labels, the published file 28" in result.audit["doubts"][0]
    boxes, labels = "annotations_test.csv", "image_labels_test.csv"
    assert result.rejects == {
        (boxes, 3): "degenerate_box",
        (boxes, 6): "box_outside",
        (boxes, 7): "bad_box",
        (labels, 9): "no_answer",
    }
    assert {info["patient"] for info in result.info} == {
        f"vindr_cxr:{n}" for n in ("0a1b", "1c2d", "2e3f")
    }
    # MONOCHROME1 is inverted: its low values at the top are white.
    tops = {
        info["patient"]: np.asarray(Image.open(row["images"][0]["image"]))[:50].mean()
        for row, info in zip(result.rows, result.info, strict=True)
    }
    assert tops["vindr_cxr:0a1b"] > 250
    assert tops["vindr_cxr:1c2d"] < 5


def test_vindrs_resized_pictures_need_their_originals_size(
    imported: Import, tmp_path: Path
) -> None:
    imported("vindr_cxr")
    images = tmp_path / "sets/vindr_cxr-images/test"
    for path in images.glob("*.dicom"):
        path.unlink()
        draw(path.with_suffix(".png"), (100, 120))
    unknown = imported("vindr_cxr", code=2)
    assert set(unknown.rejects.values()) >= {"unknown_size"}
    assert unknown.rows == []
    sizes = tmp_path / "sizes.csv"
    write_csv(sizes, "image_id,width,height", [[n, 200, 240] for n in ("0a1b", "1c2d", "2e3f")])
    result = imported("vindr_cxr", "--sizes", str(sizes))
    assert result.info[0]["original_size"] == [200, 240]
    width, height = result.truths[1]["image_size"]
    expected = [round(v) for v in (20 / 200 * width, 20 / 240 * height)]
    assert result.truths[1]["regions"][0]["box"][:2] == expected


def test_vindrs_copies_say_the_originals_size_only_if_made_of_dicom_files(
    imported: Import, tmp_path: Path
) -> None:
    imported("vindr_cxr")
    images, originals = tmp_path / "sets/vindr_cxr-images", tmp_path / "originals"
    images.rename(originals)

    def copied() -> Imported:
        options = ["--long-side", "64", "--workers", "1"]
        images_main([f"--images={originals}", f"--out={images}", *options])
        return imported("vindr_cxr", code=0 if (originals / "test/0a1b.dicom").exists() else 2)

    assert copied().info[0]["original_size"] == [200, 240]
    shutil.rmtree(images)
    for path in (originals / "test").glob("*.dicom"):
        path.unlink()
        draw(path.with_suffix(".png"), (100, 120))  # someone's smaller copy
    assert "unknown_size" in copied().rejects.values()


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


@pytest.mark.parametrize("column", ["rad_id", "rad_ID", "class_id"])
def test_vindrs_training_part_is_refused(
    imported: Import, tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str
) -> None:
    imported("vindr_cxr")
    path = tmp_path / "sets/vindr_cxr/annotations/annotations_test.csv"
    write_csv(path, f"{VINDR_BOXES},{column}", [["0a1b", "Mass", 1, 2, 30, 40, "R1"]])
    capsys.readouterr()
    imported("vindr_cxr", code=2)
    assert f"has the column {column}, so it is the training part" in capsys.readouterr().err


def test_padchest_gr(plain: Import) -> None:
    result = plain("padchest_gr")
    assert result.asked() == [
        ("Where is: Left effusion?", "Left effusion"),
        ("¿Dónde está: Derrame izquierdo?", "Derrame izquierdo"),
        ("Where is: Apical scars?", "Apical scars"),
        ("¿Dónde está: Cicatrices apicales?", "Cicatrices apicales"),
        ("Is there pleural effusion?", "Yes"),
        ("Is there scar?", "Yes"),
        ("Is there pneumothorax?", "No"),
    ]
    assert result.audit["sets"] == {"padchest_gr": 5, "padchest_gr:es": 2}
    # Fractions of the picture, of 200 by 240 pixels.
    assert result.info[0]["original_boxes"] == [pytest.approx([110, 144, 180, 216])]
    assert result.info[0]["second_reader"] == [pytest.approx([100, 144, 180, 216])]
    # An id of more than 64 bits is not rounded.
    assert result.info[0]["patient"] == "padchest_gr:839860488694292331637988235681460987"
    assert result.audit["left_out"] == {
        "other_split": 1,
        "repeat": 1,
        "no_label": 2,
        "no_box": 1,
        "stated_elsewhere": 1,
    }
    file = "grounded_reports_20240819.json"
    assert result.rejects == {
        (file, 7): "box_outside",
        (file, 8): "bad_box",
        (file, 9): "unknown_form",
        (file, 12): "no_split",
    }
    # 16 bits are windowed, not cut off at 255.
    values = np.asarray(Image.open(result.rows[0]["images"][0]["image"]))
    assert 100 < values.mean() < 155


def test_rexvqa(plain: Import) -> None:
    result = plain("rexvqa")
    listed = "[A: None, B: Pneumothorax, C: Effusion, large, D: Mass]"
    question = f"What does the image show? <choices>: {listed}"
    assert result.asked() == [(question, "B"), (question, "B"), (question, "D")]
    assert result.truths[1]["choices"]["C"] == "Effusion, large"
    # The first frontal picture, not the first one.
    assert [info["image_path"] for info in result.info] == [
        "deid_png/P1/s/0.png",
        "deid_png/P1/s/1.png",
        "deid_png/P3/s/0.png",
    ]
    assert result.audit["left_out"] == {"no_frontal": 1}
    assert list(result.rejects.values()) == ["answer_not_in_choices", "no_question", "unknown_form"]
    # The report would give the answer away.
    assert "There is a pneumothorax" not in json.dumps(result.rows)


def test_vqa_rad(plain: Import) -> None:
    result = plain("vqa_rad")
    assert [
        (*q, t["question_type"]) for q, t in zip(result.asked(), result.truths, strict=True)
    ] == [
        ("Is there an effusion?", "No", "closed"),
        ("Is the lesion on the left or right? <choices>: [A: left, B: right]", "B", "single"),
        ("Which side is larger?", "left", "open"),
        ("How many ribs are broken?", "3", "open"),
        ("What is abnormal?", "Air under the diaphragm", "open"),
    ]
    assert [info["answer_type"] for info in result.info] == ["CLOSED"] * 3 + ["OPEN"] * 2
    assert result.audit["left_out"] == {"other_split": 1, "not_chest": 1}
    assert list(result.rejects.values()) == [
        "missing_image",
        "no_answer",
        "unknown_question_type",
    ]


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
    ("question", "answer", "expected"),
    [
        ("Is it on the left or right side?", "Left", ("left", "right")),
        ("Is this a PA or AP film?", "AP", ("pa", "ap")),
        ("Which is bigger, left lung or right lung?", "right lung", ("left lung", "right lung")),
        ("Is it in the left or the right lung?", "the right lung", None),
        ("Is it wet or dry?", "Neither", None),
        ("Which side?", "left", None),
    ],
)
def test_the_alternatives_of_a_question(
    question: str, answer: str, expected: tuple[str, str] | None
) -> None:
    assert alternatives(question, answer) == expected


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change the content of a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_four_numbers_in_a_published_text_are_no_box(imported: Import, tmp_path: Path) -> None:
    imported("padchest_gr")
    report = tmp_path / "sets/padchest_gr/grounded_reports_20240819.json"
    sentence = "Fractures of ribs (5, 6, 7, 8)"
    edit(report, lambda studies: studies[0]["findings"][0].update(sentence_en=sentence))
    assert imported("padchest_gr").asked()[0] == (f"Where is: {sentence}?", sentence)

    imported("vqa_rad")
    rows = tmp_path / "sets/vqa_rad/VQA_RAD Dataset Public.json"
    texts = {"question": "What is at (10, 20, 90, 100)?", "answer": "ribs [10, 20, 90, 100]"}
    edit(rows, lambda content: content[4].update(texts))
    assert imported("vqa_rad").asked()[-1] == tuple(texts.values())


def test_options_go_by_their_own_letters(imported: Import, tmp_path: Path) -> None:
    imported("rexvqa")
    path = tmp_path / "sets/rexvqa/metadata/test_vqa_data.json"
    for options in (
        ["B. Mass", "A. None"],
        {"B": "Mass", "A": "None"},
        "{'B': 'Mass', 'A': 'None'}",
    ):
        edit(path, lambda rows, options=options: rows["q1"].update(options=options))
        question = "What does the image show? <choices>: [A: None, B: Mass]"
        assert imported("rexvqa").asked()[0] == (question, "B")


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


def test_labels_of_an_image_that_are_repeated_are_asked_once(
    imported: Import, tmp_path: Path
) -> None:
    before = imported("vindr_cxr").asked()
    path = tmp_path / "sets/vindr_cxr/annotations/image_labels_test.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    result = imported("vindr_cxr")
    assert result.asked() == before
    assert result.audit["left_out"]["repeat"] == 3


def test_a_study_without_a_list_of_findings_is_noted(imported: Import, tmp_path: Path) -> None:
    imported("padchest_gr")
    path = tmp_path / "sets/padchest_gr/grounded_reports_20240819.json"
    edit(path, lambda studies: studies[2].update(findings=None))
    edit(path, lambda studies: studies[0]["findings"][0].update(boxes=[[10**400, 0, 1, 1]]))
    result = imported("padchest_gr")
    assert f"1 studies of {path.name} have no findings" in result.audit["doubts"]
    assert result.rejects[path.name, 0] == "bad_box"


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


def test_a_text_that_is_no_utf8_rejects_its_row(imported: Import, tmp_path: Path) -> None:
    imported("vqa_rad")
    path = tmp_path / "sets/vqa_rad/VQA_RAD Dataset Public.json"
    edit(path, lambda rows: rows[4].update(answer="half a pair: \ud800"))
    result = imported("vqa_rad")
    assert result.rejects[path.name, 4] == "bad_text"
    assert result.audit["rows"]["conserved"]


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


def test_a_box_in_a_text_of_gemex_is_mapped_or_rejects_its_row(
    imported: Import, tmp_path: Path
) -> None:
    imported("gemex")
    file = tmp_path / "sets/gemex/open_ended_question.jsonl"
    edit(file, lambda row: row.update(question="What is in [120, 30, 190, 190]?"))
    (result,) = (asked for asked in imported("gemex").asked() if asked[0].startswith("What is in"))
    assert "[120, 30, 190, 190]" not in result[0]
    edit(file, lambda row: row.update(question="What is in [120, 30, 900, 190]?"))
    assert imported("gemex").rejects[file.name, 0] == "box_outside"


def test_slake(plain: Import) -> None:
    result = plain("slake")
    choices = "<choices>: [A: left lung, B: right lung]"
    assert result.asked() == [
        ("Is the heart enlarged?", "Yes"),
        (f"Which is bigger, left lung or right lung? {choices}", "B"),
        ("What organ is this?", "Lung"),
    ]
    assert result.audit["left_out"] == {"not_chest": 2, "other_language": 1}
    assert list(result.rejects.values()) == ["missing_image"]
    assert result.info[2]["patient"] == "slake:xmlab2"


def test_gemex(plain: Import, imported: Import) -> None:
    result = plain("gemex")
    assert [(t["question_type"], t["answer"]) for t in result.truths] == [
        ("closed", "Yes"),
        ("open", "A left effusion."),
        ("single", "B"),
        ("multi", ["A", "C"]),
    ]
    # 120 x 160 pixels, padded into 224: 168 wide between bands of 28.
    expected = [(120 - 28) / 168 * 120, 30 / 224 * 160, (190 - 28) / 168 * 120, 190 / 224 * 160]
    assert result.info[0]["original_boxes"][0] == pytest.approx(expected)
    stretched = imported("gemex", "--fit", "stretch")
    assert stretched.info[0]["original_boxes"][0][0] == pytest.approx(120 / 224 * 120)
    assert list(result.rejects.values()) == ["no_response", "degenerate_box"]
    assert {info["scored"] for info in result.info} == {"both"}


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


def test_training_files_are_not_overwritten(
    tmp_path: Path, training: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = write("slake", tmp_path / "sets")
    assert main([*options, "--out", str(training)]) == 2
    assert "holds training files" in capsys.readouterr().err
    assert main([*options, "--exclude-list", "x", "--out", str(tmp_path / "out")]) == 2
    assert "slake has no images of MIMIC-CXR" in capsys.readouterr().err


def test_a_row_without_a_fate_is_a_fault_of_the_program() -> None:
    reading = Reading()
    reading.register("a.csv", 0, {})
    with pytest.raises(RuntimeError, match="1 rows are not accounted for"):
        account(reading, set())


def test_a_smaller_copy_of_mimic_keeps_the_stated_size(imported: Import, tmp_path: Path) -> None:
    """Boxes refer to the original; copies by data_prep.images know its size."""
    from data_prep.images import main as copy

    imported("ms_cxr")
    images = tmp_path / "sets/ms_cxr-images"
    small = tmp_path / "small"
    options = ["--images", str(images), "--out", str(small), "--long-side", "80", "--workers", "1"]
    assert copy(options) == 0
    result = imported("ms_cxr", "--images", str(small))
    assert result.info[0]["original_size"] == list(SIZE)
    with Image.open(small / mimic(1, "aa")) as picture:
        assert max(picture.size) == 80


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
