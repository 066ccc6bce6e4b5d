"""Small files in the published shape of each external set, with the pitfalls of the real ones.

Rows and pictures are invented. `write(NAME, folder)` returns the options of
`python -m data_prep.external` that read them.
"""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pydicom
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from data_prep.external.__main__ import main

SIZE = (120, 160)
"""Width and height of MIMIC's pictures here."""
PIXELS = ["--min-pixels", "12544", "--max-pixels", "15680", "--workers", "1"]

Import = Callable[..., "Imported"]


def write(name: str, folder: Path) -> list[str]:
    """Write a set; return the options --set, --source and --images."""
    source, images = folder / name, folder / f"{name}-images"
    source.mkdir(parents=True)
    images.mkdir()
    WRITERS[name](source, images)
    return ["--set", name, "--source", str(source), "--images", str(images)]


def write_dicom(path: Path, stored: np.ndarray, **attributes: Any) -> Path:
    """Write values (height, width[, 3]) as a DICOM file; `attributes` go into its header."""
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = generate_uid()
    dataset.Rows, dataset.Columns = stored.shape[:2]
    dataset.SamplesPerPixel = 3 if stored.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if stored.ndim == 3 else "MONOCHROME2"
    if stored.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8 * stored.dtype.itemsize
    dataset.BitsStored = attributes.pop("BitsStored", dataset.BitsAllocated)
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OB" if stored.dtype.itemsize == 1 else "OW"
    for name, value in attributes.items():
        setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_csv(path: Path, columns: str, rows: Sequence[Sequence[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns.split(","), *rows])


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def draw(path: Path, size: tuple[int, int] = SIZE, bits: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(path.name)).integers(0, 2**bits, size[::-1])
    Image.fromarray(values.astype(np.uint16 if bits > 8 else np.uint8)).save(path)


def mimic(patient: int, dicom: str) -> str:
    name = f"p{10_000_000 + patient}"
    return f"files/p10/{name}/s{50_000_000 + patient}/{dicom}.jpg"


def draw_mimic(images: Path, *paths: str) -> None:
    for path in paths:
        draw(images / path)


MS_CXR_COLUMNS = "dicom_id,category_name,label_text,path,x,y,w,h,image_width,image_height,split"


def ms_cxr_rows() -> list[list[Any]]:
    """Rows of the CSV; patient 2 is the one that is shared with the training data."""

    def row(patient: int, dicom: str, phrase: str, box: Sequence[Any], **more: Any) -> list[Any]:
        width, height = more.get("size", SIZE)
        path, split = more.get("path", mimic(patient, dicom)), more.get("split", "test")
        return [dicom, "Pneumothorax", phrase, path, *box, width, height, split]

    return [
        row(1, "aa", "left apical pneumothorax", [60, 20, 30, 40]),
        row(1, "aa", "left apical pneumothorax", [10, 100, 20, 30]),  # a second box of the phrase
        row(1, "aa", "left apical pneumothorax", [60, 20, 30, 40]),  # a box that is repeated
        row(2, "bb", "right pneumothorax", [5, 5, 50, 60]),
        row(3, "cc", "small pneumothorax", [0, 0, 30, 30], split="train"),
        row(4, "dd", "a pneumothorax", [10, 10, 30, 30], size=(2544, 3056)),  # another size
        row(5, "ee", "a pneumothorax", [10, 10, 30, 30]),  # its picture is missing
        row(6, "ff", "apical pneumothorax", [10, 10, 30, 0]),  # no area
        row(6, "ff", "apical pneumothorax", [20, 20, 30, 40]),
        row(6, "ff", "basal pneumothorax", [-40, 10, 60, 30]),  # outside
        row(6, "ff", "lateral pneumothorax", ["", 10, 60, 30]),
        row(7, "gg", "hidden pneumothorax", [10, 10, 60, 30], path="gg.jpg"),
        row(8, "hh", "left pneumothorax.", [70, 30, 40, 50]),
    ]


def _ms_cxr(source: Path, images: Path) -> None:
    write_csv(source / "MS_CXR_Local_Alignment_v1.1.0.csv", MS_CXR_COLUMNS, ms_cxr_rows())
    paths = [mimic(1, "aa"), mimic(2, "bb"), mimic(3, "cc"), mimic(4, "dd"), mimic(6, "ff")]
    draw_mimic(images, *paths, mimic(8, "hh"))


def write_ms_cxr_json(path: Path) -> None:
    """COCO's form: a picture has two entries, and there is no split."""
    width, height = SIZE
    image = {"file_name": "aa.jpg", "path": mimic(1, "aa"), "width": width, "height": height}
    text, category = "left apical pneumothorax", 1
    boxes = {1: [60, 20, 30, 40], 2: [10, 100, 20, 30], 9: [1, 1, 5, 5]}
    annotations = [
        {"id": i, "image_id": i, "category_id": category, "bbox": box, "label_text": text}
        for i, box in boxes.items()
    ]
    content = {
        "images": [{"id": 1, **image}, {"id": 2, **image}],
        "annotations": annotations,  # the last one is of no picture
        "categories": [{"id": 1, "name": "Pneumothorax"}],
    }
    write_json(path, content)


GOLD_COLUMNS = (
    "image_id,x1,y1,x2,y2,width,height,bbox_name,annot_id,original_x1,original_x2,original_y1,"
    "original_y2,original_width,original_height,annotator,coord224,coord_original"
)


def _imagenome(source: Path, images: Path) -> None:
    def row(dicom: str, name: str, x1: int, y1: int, x2: int, y2: int) -> list[Any]:
        # The original's corners are in the order x1, x2, y1, y2.
        frame = [1, 2, 3, 4, 224, 224]
        return [f"{dicom}.dcm", *frame, name, 0, x1, x2, y1, y2, *SIZE, "A", "", ""]

    rows = [
        row("ia", "left lung", 60, 10, 110, 120),
        row("ia", "right lung", 8, 12, 55, 118),
        row("ia", "cardiac silhouette", 30, 60, 30, 110),  # no width
        row("ib", "left lung", 62, 14, 108, 124),
        row("ib", "spine", -20, 10, 50, 150),
        row("zz", "left lung", 60, 10, 110, 120),  # not in the table of patients
    ]
    gold = "gold_dataset/gold_bbox_coordinate_annotations_1000images.csv"
    write_csv(source / gold, GOLD_COLUMNS, rows)
    avoid = [["10000011", "50000011", "ia", "", "AP"], ["10000012", "50000012", "ib", "", "PA"]]
    columns = "subject_id,study_id,dicom_id,path,ViewPosition"
    write_csv(source / "silver_dataset/splits/images_to_avoid.csv", columns, avoid)
    draw_mimic(images, mimic(11, "ia"), mimic(12, "ib"))


VINDR_BOXES = "image_id,class_name,x_min,y_min,x_max,y_max"


def _vindr_cxr(source: Path, images: Path) -> None:
    a, b, c = "0a1b", "1c2d", "2e3f"
    rows = [
        [a, "Cardiomegaly", 69.1, 137.5, 165.4, 183.1],
        [a, "Nodule/Mass", 20, 20, 60, 60],
        [a, "Nodule/Mass", 150, 40, 180, 90],
        [a, "ILD", 90, 40, 80, 90],  # x_min above x_max
        [b, "No finding", "", "", "", ""],
        [c, "Other disease", 10, 10, 50, 50],
        [c, "Pleural effusion", 10, 150, 240, 199],  # beyond the right side of 200 pixels
        [c, "Pneumothorax", "nan", 1, 2, 3],
    ]
    write_csv(source / "annotations/annotations_test.csv", VINDR_BOXES, rows)
    labels = [[a, 1, 1, 0, 0], [b, 0, 0, 0, 1], [c, 0, "", 1, 0]]
    columns = "image_id,Cardiomegaly,Nodule/Mass,Other disease,No finding"
    write_csv(source / "annotations/image_labels_test.csv", columns, labels)
    for seed, name in enumerate((a, b, c)):
        values = np.random.default_rng(seed).integers(0, 4096, (240, 200)).astype(np.uint16)
        values[:60] = 0  # white at the top, where the file is MONOCHROME1
        photometric = "MONOCHROME1" if name == a else "MONOCHROME2"
        write_dicom(
            images / f"test/{name}.dicom",
            values,
            BitsStored=12,
            PhotometricInterpretation=photometric,
        )


PADCHEST_ID = "216840111366964013402131755672012262075433262_02-053-153"


def _padchest_gr(source: Path, images: Path) -> None:
    def finding(en: str, es: str, abnormal: Any, labels: list[str], **more: Any) -> dict[str, Any]:
        return {
            "sentence_en": en,
            "sentence_es": es,
            "abnormal": abnormal,
            "labels": labels,
            "locations": [],
            "progression": None,
            **more,
        }

    one = [[0.55, 0.6, 0.9, 0.9]]
    two = [[0.1, 0.1, 0.4, 0.3], [0.6, 0.1, 0.9, 0.3]]
    first = [
        finding("Left effusion.", "Derrame izquierdo.", True, ["pleural effusion"], boxes=one,
                extra_boxes=[[0.5, 0.6, 0.9, 0.9]]),
        finding("Apical scars.", "Cicatrices apicales.", True, ["scar"], boxes=two, extra_boxes=[]),
        finding("No right effusion.", "Sin derrame.", False, ["pleural effusion"]),  # see above
        finding("No pneumothorax.", "Sin neumotórax.", False, ["pneumothorax"]),
        finding("No pneumothorax seen.", "Sin neumotórax.", False, ["pneumothorax"]),  # again
        finding("Normal heart.", "Corazón normal.", False, []),  # no label, no boxes
        finding("Old fracture.", "Fractura antigua.", True, [], boxes=[]),  # nothing to ask
        finding("A nodule.", "Un nódulo.", True, ["nodule"], boxes=[[0.2, 0.2, 1.3, 0.4]]),
        finding("Broken.", "Roto.", True, ["mass"], boxes=[[0.2, 0.2, 0.4]]),
        finding("Odd.", "Raro.", "yes", ["mass"]),
    ]  # fmt: skip
    second = [finding("Nothing.", "Nada.", False, ["normal"])]
    train = [finding("A mass.", "Una masa.", True, ["mass"], boxes=one)]
    content = [
        {"StudyID": f"{number}{PADCHEST_ID[:40]}", "ImageID": f"{image}.png", "findings": findings}
        | {"PreviousStudyID": None, "PreviousImageID": None}
        for number, (image, findings) in enumerate(
            [(PADCHEST_ID, first), ("p2", second), ("p3", train), ("unlisted", second)]
        )
    ]
    write_json(source / "grounded_reports_20240819.json", content)
    rows = [
        ["1", f"{PADCHEST_ID}.png", label, "test", 839860488694292331637988235681460987]
        for label in ("pleural effusion", "scar")  # a row for each label
    ]
    rows += [["2", "p2.png", "normal", "test", 2], ["3", "p3.png", "mass", "train", 3]]
    write_csv(source / "master_table.csv", "StudyID,ImageID,label,split,PatientID", rows)
    for name in (PADCHEST_ID, "p2", "p3"):
        draw(images / f"{name}.png", (200, 240), bits=16)


def _rexvqa(source: Path, images: Path) -> None:
    def row(patient: str, options: Any, answer: str, views: Any, **more: Any) -> dict[str, Any]:
        paths = [f"../deid_png/{patient}/s/{n}.png" for n in range(len(list(views)))]
        return {
            "question": "What does the image show?",
            "options": options,
            "correct_answer": answer,
            "task_name": "presence assessment",
            "category": "Pleura",
            "ImagePath": paths,
            "ImageViewPosition": views,
            "PatientID": patient,
            "Findings": "There is a pneumothorax.",
            "Impression": "Pneumothorax.",
            **more,
        }

    options = ["A. None", "B. Pneumothorax", "C. Effusion, large", "D. Mass"]
    content = {
        "q1": row("P1", options, "B", ["PA"]),
        "q2": row("P1", str(options), "B. Pneumothorax", ["LATERAL", "AP"]),
        "q3": row("P2", options, "A", ["LATERAL"]),
        "q4": row("P2", options, "E", ["PA"]),
        "q5": row("P2", options, "D", ["PA"], question=""),
        "q6": {key: value for key, value in row("P2", options, "D", ["PA"]).items()
               if key != "options"},
        "q7": row("P3", json.dumps(options), "D", ["PA"],
                  ImagePath="['../deid_png/P3/s/0.png']", ImageViewPosition="['PA']"),
    }  # fmt: skip
    write_json(source / "metadata/test_vqa_data.json", content)
    for path in ("P1/s/0", "P1/s/1", "P2/s/0", "P3/s/0"):
        draw(images / f"deid_png/{path}.png", (150, 150), bits=16)


def vqa_rad_rows() -> list[dict[str, Any]]:
    def row(image: str, question: str, answer: Any, kind: str, **more: Any) -> dict[str, Any]:
        phrase = {"image_organ": "CHEST", "phrase_type": "test_freeform"}
        return {"image_name": image, "question": question, "answer": answer, "answer_type": kind,
                **phrase, **more}  # fmt: skip

    return [
        row("synpic1.jpg", "Is there an effusion?", "No", "CLOSED "),
        row("synpic1.jpg", "Is the lesion on the left or right?", "Right", "CLOSED"),
        row("synpic1.jpg", "Which side is larger?", "left", "CLOSED"),  # names no alternatives
        row("synpic2.jpg", "How many ribs are broken?", 3, "OPEN"),
        row("synpic2.jpg", "What is abnormal?", "Air under the diaphragm", "OPEN"),
        row("synpic2.jpg", "Is there an effusion?", "Yes", "CLOSED", phrase_type="freeform"),
        row("synpic3.jpg", "Is there a mass?", "Yes", "CLOSED", image_organ="HEAD"),
        row("synpic4.jpg", "Is there a mass?", "yes", "CLOSED"),  # its picture is missing
        row("synpic2.jpg", "Is there a mass?", "", "CLOSED"),
        row("synpic2.jpg", "Is there a mass?", "no", "MAYBE"),
    ]


def _vqa_rad(source: Path, images: Path) -> None:
    write_json(source / "VQA_RAD Dataset Public.json", vqa_rad_rows())
    for name in ("synpic1.jpg", "synpic2.jpg", "synpic3.jpg"):
        draw(images / "VQA_RAD Image Folder" / name)


def _slake(source: Path, images: Path) -> None:
    def row(folder: str, question: str, answer: str, kind: str, **more: Any) -> dict[str, Any]:
        where = {"q_lang": "en", "location": "Lung", "modality": "X-Ray", "content_type": "Organ"}
        return {"img_name": f"{folder}/source.jpg", "question": question, "answer": answer,
                "answer_type": kind, **where, **more}  # fmt: skip

    rows = [
        row("xmlab1", "Is the heart enlarged?", "Yes", "CLOSED"),
        row("xmlab1", "Which is bigger, left lung or right lung?", "Right Lung", "CLOSED"),
        row("xmlab2", "What organ is this?", "Lung", "OPEN"),
        row("xmlab2", "这是什么?", "肺", "OPEN", q_lang="zh"),
        row("xmlab3", "Is it a CT?", "Yes", "CLOSED", modality="CT"),
        row("xmlab3", "Is there a mass?", "No", "CLOSED", location="Abdomen"),
        row("xmlab9", "Is there a mass?", "No", "CLOSED"),  # its picture is missing
    ]
    write_json(source / "test.json", rows)
    for folder in ("xmlab1", "xmlab2", "xmlab3"):
        draw(images / "imgs" / folder / "source.jpg")


def _gemex(source: Path, images: Path) -> None:
    def row(question: str, choices: Any, answer: Any, boxes: Any, **more: Any) -> dict[str, Any]:
        path = f"/{mimic(21, 'ga')}"
        return {"question": question, "choices": choices, "answer": answer, "reason": "It is so.",
                "visual_regions": ["left lung"] * len(boxes), "visual_locations": boxes,
                "image_path": path, "ori_report": "A report.", "q_id": 1, "row_id": 0,
                **more}  # fmt: skip

    box = [[120, 30, 190, 190]]
    files = {
        "closed_ended": [row("Is there an effusion?", [], "Yes.", box)],
        "open_ended": [row("What is seen?", [], "A left effusion.", box)],
        "single_choice": [row("Which is it?", ["A: mass", "B: effusion"], "B", box)],
        "multi_choice": [
            row("Which are there?", ["A: mass", "B: effusion", "C: edema"], ["A", "C"], box),
            row("Which are there?", ["A: mass", "B: effusion"], [], box),
            row("Which are there?", ["A: mass", "B: edema"], ["A"], [[120, 30, 120, 190]]),
        ],
    }
    for stem, rows in files.items():
        lines = "".join(json.dumps(line) + "\n" for line in rows)
        (source / f"{stem}_question.jsonl").write_text(lines)
    draw_mimic(images, mimic(21, "ga"))


WRITERS: dict[str, Callable[[Path, Path], None]] = {
    "ms_cxr": _ms_cxr,
    "vindr_cxr": _vindr_cxr,
    "padchest_gr": _padchest_gr,
    "rexvqa": _rexvqa,
    "vqa_rad": _vqa_rad,
    "slake": _slake,
    "imagenome": _imagenome,
    "gemex": _gemex,
}


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


def import_set(folder: Path, name: str, *options: str, code: int = 0) -> Imported:
    """Import a set of `folder`, which is written there first."""
    if not (folder / "sets" / name).exists():
        write(name, folder / "sets")
    paths = [f"--source={folder / 'sets' / name}", f"--images={folder / 'sets' / name}-images"]
    out = folder / "out" / name
    assert main(["--set", name, *paths, f"--out={out}", *PIXELS, *options]) == code
    return Imported(out)


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change the content of a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
