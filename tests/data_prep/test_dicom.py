"""DICOM files: window, inversion, orientation, compression, and boxes of turned pictures."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
from external_sets import write_dicom
from PIL import Image

from data_prep.coordinates import Frame
from data_prep.dicom import dicom_size, is_dicom, read_dicom, turn_unit
from data_prep.images import main as images_main
from data_prep.pictures import read_picture
from data_prep.thinkvg import main as thinkvg_main

RAMP = np.linspace(0, 4095, 60 * 40).reshape(60, 40).astype(np.uint16)
"""Twelve bits from black to white, 40 wide and 60 high."""


def grey(path: Path) -> np.ndarray:
    return np.asarray(read_picture(path)).astype(int)


def test_values_without_a_window_go_by_percentiles(tmp_path: Path) -> None:
    picture = read_picture(write_dicom(tmp_path / "a.dcm", RAMP, BitsStored=12))
    assert picture.mode == "L"
    assert picture.size == (40, 60)
    values = np.asarray(picture).astype(float)
    assert values.min() == 0
    assert values.max() == 255
    assert np.abs(values - np.linspace(-1.3, 256.3, 2400).reshape(60, 40).clip(0, 255)).max() < 1


def test_the_window_of_the_file(tmp_path: Path) -> None:
    """Linear, PS3.3 C.11.2.1.2.1: below 1000 black, above 2000 white."""
    path = write_dicom(
        tmp_path / "a.dcm", RAMP, BitsStored=12, WindowCenter=[1500.5, 9], WindowWidth=[1001, 9]
    )
    expected = ((RAMP - 1000.0) / 1000).clip(0, 1) * 255
    assert np.abs(grey(path) - expected).max() <= 0.51


def test_the_window_follows_the_slope(tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "a.dcm",
        RAMP,
        BitsStored=12,
        RescaleSlope=2,
        RescaleIntercept=-1000,
        WindowCenter=2000,
        WindowWidth=2000,
        VOILUTFunction="LINEAR_EXACT",
    )
    expected = ((2.0 * RAMP - 1000 - 1000) / 2000).clip(0, 1) * 255
    assert np.abs(grey(path) - expected).max() <= 0.51


def test_a_sigmoid_window(tmp_path: Path) -> None:
    window = {"WindowCenter": 2048, "WindowWidth": 1000, "VOILUTFunction": "SIGMOID"}
    path = write_dicom(tmp_path / "a.dcm", RAMP, BitsStored=12, **window)
    expected = 255 / (1 + np.exp(-4 * (RAMP - 2048.0) / 1000))
    assert np.abs(grey(path) - expected).max() <= 0.51


def test_a_table_of_the_file(tmp_path: Path) -> None:
    table = pydicom.Dataset()
    table.LUTDescriptor = [4096, 0, 10]
    table.LUTData = np.minimum(1023, np.arange(4096) // 2).astype(np.uint16).tobytes()
    table["LUTData"].VR = "OW"
    path = write_dicom(tmp_path / "a.dcm", RAMP, BitsStored=12, VOILUTSequence=[table])
    expected = np.minimum(1023, RAMP // 2) / 1023 * 255
    assert np.abs(grey(path) - expected).max() <= 0.51


@pytest.mark.parametrize(
    "window",
    [
        {"WindowCenter": 60000, "WindowWidth": 10},  # beside all values: a black picture
        {"WindowCenter": 100, "WindowWidth": 0},
        {"WindowCenter": None, "WindowWidth": None},
    ],
)
def test_a_useless_window_is_ignored(tmp_path: Path, window: dict[str, Any]) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, BitsStored=12, **window)
    assert (grey(path) == grey(write_dicom(tmp_path / "b.dcm", RAMP, BitsStored=12))).all()


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    plain = grey(write_dicom(tmp_path / "a.dcm", RAMP, BitsStored=12))
    inverted = write_dicom(
        tmp_path / "b.dcm", RAMP, BitsStored=12, PhotometricInterpretation="MONOCHROME1"
    )
    assert (grey(inverted) == 255 - plain).all()


def test_padding_is_black_and_no_part_of_the_window(tmp_path: Path) -> None:
    stored = np.full((60, 80), 65535, np.uint16)
    stored[:, 20:60] = RAMP
    padded = write_dicom(
        tmp_path / "a.dcm",
        stored,
        PixelPaddingValue=65535,
        PhotometricInterpretation="MONOCHROME1",
    )
    values = grey(padded)
    assert (values[:, :20] == 0).all()
    assert (values[:, 60:] == 0).all()
    plain = grey(write_dicom(tmp_path / "b.dcm", RAMP, PhotometricInterpretation="MONOCHROME1"))
    assert (values[:, 20:60] == plain).all()


def test_colour_and_8_bits(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (6, 4, 3)).astype(np.uint8)
    picture = read_picture(write_dicom(tmp_path / "a.dcm", colour))
    assert picture.mode == "RGB"
    assert (np.asarray(picture) == colour).all()


# A picture with a mark at its upper left, as the patient's right shoulder is in an upright view.
UPRIGHT = np.zeros((60, 40), np.uint8)
UPRIGHT[5:15, 4:12] = 200
STORED = {
    ("L", "F"): UPRIGHT,
    ("R", "F"): np.fliplr(UPRIGHT),
    ("L", "H"): np.flipud(UPRIGHT),
    ("R", "H"): np.rot90(UPRIGHT, 2),
    ("F", "L"): UPRIGHT.T,
    ("H", "L"): np.rot90(UPRIGHT, -1),
    ("F", "R"): np.rot90(UPRIGHT),
    ("H", "R"): np.rot90(UPRIGHT, 2).T,
    ("A", "F"): UPRIGHT,  # a side view is not mirrored
    ("P", "F"): UPRIGHT,
}


@pytest.mark.parametrize("orientation", list(STORED))
def test_pictures_are_turned_upright_and_boxes_with_them(
    tmp_path: Path, orientation: tuple[str, str]
) -> None:
    stored = np.ascontiguousarray(STORED[orientation])
    path = write_dicom(tmp_path / "a.dcm", stored, PatientOrientation=list(orientation))
    picture, size, turned = read_dicom(path)
    assert size == dicom_size(path) == stored.shape[::-1]
    assert (np.asarray(picture) > 0).tolist() == (UPRIGHT > 0).tolist()
    rows, columns = np.nonzero(stored)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    unit = turn_unit(Frame(None).to_unit(box, size), turned)
    assert unit == pytest.approx((4 / 40, 5 / 60, 12 / 40, 15 / 60))


@pytest.mark.parametrize(
    "syntax", ["JPEGLosslessProcess14_1", "JPEG2000Lossless", "JPEGLSLossless", "RLELossless"]
)
def test_compressed_files(tmp_path: Path, syntax: str) -> None:
    plain = write_dicom(tmp_path / "a.dcm", RAMP, BitsStored=12)
    reader, change, writer = (
        gdcm.ImageReader(),
        gdcm.ImageChangeTransferSyntax(),
        gdcm.ImageWriter(),
    )
    reader.SetFileName(str(plain))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(tmp_path / "b.dcm"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    assert pydicom.dcmread(tmp_path / "b.dcm").file_meta.TransferSyntaxUID.is_compressed
    assert (grey(tmp_path / "b.dcm") == grey(plain)).all()


def test_files_without_a_suffix_or_a_preamble_and_streams(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "IM0001", RAMP, BitsStored=12)
    assert is_dicom(path)
    bare = tmp_path / "bare.dcm"
    dataset = pydicom.dcmread(path)
    dataset.file_meta, dataset.preamble = pydicom.dataset.FileMetaDataset(), None
    dataset.save_as(bare, implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert bare.read_bytes()[128:132] != b"DICM"
    stream = io.BytesIO(path.read_bytes())
    assert np.asarray(read_picture(stream)).tolist() == grey(path).tolist() == grey(bare).tolist()
    other = io.BytesIO()
    Image.new("RGBA", (4, 3)).save(other, "PNG")
    other.seek(0)
    assert read_picture(other).mode == "RGB"


@pytest.mark.parametrize(
    ("attributes", "fault"),
    [
        ({"NumberOfFrames": 2}, "2 frames"),
        ({"Rows": 0}, "no Rows and Columns"),
        ({"PixelData": b"\0\0"}, "do not decode|expected"),
    ],
)
def test_faulty_files_say_why(tmp_path: Path, attributes: dict[str, Any], fault: str) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, **attributes)
    with pytest.raises(ValueError, match=fault):
        read_picture(path)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\0" * 128 + b"DICM" + b"\1\2" * 90])
def test_no_picture_at_all(tmp_path: Path, content: bytes) -> None:
    for name in ("a.dcm", "a.png"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"\S"):
            read_picture(tmp_path / name)


def test_a_set_of_which_one_has_only_dicom(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    """Rows name .jpg, the folder has .dcm: copies are made, and boxes land where they belong."""
    dataset = make_dataset({"response": "<answer>Yes</answer><location><ref>a</ref>"
                            "<box>[10, 20, 30, 40]</box></location>", "thinkVG": ""})  # fmt: skip
    picture = dataset / "files/p10/p10000001/s50000001/a.jpg"
    picture.unlink()
    stored = np.random.default_rng(0).integers(0, 4096, (400, 200)).astype(np.uint16)
    write_dicom(picture.with_suffix(".dcm"), stored, BitsStored=12, PatientOrientation=["R", "F"])
    source, images = ["--source", str(dataset)], str(dataset / "files")
    out = ["--out", str(tmp_path / "out"), "--frame", "original"]
    assert thinkvg_main([*source, "--images", images, *out]) == 2  # nothing is usable as it is
    small = str(tmp_path / "small")
    copies = ["--images", images, "--out", small, "--long-side", "112", "--workers", "1"]
    assert images_main([*source, *copies]) == 0
    entry = json.loads((tmp_path / "small/manifest.jsonl").read_text())
    assert entry["turned"] == "FLIP_LEFT_RIGHT"
    assert (entry["size"], entry["original_size"]) == ([56, 112], [200, 400])
    assert thinkvg_main([*source, "--images", small, *out]) == 0
    (row,) = pq.read_table(tmp_path / "out/train.parquet").to_pylist()
    truth = json.loads(row["reward_model"]["ground_truth"])
    width, height = truth["image_size"]
    expected = [170 / 200 * width, 20 / 400 * height, 190 / 200 * width, 40 / 400 * height]
    assert truth["regions"][0]["box"] == [round(side) for side in expected]


@pytest.mark.parametrize(
    ("tag", "kind", "value"),
    [
        ("Rows", "US", [60, 60]),
        ("NumberOfFrames", "IS", ["1", "1"]),
        ("PixelPaddingValue", "US", [0, 1]),
        ("RescaleIntercept", "LO", "none"),
    ],
)
def test_a_damaged_attribute_is_a_fault_of_the_picture(
    tmp_path: Path, tag: str, kind: str, value: Any
) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, BitsStored=12, RescaleSlope=2)
    dataset = pydicom.dcmread(path)
    if tag in dataset:
        del dataset[tag]
    dataset.add_new(tag, kind, value)
    dataset.save_as(path)
    with pytest.raises(ValueError, match="do not decode"):
        read_picture(path)


@pytest.mark.parametrize("name", ["header.dcm", "value.dcm", "deflated.dcm"])
def test_damaged_bytes_are_a_fault_of_the_picture(tmp_path: Path, name: str) -> None:
    path = write_dicom(tmp_path / name, RAMP, BitsStored=12)
    content = path.read_bytes()
    rows = content.index(b"\x28\x00\x10\x00US")
    syntax = content.index(b"1.2.840.10008.1.2.1\0")
    damaged = {
        "header.dcm": content[: rows + 4] + b"\x55\x00" + content[rows + 6 :],  # unknown kind
        "value.dcm": content[: rows + 6] + b"\x01\x00\x3c" + content[rows + 10 :],  # half a value
        "deflated.dcm": content[: syntax - 2]
        + b"\x16\x001.2.840.10008.1.2.1.99"
        + content[syntax + 20 :],
    }
    path.write_bytes(damaged[name])
    with pytest.raises(ValueError, match=r"do not decode|not a readable DICOM"):
        read_picture(path)


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, IndexError, TypeError])
def test_what_a_decoder_raises_is_a_fault_of_the_picture(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def decode(*_: object) -> None:
        raise error("no such frame")

    monkeypatch.setattr(Image.Image, "copy", decode)
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(stream, "PNG")
    with pytest.raises(ValueError, match="no such frame"):
        read_picture(io.BytesIO(stream.getvalue()))
