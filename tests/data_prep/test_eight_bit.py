"""Pictures of every mode, as verl's loader sees them and as copies, the page and the logs do."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageCms, ImageDraw

from data_prep.dicom import window
from data_prep.images import main as images_main
from data_prep.pictures import is_deep, to_gray_or_rgb, to_rgb8
from data_prep.thinkvg import main
from recipe.report.cases import data_uri
from recipe.train.metrics import Sample, draw
from reward.ground_truth import GroundTruth

PLACE = "p10/p10000001/s50000001"
SIZE = (96, 64)
RAMP = np.linspace(0, 1, SIZE[0] * SIZE[1]).reshape(SIZE[1], SIZE[0])


def ramp(top: float, kind: str) -> Image.Image:
    return Image.fromarray((RAMP * top).astype(kind))


def opened(picture: Image.Image, form: str, **options: object) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return Image.open(io.BytesIO(stream.getvalue()))


DEEP = {
    "PNG, 12 of 16 bits": (ramp(4095, "uint16"), "PNG"),
    "PNG, 16 bits": (ramp(65535, "uint16"), "PNG"),
    "PNG, 8 of 16 bits": (ramp(255, "uint16"), "PNG"),
    "TIFF, 16 bits": (ramp(4095, "uint16"), "TIFF"),
    "TIFF, 16 bits, big endian": (ramp(4095, ">u2"), "TIFF"),
    "TIFF, 32 bits": (ramp(4095, "int32"), "TIFF"),
    "TIFF, floating": (ramp(1, "float32"), "TIFF"),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_greyscale_uses_all_of_8_bits(name):
    picture = opened(*DEEP[name])
    assert is_deep(picture.mode)
    plain = to_gray_or_rgb(picture)
    assert (plain.mode, plain.size) == ("L", SIZE)
    gray = np.asarray(plain, dtype=float)
    # The window takes half a percent off at each end.
    expected = np.clip((RAMP - 0.005) / 0.99, 0, 1) * 255
    assert np.abs(gray - expected).max() <= 2
    assert np.asarray(to_rgb8(picture)).shape == (*reversed(SIZE), 3)


def test_without_it_the_loader_of_verl_sees_white():
    """Why such pictures are windowed: on a change of the loader this can go."""
    from verl.utils.dataset.vision_utils import process_image

    stream = io.BytesIO()
    ramp(4095, "uint16").save(stream, "PNG")
    seen = process_image({"bytes": stream.getvalue(), "min_pixels": 784, "max_pixels": 12544})
    assert (np.asarray(seen) == 255).mean() > 0.9


def test_a_burned_in_mark_does_not_darken_the_picture():
    values = (RAMP * 4000).astype("uint16")
    values.flat[:20] = 65535
    gray = np.asarray(to_gray_or_rgb(Image.fromarray(values)), dtype=float)
    assert np.median(gray) > 120


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7, 7, 7, 7], (7, 7)),
        ([0] * 999 + [9], (0, 9)),  # nearly all the same
        ([float("nan"), 1, 3, float("inf")], (1.01, 2.99)),
        ([float("nan")] * 3, (0, 1)),
        ([], (0, 1)),
        (list(range(101)), (0.5, 99.5)),
    ],
)
def test_the_window(values, expected):
    assert window(np.array(values, dtype=float)) == pytest.approx(expected)


def test_values_that_are_no_numbers_become_black_and_white():
    values = RAMP.astype("float32")
    values[0, :3] = (np.nan, np.inf, -np.inf)
    gray = np.asarray(to_gray_or_rgb(Image.fromarray(values)))
    assert gray[0, :3].tolist() == [0, 255, 0]
    constant = Image.fromarray(np.full((4, 4), 900, "uint16"))
    assert set(np.asarray(to_gray_or_rgb(constant)).flat) == {0}


def transparent() -> Image.Image:
    picture = Image.new("RGBA", SIZE, (200, 10, 10, 255))
    ImageDraw.Draw(picture).rectangle((0, 0, 40, 40), fill=(0, 0, 0, 0))
    return picture


def palette() -> Image.Image:
    picture = Image.new("P", SIZE, 1)
    picture.putpalette([0, 0, 0, 10, 200, 10])
    return picture


def turned() -> dict[str, object]:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    return {"exif": exif}


GREY = Image.fromarray((RAMP * 255).astype("uint8"))
OTHERS = {
    "L": (GREY, "PNG", {}),
    "RGB": (GREY.convert("RGB"), "PNG", {}),
    "1": (GREY.convert("1"), "PNG", {}),
    "LA": (GREY.convert("LA"), "PNG", {}),
    "RGBA": (transparent(), "PNG", {}),
    "P": (palette(), "PNG", {}),
    "P with transparency": (palette(), "PNG", {"transparency": 1}),
    "CMYK": (GREY.convert("RGB").convert("CMYK"), "JPEG", {}),
    "turned": (GREY, "JPEG", turned()),
    "LAB": (
        ImageCms.applyTransform(
            GREY.convert("RGB"),
            ImageCms.buildTransform(
                ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
            ),
        ),
        "TIFF",
        {},
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_pictures_are_what_verls_loader_makes_of_them(name):
    from qwen_vl_utils.vision_process import to_rgb

    picture, form, options = OTHERS[name]
    converted = to_rgb8(opened(picture, form, **options))
    assert not is_deep(opened(picture, form, **options).mode)
    expected = np.asarray(to_rgb(opened(picture, form, **options)))
    assert np.array_equal(np.asarray(converted), expected)


@pytest.fixture
def deep(make_dataset):
    """A set of one 8-bit picture and two of 16 bits, each with a question."""
    rows = [{"image_path": f"/{PLACE}/{name}"} for name in ("a.jpg", "b.png", "c.png")]
    dataset = make_dataset(*rows)
    values = np.linspace(0, 4095, 672 * 336).reshape(336, 672).astype("uint16")
    for name in ("b.png", "c.png"):
        Image.fromarray(values).save(dataset / "files" / PLACE / name)
    return dataset


def test_rows_with_deep_pictures_are_rejected_and_the_way_out_is_told(
    deep, paths, tmp_path, capsys
):
    out = tmp_path / "out"
    assert main([*paths(deep, out), "--embed-images"]) == 0
    audit = json.loads((out / "audit.json").read_text())
    assert audit["rejects"] == {"deep_image": 2}
    assert audit["images_deeper_than_8_bits"] == 2
    assert audit["rows"]["conserved"] is True
    error = capsys.readouterr().err
    assert "2 images have more than 8 bits a channel" in error
    assert f"python -m data_prep.images --images {deep / 'files'} --out COPIES" in error
    assert "2 images have more than 8 bits a channel" in (out / "audit.html").read_text()


def test_where_all_pictures_are_deep_the_run_ends_with_the_way_out(
    make_dataset, paths, tmp_path, capsys
):
    dataset = make_dataset({})
    (picture,) = (dataset / "files").rglob("*.jpg")
    ramp(4095, "uint16").save(picture, "PNG")
    assert main(paths(dataset, tmp_path / "out")) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "rejected as deep_image" in error
    assert "python -m data_prep.images" in error


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_copies_of_deep_pictures_are_used(deep, tmp_path, capsys, ending):
    copies, out = tmp_path / "copies", tmp_path / "out"
    command = ["--images", str(deep / "files"), "--out", str(copies), "--format", ending]
    assert images_main([*command, "--workers", "1", "--long-side", "672"]) == 0
    assert "2 pictures were windowed to 8 bits a channel" in capsys.readouterr().out
    lines = [json.loads(line) for line in (copies / "manifest.jsonl").read_text().splitlines()]
    assert [line.get("windowed", False) for line in lines] == [False, True, True]
    arguments = ["--source", str(deep), "--images", str(copies), "--out", str(out)]
    assert main(arguments) == 0
    rows = pq.read_table(out / "train.parquet").to_pylist()
    assert len(rows) == 3
    with Image.open(rows[1]["images"][0]["image"]) as picture:
        values = np.asarray(picture, dtype=float)
    assert picture.mode == "L"
    # Evenly from black to white, where Pillow's own conversion would have left white.
    assert values.mean() == pytest.approx(127.5, abs=2)
    assert np.quantile(values, (0.25, 0.75)) == pytest.approx((63, 192), abs=4)


TRUTH = GroundTruth.parse(
    {
        "question_type": "closed",
        "answer": "Yes",
        "choices": None,
        "regions": [],
        "think_regions": [],
        "image_size": list(SIZE),
        "coordinates": "absolute",
    }
)


def test_the_report_and_the_logs_show_a_deep_picture_as_its_copy_is(tmp_path: Path):
    ramp(4095, "uint16").save(tmp_path / "deep.png")
    uri = data_uri(str(tmp_path / "deep.png"), form=(400, 90))
    shown = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert np.asarray(shown.convert("L"), dtype=float).mean() == pytest.approx(127.5, abs=3)
    drawn = draw(Sample(str(tmp_path / "deep.png"), "", "", TRUTH, 0.0))
    assert np.asarray(drawn.convert("L"), dtype=float).mean() == pytest.approx(127.5, abs=3)
