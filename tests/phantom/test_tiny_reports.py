"""The reports that the tiny model is pre-trained on, and the training itself."""

import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from data_prep.program import InputError, encode_metadata
from phantom.tiny.model import TWINS, WIDTH, build_model, build_processor
from phantom.tiny.pretrain import (
    BATCH,
    Picture,
    Report,
    Reporter,
    ReportLoss,
    check_images,
    pixel_values,
    practise,
    pretrain,
    training_pictures,
)
from recipe.algorithms.soft_targets import soft_log_probs

SIZE = (112, 56)
NAMES = ["spine", "trachea", "aortic arch", "right lung zone", "left lung zone"]
PICTURE = Picture(
    image={"image": "a.jpg"},
    findings=(("opacity in the left lung zone", "left lung zone"),),
    regions=dict.fromkeys([*NAMES, "left lung"], (0.25, 0.5, 0.75, 1.0)),
    impression="Impression: opacity in the left lung zone.",
    seen=dict.fromkeys(NAMES[:4], "is clear") | {"left lung zone": "shows an opacity"},
)
OTHER = replace(PICTURE, findings=(("device in the spine", "spine"),))
CLEAR = replace(PICTURE, findings=(), impression="Impression: no abnormality.")
CITED = re.compile(
    r"The ([a-z ]+?)(?: \[([^\]]+)\])? (is clear|shows an opacity)(?: \(choice ([A-Z])\))?\."
)
OPTION = re.compile(r"([A-D]): ([a-z ]+)")


def make_reports(count: int = 120) -> list[Report]:
    reporter = Reporter([PICTURE, OTHER], random.Random(0))
    return [reporter.report(PICTURE, SIZE) for _ in range(count)]


def of_form(start: str) -> list[Report]:
    """The reports to questions that start so, at least a few."""
    reports = [report for report in make_reports() if report.question.startswith(start)]
    assert len(reports) > 10
    return reports


@pytest.mark.parametrize("start", ["Describe the ", "Describe these regions."])
def test_a_report_answers_what_was_asked(start: str) -> None:
    for report in of_form(start):
        cited = CITED.findall(report.text)
        assert report.text.startswith(f"<think>{PICTURE.impression} The ")
        assert len(cited) == 4
        names = [name for name, *_ in cited]
        assert "left lung zone" in names  # the abnormal one is always among them
        assert "left lung" not in names  # nothing is said about it
        assert all(name in report.question for name in names)
        assert all(box == "28, 28, 84, 56" for _, box, *_ in cited)
        assert all((PICTURE.seen or {})[name] == seen for name, _, seen, _ in cited)


def test_letters_are_those_of_the_question() -> None:
    orders = set()
    for report in of_form("Describe these regions."):
        choices = {name: letter for letter, name in OPTION.findall(report.question)}
        letters = {name: letter for name, _, _, letter in CITED.findall(report.text)}
        assert letters == choices
        orders.add(tuple(letters.values()))
    assert len(orders) > 5


@pytest.mark.parametrize("noun", ["regions", "findings"])
def test_a_selection_reports_what_the_picture_has(noun: str) -> None:
    for report in of_form(f"Report those of these {noun} that are seen."):
        options = {name: letter for letter, name in OPTION.findall(report.question)}
        right = "left lung zone" if noun == "regions" else "opacity in the left lung zone"
        assert {right, "device in the spine" if noun == "findings" else "spine"} == set(options)
        ((name, box, _, letter),) = CITED.findall(report.text)
        assert (name, box, letter) == ("left lung zone", "28, 28, 84, 56", options[right])
        assert report.text.endswith(f"Reported: {letter}.</think>")


def test_a_picture_without_findings_is_described() -> None:
    reporter = Reporter([PICTURE, OTHER], random.Random(0))
    questions = [reporter.report(CLEAR, SIZE).question for _ in range(20)]
    assert all(question.startswith("Describe ") for question in questions)


def test_reading_has_the_findings_in_the_answers_beginning_and_no_boxes() -> None:
    reporter = Reporter([PICTURE, OTHER], random.Random(0))
    for _ in range(20):
        report = reporter.reading(PICTURE)
        assert report.beginning == f"<think>{PICTURE.impression}"
        assert report.text.startswith(" The ")
        assert "[" not in report.text


def test_reports_repeat_with_the_seed() -> None:
    assert make_reports() == make_reports()


@pytest.fixture(scope="module")
def processor():
    texts = [f"{report.question}\n{report.text}" for report in make_reports()]
    return build_processor([*texts, "".join(f"<ref>{name}</ref>" for name in NAMES)])


def test_prompts_are_not_trained_on(processor) -> None:
    model = build_model(processor.tokenizer, seed=0)
    made = make_reports(3)
    ids, mask, trained = ReportLoss(model, processor)._encode(made, image_tokens=8)
    for row, report in enumerate(made):
        assert processor.tokenizer.decode(ids[row][trained[row]]) == report.text
        assert int((ids[row] == model.config.image_token_id).sum()) == 8
        assert not (trained[row] & ~mask[row].bool()).any()
        prompt = processor.tokenizer.decode(ids[row][mask[row].bool() & ~trained[row]])
        assert report.question in prompt


def test_pretraining_lowers_the_loss_of_reports(processor, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = []
    for number in range(BATCH):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(rng.integers(0, 255, (112, 112), dtype=np.uint8)).save(path)
        image = {"image": str(path), "min_pixels": 12544, "max_pixels": 15680}
        pictures.append(Picture(image, *list(vars(PICTURE).values())[1:]))
    model = build_model(processor.tokenizer, seed=0)
    before = report_loss(model, processor, pictures)
    tower = model.model.visual.patch_embed.proj.weight.clone()
    pretrain(model, processor, pictures, seed=0, epochs=12)
    assert report_loss(model, processor, pictures) < before - 1
    assert not torch.equal(model.model.visual.patch_embed.proj.weight, tower)


def test_practice_teaches_letters_without_pictures(processor) -> None:
    model = build_model(processor.tokenizer, seed=0)
    tower = model.model.visual.patch_embed.proj.weight.clone()
    before = letters_loss(model, processor)
    practise(model, processor, [PICTURE, OTHER] * 32, seed=0, batches=25)
    assert letters_loss(model, processor) < before - 1
    assert torch.equal(model.model.visual.patch_embed.proj.weight, tower)


@torch.no_grad()
def letters_loss(model, processor) -> float:
    reporter = Reporter([PICTURE, OTHER], random.Random(5))
    made = [reporter.reading(PICTURE) for _ in range(8)]
    return float(ReportLoss(model, processor)(made, None, None))


@pytest.mark.parametrize("family", TWINS)
def test_the_loss_is_that_of_the_models_own_forward(family: str) -> None:
    """Positions and image tokens are where the model itself puts them, and they get a gradient."""
    torch.manual_seed(0)
    made = make_reports(3)
    processor = build_processor([f"{report.question}\n{report.text}" for report in made], family)
    model = build_model(processor.tokenizer, seed=0, family=family)
    loss = ReportLoss(model, processor)
    values = 3 * 2 * model.config.vision_config.patch_size**2  # of a patch
    pixels, grids = torch.randn(3 * 32, values), torch.tensor([[1, 4, 8]] * 3)
    output = model.model.visual(pixels, grids)
    features = output.pooler_output.view(3, 8, -1)
    features.retain_grad()
    ours = loss(made, features, grids, getattr(output, "deepstack_features", None))
    ours.backward()
    assert all(features.grad[image].abs().sum() > 0 for image in range(3))
    ids, mask, trained = loss._encode(made, image_tokens=8)
    is_image = (ids == model.config.image_token_id).int()
    with torch.no_grad():
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            mm_token_type_ids=is_image,
            pixel_values=pixels,
            image_grid_thw=grids,
        ).logits[:, :-1][trained[:, 1:]]
    labels = ids[:, 1:][trained[:, 1:]]
    values = soft_log_probs(logits, labels, loss.coordinates, loss.targets)
    weights = loss.weights[labels]
    expected = -(weights * values).sum() / weights.sum()
    assert ours.item() == pytest.approx(expected.item(), rel=1e-4)


def test_letters_of_the_answer_count_more(processor) -> None:
    loss = ReportLoss(build_model(processor.tokenizer, seed=0), processor)
    tokens = processor.tokenizer(" is clear (choice B). Reported: A, D.")["input_ids"]
    heavy = [token for token in tokens if loss.weights[token] > 1]
    assert [processor.tokenizer.decode(token) for token in heavy] == [" B", " A", "D"]


@torch.no_grad()
def report_loss(model, processor, pictures: list[Picture]) -> float:
    """The loss of reports that pre-training has not drawn, about these pictures."""
    reporter = Reporter([PICTURE, OTHER], random.Random(5))
    made = [reporter.report(picture, (112, 112)) for picture in pictures]
    pixels, grids = pixel_values(processor, pictures)
    features = model.model.visual(pixels, grids).pooler_output.view(len(pictures), -1, WIDTH)
    return float(ReportLoss(model, processor)(made, features, grids))


def refused(rollouts: Path) -> str:
    """The one line with which the program refuses `rollouts`; nothing is made."""
    command = [sys.executable, "-m", "phantom.tiny", "--data", str(rollouts)]
    command += ["--out", str(rollouts / "model"), "--pictures", str(rollouts / "pictures.parquet")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2, ended.stderr
    (line,) = ended.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert not (rollouts / "model").exists()
    return line


def test_too_few_pictures_are_refused(rollouts: Path) -> None:
    """Only one of the table's pictures is in the rows."""
    assert f"describes 1 of the pictures in {rollouts / 'train.parquet'}" in refused(rollouts)


def test_missing_and_older_tables_are_refused(rollouts: Path) -> None:
    old = pq.read_table(rollouts / "pictures.parquet").drop_columns(["impression"])
    pq.write_table(old, rollouts / "pictures.parquet")
    line = refused(rollouts)
    assert "column impression missing" in line
    assert "phantom.draw" in line
    (rollouts / "train.parquet").unlink()
    assert f"{rollouts / 'train.parquet'}: no such file" in refused(rollouts)


def test_images_that_are_missing_or_differ_in_size_are_named(tmp_path: Path) -> None:
    def picture(name: str, width: int) -> Picture:
        path = tmp_path / name
        if width:
            Image.new("L", (width, 320)).save(path)
        return Picture({"image": str(path), "min_pixels": 3136, "max_pixels": 10**6}, (), {})

    check_images([picture("a.jpg", 320), picture("b.jpg", 321)], 28)
    with pytest.raises(InputError, match=r"c.jpg: becomes 392x308, others 308x308"):
        check_images([picture("a.jpg", 320), picture("c.jpg", 400)], 28)
    with pytest.raises(InputError, match=r"d.jpg: this picture cannot be read"):
        check_images([picture("d.jpg", 0)], 28)


def test_pictures_are_those_of_the_rollouts(rollouts: Path) -> None:
    (picture,) = training_pictures(rollouts / "pictures.parquet", rollouts / "train.parquet")
    assert picture.image["image"] == "a.jpg"
    assert picture.seen == {"spine": "is normal"}
    assert picture.regions == {"spine": (0.4, 0.0, 0.6, 1.0), "left lung": (0.5, 0.0, 1.0, 1.0)}


@pytest.fixture
def rollouts(tmp_path: Path) -> Path:
    """One rollout row, and a table that knows its picture and another one."""
    row = {"images": [{"image": "a.jpg"}], "extra_info": {"image_path": "/a.jpg"}}
    pq.write_table(pa.Table.from_pylist([row, row]), tmp_path / "train.parquet")
    answer = "<ref>spine</ref><box>[1, 2, 3, 4]</box>"
    messages = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": answer}]
    table = pa.Table.from_pylist([{"messages": messages}])
    metadata = encode_metadata({"model_family": "qwen2_5_vl"})
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "sft_train.parquet")
    known = {
        "impression": "Impression: no abnormality.",
        "findings": [{"name": "none", "region": "spine"}],
        "regions": [
            {"name": "spine", "box": [0.4, 0.0, 0.6, 1.0], "seen": "is normal"},
            {"name": "left lung", "box": [0.5, 0.0, 1.0, 1.0], "seen": None},
        ],
    }
    rows = [{"image_path": path, **known} for path in ("/a.jpg", "/b.jpg")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pictures.parquet")
    return tmp_path
