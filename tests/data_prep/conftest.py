from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from data_prep.thinkvg import main as thinkvg_main
from phantom.draw.__main__ import main as phantom_main


@pytest.fixture(scope="session")
def dirty_phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom set with faulty rows of every kind."""
    out = tmp_path_factory.mktemp("dirty")
    options = ["--out", str(out), "--images", "80", "--workers", "1", "--dirty", "0.2"]
    assert phantom_main(options) == 0
    return out


@pytest.fixture(scope="session")
def prepared(dirty_phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training files made from the dirty set, at 112 x 112 pixels."""
    out = tmp_path_factory.mktemp("prepared")
    options = ["--min-pixels", "12544", "--max-pixels", "15680", "--val", "0.1", "--test", "0.2"]
    assert thinkvg_main([*_paths(dirty_phantom, out), *options]) == 0
    return out


def _paths(dataset: Path, out: Path) -> list[str]:
    return ["--source", str(dataset), "--images", str(dataset / "files"), "--out", str(out)]


@pytest.fixture
def paths() -> Callable[[Path, Path], list[str]]:
    """The options that name a dataset and an output folder."""
    return _paths


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows, each with a default for what it leaves out, and one picture that they share."""

    def make(*rows: dict[str, Any], size: tuple[int, int] = (672, 336)) -> Path:
        default = {
            "image_path": "/p10/p10000001/s50000001/a.jpg",
            "question": "Is there an opacity?",
            "question_type": "closed_ended_questions",
            "thinkVG": "The left lung [84, 42, 168, 210] shows an opacity.",
            "response": "<answer>Yes</answer><location><ref>left lung</ref>"
            "<box>[84, 42, 168, 210]</box></location>",
        }
        (tmp_path / "set" / "data").mkdir(parents=True)
        picture = tmp_path / "set" / "files" / "p10" / "p10000001" / "s50000001" / "a.jpg"
        picture.parent.mkdir(parents=True)
        Image.new("L", size, 90).save(picture)
        table = pa.Table.from_pylist([{**default, **row} for row in rows])
        pq.write_table(table, tmp_path / "set" / "data" / "train.parquet")
        return tmp_path / "set"

    return make


@pytest.fixture(scope="session")
def write_dicom() -> Callable[..., Path]:
    """Writes stored values (height, width[, 3]) as a DICOM file; `attributes` go into its header."""

    def write(path: Path, stored: np.ndarray, **attributes: Any) -> Path:
        syntax = attributes.pop("syntax", ExplicitVRLittleEndian)
        dataset = pydicom.Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
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

    return write
