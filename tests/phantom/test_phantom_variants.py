"""The forms of the phantom set beside the one that the demo uses."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from phantom.draw.__main__ import build_parser, main, variant_from
from phantom.draw.chest import (
    HEART,
    Finding,
    further_boxes,
    region_boxes,
    sample_anatomy,
    with_findings,
)
from phantom.draw.dataset import FULL_IMAGES, FULL_ROWS, PICTURES, Variant
from phantom.draw.rows import PARQUET
from reward.response import parse_response

# Chest ImaGenome's 29.
PUBLISHED = {
    *(
        f"{side} {name}"
        for side in ("right", "left")
        for name in (
            *("lung", "upper lung zone", "mid lung zone", "lower lung zone", "hilar structures"),
            *("apical zone", "costophrenic angle", "hemidiaphragm", "clavicle"),
        )
    ),
    *("trachea", "spine", "aortic arch", "mediastinum", "upper mediastinum", "svc"),
    *("cardiac silhouette", "cavoatrial junction", "right atrium", "carina", "abdomen"),
}


def make(out, *options):
    assert main(["--out", str(out), "--workers", "1", *options]) == 0
    return pq.read_table(out / PARQUET).to_pylist()


def sizes_of(out):
    found = []
    for file in (out / "files").rglob("*.jpg"):
        with Image.open(file) as picture:
            found.append(picture.size)
    return found


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A set with all regions, pictures of mixed shapes, and long reasoning."""
    out = tmp_path_factory.mktemp("everything")
    options = ["--images", "60", "--rows", "900", "--regions", "all", "--shapes", "mixed"]
    return out, make(out, *options, "--long-side", "200", "--words", "80")


def test_all_published_regions_are_there(everything):
    out, rows = everything
    assert len(PUBLISHED) == 29
    for picture in pq.read_table(out / PICTURES).to_pylist():
        assert {region["name"] for region in picture["regions"]} == PUBLISHED
    cited = set()
    for row in rows:
        for region in parse_response(f"<think>{row['thinkVG']}</think>").think_regions:
            cited.add(region.ref)
    assert cited == PUBLISHED
    asked = " ".join(row["question"] for row in rows)
    further = further_boxes(sample_anatomy(np.random.default_rng(0)))
    assert sum(f"the {region}" in asked for region in further) >= 6


@pytest.mark.parametrize("seed", range(60))
def test_further_regions_lie_where_they_belong(seed):
    rng = np.random.default_rng(seed)
    anatomy = sample_anatomy(rng)
    if seed % 2:  # findings that move what they are in
        raised = Finding("raised", "left hemidiaphragm")
        anatomy = with_findings(anatomy, (Finding("enlarged", HEART), raised), rng)
    boxes = region_boxes(anatomy) | further_boxes(anatomy)
    for x1, y1, x2, y2 in boxes.values():
        assert 0 <= x1 < x2 <= 1
        assert 0 <= y1 < y2 <= 1
        assert min(x2 - x1, y2 - y1) * 112 > 4
    for side in ("right", "left"):
        apex, lung = boxes[f"{side} apical zone"], boxes[f"{side} lung"]
        assert apex[:2] == lung[:2]
        assert apex[3] < boxes[f"{side} upper lung zone"][3]
    assert boxes["upper mediastinum"][3] < boxes["mediastinum"][3]
    assert boxes["svc"][1] < boxes["cavoatrial junction"][1] < boxes["svc"][3]
    assert boxes["abdomen"][1] >= boxes["right lung"][3]
    heart, atrium = boxes["cardiac silhouette"], boxes["right atrium"]
    assert heart[0] == atrium[0] < atrium[2] < heart[2]


def test_pictures_are_upright_lying_and_square(everything):
    sizes = sizes_of(everything[0])
    assert len(sizes) == 60
    assert max(max(size) for size in sizes) <= 200
    aspects = [width / height for width, height in sizes]
    assert sum(aspect < 0.9 for aspect in aspects) > 8
    assert sum(aspect > 1.1 for aspect in aspects) > 8
    assert sum(0.95 < aspect < 1.05 for aspect in aspects) > 4


def test_the_number_of_rows_and_the_length_of_reasoning_are_those_asked_for(everything):
    _, rows = everything
    assert len(rows) == 900
    assert len({(row["image_path"], row["question"]) for row in rows}) == 900
    words = [len(row["thinkVG"].split()) for row in rows]
    assert 75 < np.mean(words) < 110


def test_the_full_size_is_the_published_one():
    variant = variant_from(build_parser().parse_args(["--out", "nowhere", "--full-size"]))
    counts = [variant.count_of(number, FULL_IMAGES) for number in range(FULL_IMAGES)]
    assert sum(counts) == FULL_ROWS == 202_384
    assert FULL_IMAGES == 21_994
    assert set(counts) == {9, 10}
    assert variant.all_regions


@pytest.mark.parametrize(
    ("frame", "fit", "expected"),
    [
        ((224, 224), "stretch", (56, 112, 112, 168)),
        ((400, 200), "stretch", (100, 100, 200, 150)),
        # 300 x 600: in a square of 200 the picture is 100 wide, with bands of 50.
        ((200, 200), "pad", (75, 100, 100, 150)),
        (None, "stretch", (75, 300, 150, 450)),
    ],
)
def test_boxes_are_written_in_the_frame_asked_for(monkeypatch, frame, fit, expected):
    monkeypatch.setattr(
        "phantom.draw.dataset.region_boxes", lambda _: {"a": (0.25, 0.5, 0.5, 0.75)}
    )
    variant = Variant(frame=frame, fit=fit)
    assert variant.frame_boxes(None, (300, 600)) == {"a": expected}


def test_an_earlier_set_is_replaced(tmp_path):
    make(tmp_path, "--images", "30", "--seed", "1", "--dirty", "0.5", "--faults", "all")
    (tmp_path / "files" / "p10" / "p10000001").mkdir(parents=True)
    other = tmp_path / "files" / "p10" / "p10000001" / "a.jpg"
    other.write_bytes(b"of somebody else")
    rows = make(tmp_path, "--images", "10", "--seed", "2")
    named = {row["image_path"].lstrip("/") for row in rows}
    left = {path.relative_to(tmp_path / "files").as_posix() for path in tmp_path.rglob("*.jpg")}
    assert left == named | {"p10/p10000001/a.jpg"}
    assert not (tmp_path / "files" / "p99").exists() or any("p99" in name for name in named)
    assert other.read_bytes() == b"of somebody else"


def test_rows_of_another_form_are_replaced(tmp_path):
    make(tmp_path, "--images", "5")
    options = ["--out", str(tmp_path), "--workers", "1", "--images", "5"]
    assert main([*options, "--form", "gemex"]) == 0
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["train.jsonl"]
    line = (tmp_path / "data" / "train.jsonl").read_text().splitlines()[0]
    assert {"question", "answer", "reason", "visual_regions"} <= set(json.loads(line))


def test_variants_do_not_depend_on_the_workers(tmp_path):
    options = ["--images", "40", "--shapes", "mixed", "--long-side", "80", "--words", "60"]
    for workers in ("1", "2"):
        arguments = ["--out", str(tmp_path / workers), *options, "--odd", "0.3"]
        assert main([*arguments, "--workers", workers]) == 0
    files = [
        {path.relative_to(out): path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
        for out in (tmp_path / "1", tmp_path / "2")
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--odd", "2"], "--odd is 2.0"),
        (["--frame", "auto"], "--frame"),
        (["--rows", "0"], "--rows is 0"),
        (["--long-side", "9"], "--long-side is 9"),
        (["--full-size", "--images", "3"], "--images does not go with --full-size"),
    ],
)
def test_options_at_fault_are_named(tmp_path, capsys, options, named):
    assert main(["--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err.strip()
    assert named in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
