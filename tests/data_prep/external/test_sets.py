"""Each external set in its published shape: which rows are asked, rejected and left out."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from external_sets import (
    SIZE,
    VINDR_BOXES,
    WRITERS,
    Import,
    Imported,
    draw,
    edit,
    mimic,
    write_csv,
    write_ms_cxr_json,
)
from PIL import Image

from data_prep.external.answers import alternatives
from data_prep.external.importing import SETS
from data_prep.images import main as images_main
from data_prep.rows.prompts import load_templates
from recipe.evaluate.predictions import read_questions


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


def test_labels_of_an_image_that_are_repeated_are_asked_once(
    imported: Import, tmp_path: Path
) -> None:
    before = imported("vindr_cxr").asked()
    path = tmp_path / "sets/vindr_cxr/annotations/image_labels_test.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    result = imported("vindr_cxr")
    assert result.asked() == before
    assert result.audit["left_out"]["repeat"] == 3


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
