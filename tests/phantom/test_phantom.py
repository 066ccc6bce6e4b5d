import json
import re
from collections import Counter, defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.coordinates import smart_resize
from phantom.draw.__main__ import main
from phantom.draw.chest import (
    Finding,
    possible_findings,
    region_boxes,
    sample_anatomy,
    sample_findings,
    with_findings,
)
from phantom.draw.dataset import FINDINGS, PICTURES, plan_studies
from phantom.draw.drawing import draw_chest
from phantom.draw.questions import LETTERS, ask, ask_closed, ask_multi, ask_single
from phantom.draw.rows import PARQUET
from reward.response import cited_regions, parse_response

REGIONS = {
    "cardiac silhouette",
    "trachea",
    "aortic arch",
    "spine",
    *(
        f"{side} {zone} lung zone"
        for side in ("right", "left")
        for zone in ("upper", "mid", "lower")
    ),
    *(
        f"{side} {name}"
        for side in ("right", "left")
        for name in (
            "lung",
            "hemidiaphragm",
            "costophrenic angle",
            "hilar structures",
            "clavicle",
        )
    ),
}


@pytest.fixture(scope="module")
def rows(phantom):
    return pq.read_table(phantom / PARQUET).to_pylist()


def regions_of(row):
    return parse_response(row["response"]).regions


def iou(first, second):
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / (sum(areas) - shared)


def test_the_bytes_depend_on_the_seed_alone(tmp_path):
    def make(name, seed, workers):
        out = tmp_path / name
        options = ["--images", "40", "--seed", str(seed), "--workers", str(workers)]
        assert main(["--out", str(out), *options, "--dirty", "0.1"]) == 0
        return {file.relative_to(out): file.read_bytes() for file in out.rglob("*.*")}

    first = make("first", 3, 1)
    assert len(first) == 40 + 5
    assert make("again", 3, 2) == first
    assert make("other", 4, 1) != first


def test_the_layout_is_the_published_one(phantom, rows):
    assert set(rows[0]) == {"image_path", "question", "question_type", "thinkVG", "response"}
    for row in rows[:200]:
        assert re.fullmatch(r"/p\d\d/p\d{8}/s\d{9}/[0-9a-f-]{44}\.jpg", row["image_path"])
        assert (phantom / "files" / row["image_path"].lstrip("/")).is_file()
    assert b"Synthetic" in pq.read_schema(phantom / PARQUET).metadata[b"notice"]
    assert "Synthetic" in (phantom / "README.txt").read_text()


def test_some_patients_have_several_pictures():
    pictures = Counter(study.patient for study in plan_studies(1000, seed=0))
    shares = Counter(pictures.values())
    assert set(shares) == {1, 2, 3}
    assert 0.55 < shares[1] / len(pictures) < 0.75


def test_every_picture_becomes_112_pixels_square(phantom):
    sizes = set()
    for file in phantom.glob("files/**/*.jpg"):
        with Image.open(file) as picture:
            assert picture.mode == "L"
            sizes.add(picture.size)
    assert len(sizes) > 100
    for width in range(309, 364):
        for height in range(309, 364):
            assert smart_resize((width, height), 28, 12544, 15680) == (112, 112)
    assert {side for size in sizes for side in size} <= set(range(309, 364))


def test_shares_of_types_and_boxes_are_about_the_published_ones(rows):
    types = Counter(row["question_type"].split("_")[0] for row in rows)
    for kind, share in {"open": 0.31, "closed": 0.18, "single": 0.26, "multi": 0.26}.items():
        assert types[kind] / len(rows) == pytest.approx(share, abs=0.04)
    counts = Counter(len(regions_of(row)) for row in rows)
    for number, share in {1: 0.77, 2: 0.13, 3: 0.09, 4: 0.01}.items():
        assert counts[number] / len(rows) == pytest.approx(share, abs=0.035)
    several = Counter(row["question_type"] for row in rows if len(regions_of(row)) > 1)
    assert several["multi_choice_questions"] > 0.7 * several.total()


def test_answers_are_balanced(rows):
    answers = defaultdict(Counter)
    for row in rows:
        answers[row["question_type"]][parse_response(row["response"]).answer] += 1
    closed, single = answers["closed_ended_questions"], answers["single_choice_questions"]
    assert set(closed) == {"Yes", "No"}
    assert closed["Yes"] / closed.total() == pytest.approx(0.5, abs=0.06)
    assert set(single) == set(LETTERS)
    assert max(single.values()) / single.total() < 0.33
    multi = answers["multi_choice_questions"]
    assert max(multi.values()) / multi.total() < 0.2


def test_a_closed_question_does_not_tell_its_own_answer():
    rng = np.random.default_rng(0)
    answers = defaultdict(Counter)
    for _ in range(6000):
        item = ask_closed(sample_findings(rng), rng)
        answers[item.regions[0]][item.answer] += 1
    assert len(answers) == 11
    for region, counts in answers.items():
        assert counts["Yes"] / counts.total() == pytest.approx(0.5, abs=0.12), region


def test_the_region_prior_is_strong_but_beatable(rows):
    boxes = defaultdict(list)
    for row in rows:
        for region in regions_of(row):
            boxes[region.ref].append(region.box)
    overlaps = [iou(np.mean(found, axis=0), box) for found in boxes.values() for box in found]
    assert 0.49 < np.mean(overlaps) < 0.56


def test_reasoning_cites_the_final_boxes_and_is_short(rows):
    for row in rows:
        response = parse_response(row["response"])
        cited = parse_response(f"<think>{row['thinkVG']}</think>").think_regions
        assert {region.box for region in response.regions} <= {region.box for region in cited}
        words = re.sub(r"\[.*?\]", "", row["thinkVG"]).split()
        assert 8 <= len(words) <= 80
        if row["question_type"] != "open_ended_questions":
            letters = "".join(re.findall(r"\b[A-D]\b|Yes|No", response.answer))
            concluded = row["thinkVG"].split("answer is")[1]
            assert "".join(re.findall(r"\b[A-D]\b|Yes|No", concluded)) == letters


def test_reasoning_begins_with_all_findings_of_the_picture(phantom, rows):
    pictures = {row["image_path"]: row for row in pq.read_table(phantom / PICTURES).to_pylist()}
    for row in rows:
        names = [finding["name"] for finding in pictures[row["image_path"]]["findings"]]
        impression = f"Impression: {', '.join(names) or 'no abnormality'}."
        assert row["thinkVG"].startswith(f"{impression} ")
        assert pictures[row["image_path"]]["impression"] == impression


def test_what_is_seen_in_a_region_agrees_with_the_reasoning(phantom, rows):
    pictures = {row["image_path"]: row for row in pq.read_table(phantom / PICTURES).to_pylist()}
    cited = re.compile(r"The ([a-z ]+) \(?\[[^\]]*\]\)? ([a-z ]+?)(?: \(choice ([A-D])\))?\.")
    for row in rows:
        seen = {each["name"]: each["seen"] for each in pictures[row["image_path"]]["regions"]}
        sentences = cited.findall(row["thinkVG"])
        assert sentences
        for region, words, _ in sentences:
            assert seen[region] == words
        assert seen["left lung"] is None
        letters = [letter for *_, letter in sentences if letter]
        if "<choices>" in row["question"]:
            answer = re.search("<answer>(.*?)</answer>", row["response"])[1]
            assert sorted(letters) == re.findall("[A-D]", answer)
        else:
            assert not letters


def test_the_pictures_table_agrees_with_the_rows(phantom, rows):
    pictures = pq.read_table(phantom / PICTURES)
    assert b"Synthetic" in pictures.schema.metadata[b"notice"]
    known = {row["image_path"]: row["regions"] for row in pictures.to_pylist()}
    assert len(known) == pictures.num_rows == 400
    for row in rows:
        boxes = {each["name"]: each["box"] for each in known[row["image_path"]]}
        assert set(boxes) == REGIONS
        for region in regions_of(row):
            if region.ref in boxes:
                wanted = [round(336 * value) for value in boxes[region.ref]]
                assert list(region.box) == wanted


def test_the_table_of_findings_says_what_the_pictures_show(phantom, rows):
    table = pq.read_table(phantom / FINDINGS)
    assert b"Synthetic" in table.schema.metadata[b"notice"]
    found = {row["image_path"]: row["findings"] for row in table.to_pylist()}
    pictures = pq.read_table(phantom / PICTURES).to_pylist()
    assert [*found] == [picture["image_path"] for picture in pictures]
    for picture in pictures:
        told = found[picture["image_path"]]
        seen = [each for each in picture["regions"] if each["seen"]]
        assert [region.ref for region in cited_regions(told)] == [each["name"] for each in seen]
        for each, region in zip(seen, cited_regions(told), strict=True):
            assert list(region.box) == [round(336 * value) for value in each["box"]]
            assert f"] {each['seen']}." in told


def test_choices_and_answers_belong_together():
    rng = np.random.default_rng(1)
    findings = (
        Finding("device", "left upper lung zone"),
        Finding("enlarged", "cardiac silhouette"),
    )
    abnormal = {finding.region for finding in findings}
    seen = Counter()
    for _ in range(300):
        for item in (ask_single(findings, rng), ask_multi(findings, rng)):
            choices = dict(re.findall(r"([A-D]): ([^,\]]+)", item.question))
            right = [choices[letter] for letter in re.findall(r"[A-D]", item.answer)]
            if "region" in item.question:
                seen[item.question.split("?")[0]] += 1
                assert tuple(right) == item.regions
                is_abnormal = "abnormal" in item.question
                assert all((region in abnormal) == is_abnormal for region in right)
                wrong = set(choices.values()) - set(right)
                assert all((region in abnormal) != is_abnormal for region in wrong)
    assert len(seen) == 3


def test_a_picture_has_every_region():
    boxes = region_boxes(sample_anatomy(np.random.default_rng(0)))
    assert set(boxes) == REGIONS
    asked = set()
    rng = np.random.default_rng(0)
    for _ in range(2000):
        asked.update(ask((), rng).regions)
    assert asked <= REGIONS


@pytest.mark.parametrize("seed", range(40))
def test_anatomy_stays_in_order(seed):
    boxes = region_boxes(sample_anatomy(np.random.default_rng(seed)))
    for x1, y1, x2, y2 in boxes.values():
        assert 0 <= x1 < x2 <= 1
        assert 0 <= y1 < y2 <= 1
        assert min(x2 - x1, y2 - y1) * 112 > 4
    assert boxes["right lung"][2] < boxes["left lung"][0]
    for side in ("right", "left"):
        zones = [boxes[f"{side} {zone} lung zone"] for zone in ("upper", "mid", "lower")]
        assert zones[0][3] == pytest.approx(zones[1][1])
        assert zones[1][3] == pytest.approx(zones[2][1])
        assert iou(boxes[f"{side} lung"], (*zones[0][:2], *zones[2][2:])) == pytest.approx(1)


@pytest.mark.parametrize("finding", possible_findings(), ids=lambda finding: finding.name)
def test_a_finding_changes_its_region_at_112_pixels(finding):
    """Seen in the region itself, far beyond noise, and little elsewhere unless the shape moves."""
    anatomy = sample_anatomy(np.random.default_rng(5))
    changed = with_findings(anatomy, (finding,), np.random.default_rng(0))

    def draw(shape, findings):
        picture = draw_chest(shape, findings, (336, 336), np.random.default_rng(7))
        return np.asarray(picture.resize((112, 112), Image.Resampling.BICUBIC), dtype=float)

    difference = np.abs(draw(changed, (finding,)) - draw(anatomy, ()))
    x1, y1, x2, y2 = (round(112 * side) for side in region_boxes(changed)[finding.region])
    inside = difference[y1:y2, x1:x2]
    assert (inside > 60).mean() > 0.08
    assert inside.mean() > 1.5 * difference.mean()


def test_the_same_question_gets_another_answer_from_another_picture():
    answers = defaultdict(set)
    for findings in ((), *[(finding,) for finding in possible_findings()]):
        rng = np.random.default_rng(0)
        for _ in range(150):
            item = ask_closed(findings, rng)
            answers[item.question].add(item.answer)
    assert len(answers) > 15
    assert all(given == {"Yes", "No"} for given in answers.values())


@pytest.mark.parametrize(
    ("option", "value"),
    [("--images", "0"), ("--seed", "-1"), ("--workers", "0"), ("--dirty", "-0.5")],
)
def test_options_out_of_range_are_named(tmp_path, capsys, option, value):
    options = {"--images": "2", option: value}
    arguments = [part for pair in options.items() for part in pair]
    assert main(["--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert option in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["--out", str(tmp_path / "file" / "out"), "--images", "2"]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err.splitlines()[-1]


def test_an_output_that_is_a_file_is_named(tmp_path, capsys):
    (tmp_path / "out").write_text(json.dumps({}))
    assert main(["--out", str(tmp_path / "out")]) == 2
    assert "--out" in capsys.readouterr().err
