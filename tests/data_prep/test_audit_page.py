"""The audit page as a browser shows it: pictures are drawn, and boxes lie where they belong."""

import html
import json
import re
import subprocess

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.audit import choose_rows, show
from data_prep.thinkvg import main
from phantom.draw.__main__ import main as phantom_main
from phantom.draw.dataset import PICTURES

FINAL, CITED = (255, 176, 0), (41, 182, 246)
WIDTH, HEIGHT = 1400, 12000
# Measures every picture where it is laid out, and leaves what it found in the page.
PROBE = """
<script>
addEventListener("load", () => {
  const shown = [...document.querySelectorAll("svg.picture")].map((svg) => {
    const box = svg.getBoundingClientRect();
    return {row: Number(svg.closest("article").id.slice(4)), x: box.x + scrollX,
            y: box.y + scrollY, width: box.width, height: box.height};
  });
  const found = document.createElement("output");
  found.id = "probe";
  found.textContent = JSON.stringify({shown, height: document.documentElement.scrollHeight,
                                      charts: document.querySelectorAll(".chart rect").length});
  document.body.append(found);
});
</script>
"""


def browse(chromium, profile, *options):
    """Runs the browser without a window; its standard output, and the errors it reports."""
    command = [
        chromium,
        *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
        *("--disable-dev-shm-usage", "--disable-background-networking", "--enable-logging=stderr"),
        *(f"--user-data-dir={profile}", f"--window-size={WIDTH},{HEIGHT}"),
        *("--force-device-scale-factor=1", "--virtual-time-budget=10000"),
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("pictures")
    options = ["--images", "40", "--shapes", "mixed", "--fit", "pad", "--regions", "all"]
    assert phantom_main(["--out", str(out), *options, "--dirty", "0.2", "--workers", "1"]) == 0
    return out


@pytest.fixture(scope="module")
def page(dataset, chromium, tmp_path_factory):
    """What the browser makes of the audit page: the probe, a screenshot, and the folder."""
    out = tmp_path_factory.mktemp("audit")
    arguments = ["--source", str(dataset), "--images", str(dataset), "--out", str(out)]
    options = ["--fit", "pad", "--workers", "1"]
    assert main([*arguments, *options]) == 0
    file = out / "probed.html"
    file.write_text((out / "audit.html").read_text() + PROBE)
    profile = tmp_path_factory.mktemp("profile")
    dom, errors = browse(chromium, profile, "--dump-dom", file.as_uri())
    probe = json.loads(html.unescape(re.search(r'<output id="probe">(.*?)</output>', dom)[1]))
    screenshot = out / "page.png"
    _, more = browse(chromium, profile, f"--screenshot={screenshot}", file.as_uri())
    with Image.open(screenshot) as picture:
        rows = min(picture.height, probe["height"])
        pixels = np.asarray(picture.convert("RGB"), dtype=np.int16)[:rows]
    return probe, pixels, out, errors + more


@pytest.fixture(scope="module")
def known(dataset):
    """What is true of each picture: its regions' boxes as fractions, by image path."""
    rows = pq.read_table(dataset / PICTURES).to_pylist()
    return {
        row["image_path"]: {each["name"]: each["box"] for each in row["regions"]} for row in rows
    }


def rows_shown(out):
    found = {}
    for split in ("train", "val", "test"):
        for row in pq.read_table(out / f"{split}.parquet").to_pylist():
            found[row["extra_info"]["index"]] = row
    return found


def place_of(shown, unit):
    """A box in fractions of a picture, in pixels of the screenshot."""
    return (
        shown["x"] + unit[0] * shown["width"],
        shown["y"] + unit[1] * shown["height"],
        shown["x"] + unit[2] * shown["width"],
        shown["y"] + unit[3] * shown["height"],
    )


def test_the_page_has_no_errors_and_shows_every_part(page):
    probe, pixels, _, errors = page
    assert errors == []
    assert len(probe["shown"]) == 12
    assert probe["charts"] > 50
    assert probe["height"] == len(pixels), "the screenshot does not hold the whole page"


def test_pictures_are_drawn(page, dataset):
    probe, pixels, out, _ = page
    rows = rows_shown(out)
    for shown in probe["shown"]:
        path = rows[shown["row"]]["images"][0]["image"]
        x, y, width, height = (round(shown[name]) for name in ("x", "y", "width", "height"))
        seen = pixels[y : y + height, x : x + width]
        with Image.open(path) as picture:
            wanted = np.asarray(picture.convert("L").resize((width, height)), dtype=float)
        grey = (seen.max(axis=-1) - seen.min(axis=-1)) < 8
        assert grey.mean() > 0.5
        assert np.corrcoef(seen.mean(axis=-1)[grey], wanted[grey])[0, 1] > 0.93


def test_boxes_lie_on_the_regions_that_they_name(page, known, is_colour, on_edges):
    """Against what the drawing program knows, which no step of the preparation has seen."""
    probe, pixels, out, _ = page
    rows, checked = rows_shown(out), 0
    final = is_colour(pixels, FINAL)
    any_box = final | is_colour(pixels, CITED)
    for shown in probe["shown"]:
        row = rows[shown["row"]]
        truth = json.loads(row["reward_model"]["ground_truth"])
        boxes = known[row["extra_info"]["image_path"]]
        for key, mask, least in (("regions", final, 0.85), ("think_regions", any_box, 0.5)):
            for region in truth[key]:
                if region["ref"] not in boxes:
                    continue  # several names in one
                box = place_of(shown, boxes[region["ref"]])
                edges = on_edges(mask, box, slack=4)
                # A name may be written over a part of an edge.
                assert min(edges) > least / 2, (shown["row"], region)
                assert np.mean(edges) > least, (shown["row"], region)
                checked += 1
    assert checked > 20


def test_a_shifted_box_would_be_seen(page, known, is_colour, on_edges):
    """The check above can fail: the same boxes moved by a tenth of the picture are not found."""
    probe, pixels, out, _ = page
    rows, found = rows_shown(out), []
    final = is_colour(pixels, FINAL)
    for shown in probe["shown"]:
        row = rows[shown["row"]]
        boxes = known[row["extra_info"]["image_path"]]
        for region in json.loads(row["reward_model"]["ground_truth"])["regions"]:
            if region["ref"] in boxes:
                x1, y1, x2, y2 = boxes[region["ref"]]
                moved = place_of(shown, (x1 + 0.1, y1 + 0.1, x2 + 0.1, y2 + 0.1))
                found.append(np.mean(on_edges(final, moved, slack=4)) > 0.85)
    assert len(found) > 10
    assert not any(found)


def test_counts_are_on_the_page(page):
    _, _, out, _ = page
    audit, text = json.loads((out / "audit.json").read_text()), (out / "audit.html").read_text()
    for reason, count in audit["rejects"].items():
        assert re.search(rf"<code>{reason}</code></td><td class=\"number\">{count}</td>", text)
    for region in audit["splits"]["train"]["regions"]:
        assert region[:23] in text
    agreement = audit["splits"]["train"]["agreement"]
    assert agreement["cited_exactly"] == agreement["final_boxes"]
    assert agreement["rows_by_mean_iou"]["0.9"] == audit["splits"]["train"]["rows"]


@pytest.mark.parametrize(
    ("coordinates", "box"), [("absolute", [100, 25, 300, 75]), ("norm1000", [250, 125, 750, 375])]
)
def test_boxes_go_from_the_models_coordinates_to_those_of_the_page(tmp_path, coordinates, box):
    Image.new("L", (840, 420), 90).save(tmp_path / "a.jpg")
    truth = {
        "answer": ["A", "C"],
        "image_size": [400, 200],
        "coordinates": coordinates,
        "regions": [{"ref": "", "box": box}],
        "think_regions": [],
    }
    row = {"index": 1, "question_type": "multi", "question": "?", "messages": None}
    row |= {"images": [{"image": str(tmp_path / "a.jpg")}]}
    shown = show(row | {"reward_model": {"ground_truth": json.dumps(truth)}})
    assert shown["size"] == (420, 210)
    placed = {"ref": "unnamed", "x": 105, "y": 26.25, "width": 210, "height": 52.5}
    assert shown["final"] == [placed]
    assert (shown["answer"], shown["response"], shown["fault"]) == ("A, C", "", "")


def test_a_picture_that_does_not_decode_is_said_to(make_dataset, paths, tmp_path):
    dataset = make_dataset({})
    (file,) = (dataset / "files").rglob("*.jpg")
    file.write_bytes(file.read_bytes()[:700])
    assert main(paths(dataset, tmp_path / "out")) == 0
    assert "the picture does not decode" in (tmp_path / "out" / "audit.html").read_text()


def test_each_type_is_shown_three_times_wherever_its_rows_are() -> None:
    """Rows of VinDr ask for boxes first, and then thirty times as often for labels."""
    region = {"ref": "x", "box": [0.0, 0.0, 1.0, 1.0]}
    types = ["open"] * 6 + ["closed"] * 90
    boxes = [1, 2, 3, 1, 1, 2] + [0] * 90
    regions = [[region] * count for count in boxes]
    rows = pa.table({"index": range(96), "question_type": types, "regions": regions})
    assert choose_rows(rows) == [1, 2, 5, 6, 36, 66]
