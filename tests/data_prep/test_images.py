import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.images import main
from data_prep.pictures import Folder, read_manifest
from data_prep.program import alone_in
from data_prep.thinkvg import main as thinkvg_main
from reward.ground_truth import GroundTruth


def copies(out):
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file()
    }


def manifest(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_copies_keep_shape_and_place(tmp_path, ending):
    images = tmp_path / "images"
    for name, size in (("p10/a.jpg", (800, 400)), ("p10/b/c.png", (300, 900)), ("d.jpg", (60, 50))):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, 90).save(images / name)
    arguments = ["--images", str(images), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main([*arguments, "--long-side", "200", "--format", ending]) == 0
    sizes = {}
    for entry in manifest(tmp_path / "out"):
        content = (tmp_path / "out" / entry["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        with Image.open(tmp_path / "out" / entry["path"]) as picture:
            picture.load()
            assert list(picture.size) == entry["size"]
            assert np.abs(np.asarray(picture, dtype=int) - 90).max() < 4
        sizes[entry["path"]] = (tuple(entry["original_size"]), tuple(entry["size"]))
    assert sizes == {
        f"d.{ending}": ((60, 50), (60, 50)),  # never enlarged
        f"p10/a.{ending}": ((800, 400), (200, 100)),
        f"p10/b/c.{ending}": ((300, 900), (67, 200)),
    }


def test_the_bytes_do_not_depend_on_the_workers(phantom, tmp_path):
    for workers in ("1", "2"):
        arguments = ["--images", str(phantom), "--out", str(tmp_path / workers)]
        assert main([*arguments, "--long-side", "100", "--workers", workers]) == 0
    assert copies(tmp_path / "1") == copies(tmp_path / "2")
    assert len(copies(tmp_path / "1")) == 400 + 1


def test_a_second_run_makes_only_what_is_missing_or_damaged(phantom, tmp_path, capsys):
    arguments = ["--images", str(phantom), "--out", str(tmp_path), "--long-side", "64"]
    assert main(arguments) == 0
    before = copies(tmp_path)
    names = [name for name in before if name.endswith(".jpg")]
    (tmp_path / names[0]).unlink()
    (tmp_path / names[1]).write_bytes(b"short")
    changed = bytearray(before[names[2]])
    changed[-9] ^= 255
    (tmp_path / names[2]).write_bytes(changed)
    assert main(arguments) == 0
    assert "2 copied, 398 were there" in capsys.readouterr().out
    assert main([*arguments, "--verify"]) == 0
    assert "1 copied, 399 were there" in capsys.readouterr().out
    assert copies(tmp_path) == before
    assert main([*arguments, "--quality", "50"]) == 0
    assert "400 copied, 0 were there" in capsys.readouterr().out


def test_a_copy_of_a_replaced_picture_is_made_again(tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    arguments = ["--images", str(images), "--out", str(tmp_path / "out"), "--format", "png"]
    for name in ("a.png", "b.png"):
        Image.new("L", (60, 40), 10).save(images / name)
    assert main(arguments) == 0
    Image.new("L", (60, 40), 200).save(images / "b.png")  # as many bytes, perhaps
    capsys.readouterr()
    assert main(arguments) == 0
    assert "1 copied, 1 were there" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "b.png") as copy:
        assert copy.getpixel((5, 5)) == 200


def test_a_killed_run_goes_on(phantom, tmp_path):
    reference = ["--images", str(phantom), "--long-side", "300", "--quality", "95"]
    assert main([*reference, "--out", str(tmp_path / "whole"), "--workers", "1"]) == 0
    command = [sys.executable, "-m", "data_prep.images", *reference, "--workers", "1"]
    out = tmp_path / "killed"
    process = subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(out.rglob("*.jpg"))) < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    whole = copies(tmp_path / "whole")
    for name, content in copies(out).items():
        assert name.endswith((".part", ".log", ".lock")) or content == whole[name]
    assert not (out / "manifest.jsonl").exists()
    assert main([*reference, "--out", str(out), "--workers", "1"]) == 0
    assert copies(out) == whole


def test_what_is_no_picture_is_listed(dirty_phantom, tmp_path, capsys):
    assert main(["--images", str(dirty_phantom), "--out", str(tmp_path), "--workers", "1"]) == 0
    assert "broken.jpg" in (tmp_path / "failed_images.txt").read_text()
    assert "1 do not open" in capsys.readouterr().err
    assert len(manifest(tmp_path)) == 80


def test_only_pictures_that_rows_name_are_copied(make_dataset, tmp_path, capsys):
    dataset = make_dataset({}, {"image_path": "/p10/p10000001/s50000001/none.jpg"})
    Image.new("L", (50, 50)).save(dataset / "files" / "other.jpg")
    arguments = ["--images", str(dataset), "--source", str(dataset), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert [entry["path"] for entry in manifest(tmp_path / "out")] == [
        "files/p10/p10000001/s50000001/a.jpg"
    ]
    assert "1 pictures that rows name are missing" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_boxes_in_original_pixels_fit_the_copies(make_dataset, tmp_path, ending):
    location = "<location><ref>a</ref><box>[168, 84, 336, 252]</box></location>"
    dataset = make_dataset(
        {"thinkVG": "It is seen.", "response": f"<answer>No</answer>{location}"}, size=(672, 336)
    )
    small = tmp_path / "small"
    arguments = ["--images", str(dataset), "--out", str(small), "--format", ending]
    assert main([*arguments, "--long-side", "168"]) == 0
    for images in (small, small / "files"):
        arguments = ["--source", str(dataset), "--images", str(images), "--frame", "original"]
        assert thinkvg_main([*arguments, "--out", str(tmp_path / "out")]) == 0
        (row,) = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()
        truth = GroundTruth.parse(row["reward_model"]["ground_truth"])
        assert truth.image_size == (168, 84)
        assert truth.regions[0].box == (42, 21, 84, 63)
    assert read_manifest(small) == {"p10/p10000001/s50000001/a": ((672, 336), "", False)}


def test_unfinished_copies_are_refused(make_dataset, paths, tmp_path, capsys):
    dataset = make_dataset({})
    (dataset / "files" / ".manifest.log").write_text("")
    assert thinkvg_main(paths(dataset, tmp_path / "out")) == 2
    assert "run data_prep.images again" in capsys.readouterr().err.splitlines()[-1]


def test_deep_greyscale_is_scaled_to_eight_bits(tmp_path):
    ramp = np.linspace(1000, 5000, 200 * 100).reshape(100, 200).astype(np.uint16)
    (tmp_path / "images").mkdir()
    Image.fromarray(ramp).save(tmp_path / "images" / "a.png")
    arguments = ["--images", str(tmp_path / "images"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--long-side", "100", "--format", "png"]) == 0
    with Image.open(tmp_path / "out" / "a.png") as picture:
        assert picture.mode == "L"
        low, high = picture.getextrema()
    assert low < 5
    assert high > 250


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--images", "nowhere"),
        ("--long-side", "0"),
        ("--quality", "101"),
        ("--workers", "0"),
        ("--source", "nowhere.parquet"),
    ],
)
def test_an_option_at_fault_is_named_in_one_line(phantom, tmp_path, capsys, option, value):
    options = {"--images": str(phantom), "--out": str(tmp_path / "out"), option: value}
    assert main([part for pair in options.items() for part in pair]) == 2
    error = capsys.readouterr().err.strip()
    assert option in error
    assert value in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture
def folder(tmp_path):
    """Two pictures of other names in MIMIC-CXR-JPG's layout."""
    for number in (1, 2):
        path = tmp_path / "images" / "p10" / f"p1000000{number}" / "s50000001" / f"{number}.jpg"
        path.parent.mkdir(parents=True)
        Image.new("L", (400, 200), 90).save(path)
    return tmp_path / "images"


def source_of(tmp_path, *numbers):
    """A dataset about some of the pictures."""
    row = {"question": "Is it?", "question_type": "closed_ended_questions", "thinkVG": ""}
    row["response"] = "<answer>No</answer><location><ref>a</ref><box>[40, 20, 200, 100]</box>"
    paths = [f"/p10/p1000000{number}/s50000001/{number}.jpg" for number in numbers]
    file = tmp_path / f"{'-'.join(map(str, numbers))}.parquet"
    pq.write_table(pa.Table.from_pylist([row | {"image_path": path} for path in paths]), file)
    return str(file)


@pytest.mark.parametrize("change", [[], ["--quality", "50"], ["--format", "png"]])
def test_the_manifest_keeps_the_copies_of_earlier_runs(folder, tmp_path, change):
    arguments = ["--images", str(folder), "--out", str(tmp_path / "small"), "--long-side", "100"]
    assert main([*arguments, "--source", source_of(tmp_path, 1)]) == 0
    assert main([*arguments, *change, "--source", source_of(tmp_path, 2)]) == 0
    assert [entry["original_size"] for entry in manifest(tmp_path / "small")] == [[400, 200]] * 2
    arguments = ["--images", str(tmp_path / "small"), "--frame", "original"]
    source = source_of(tmp_path, 1, 2)
    assert thinkvg_main([*arguments, "--source", source, "--out", str(tmp_path / "out")]) == 0
    for row in pq.read_table(tmp_path / "out" / "train.parquet").to_pylist():
        truth = GroundTruth.parse(row["reward_model"]["ground_truth"])
        width, height = truth.image_size
        assert truth.regions[0].box == (
            round(width / 10),
            round(height / 10),
            width / 2,
            height / 2,
        )


def test_a_copy_that_is_gone_leaves_the_manifest(folder, tmp_path):
    arguments = ["--images", str(folder), "--out", str(tmp_path / "small")]
    assert main(arguments) == 0
    (tmp_path / "small" / "p10/p10000001/s50000001/1.jpg").unlink()
    assert main([*arguments, "--source", source_of(tmp_path, 2)]) == 0
    assert [entry["path"] for entry in manifest(tmp_path / "small")] == [
        "p10/p10000002/s50000001/2.jpg"
    ]


def test_a_picture_that_is_not_in_the_manifest_is_an_error(folder, tmp_path, capsys):
    small = tmp_path / "small"
    arguments = ["--images", str(folder), "--out", str(small), "--long-side", "100"]
    assert main([*arguments, "--source", source_of(tmp_path, 1)]) == 0
    copy = small / "p10" / "p10000002" / "s50000001" / "2.jpg"
    copy.parent.mkdir(parents=True)
    Image.new("L", (100, 50)).save(copy)
    arguments = ["--source", source_of(tmp_path, 1, 2), "--images", str(small)]
    assert thinkvg_main([*arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{copy} is not in the manifest.jsonl of its folder" in error


@pytest.mark.parametrize(
    ("images", "out", "words"),
    [
        ("images", "images/small", "lies in --images"),  # the next run would copy its copies
        ("small", "other", "holds copies"),  # whose originals' sizes would be lost
    ],
)
def test_copies_are_not_copied(folder, tmp_path, capsys, images, out, words):
    assert main(["--images", str(folder), "--out", str(tmp_path / "small")]) == 0
    capsys.readouterr()
    assert main(["--images", str(tmp_path / images), "--out", str(tmp_path / out)]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / out).exists()


def test_two_runs_into_one_folder_are_refused(folder, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    with alone_in(tmp_path / "out"):
        assert main(["--images", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "writes to this folder: wait" in capsys.readouterr().err


def test_a_name_that_is_no_utf8_is_named(folder, tmp_path, capsys, cannot_run):
    try:
        (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"")
    except OSError:
        cannot_run("this file system takes no such names")
    assert main(["--images", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "'caf\\udce9.jpg' is a name that is no UTF-8" in capsys.readouterr().err


def test_two_pictures_that_would_become_one_are_refused(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "a.png"):
        Image.new("L", (20, 20)).save(tmp_path / "images" / name)
    assert main(["--images", str(tmp_path / "images"), "--out", str(tmp_path / "out")]) == 2
    assert "a.jpg and a.png would both become one copy" in capsys.readouterr().err


def test_a_copy_is_near_the_best_that_there_is(tmp_path):
    waves = np.indices((900, 1200)) / np.array([23, 31])[:, None, None]
    drawn = (127 + 60 * np.sin(waves[0]) + 60 * np.cos(waves[1])).astype(np.uint8)
    (tmp_path / "images").mkdir()
    picture = Image.fromarray(drawn)
    picture.save(tmp_path / "images" / "a.png")
    arguments = ["--images", str(tmp_path / "images"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--long-side", "400", "--format", "png"]) == 0
    with Image.open(tmp_path / "out" / "a.png") as copy:
        written = np.asarray(copy, dtype=float)
    best = np.asarray(picture.resize((400, 300), Image.Resampling.LANCZOS), dtype=float)
    # JPEG of quality 90 costs about 44 dB on a radiograph.
    assert 10 * np.log10(255**2 / np.mean((written - best) ** 2)) > 46


def test_originals_of_the_same_name_keep_their_own_sizes(tmp_path):
    for patient, size in (("p1", (400, 200)), ("p2", (300, 600))):
        path = tmp_path / "images" / patient / "s1" / "frontal.png"
        path.parent.mkdir(parents=True)
        Image.new("L", size).save(path)
    arguments = ["--images", str(tmp_path / "images"), "--out", str(tmp_path / "small")]
    assert main([*arguments, "--long-side", "100"]) == 0
    folder = Folder(tmp_path / "small")
    assert folder.measure("p1/s1/frontal.png").original == (400, 200)
    assert folder.measure("p2/s1/frontal.png").original == (300, 600)


def test_copies_of_another_format_replace_those_of_the_same_pictures(folder, tmp_path):
    arguments = ["--images", str(folder), "--out", str(tmp_path / "small"), "--workers", "1"]
    assert main([*arguments, "--long-side", "50"]) == 0
    assert main([*arguments, "--long-side", "100", "--format", "png"]) == 0
    assert [entry["path"] for entry in manifest(tmp_path / "small")] == [
        "p10/p10000001/s50000001/1.png",
        "p10/p10000002/s50000001/2.png",
    ]
    assert not list((tmp_path / "small").rglob("*.jpg"))
    name = "/p10/p10000001/s50000001/1.jpg"
    assert Folder(tmp_path / "small").measure(name).size == (100, 50)
