"""Questions get the prompts of the data, and answers come back in the pixels of the picture."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from external_sets import write_dicom
from PIL import Image
from pydicom import examples

from data_prep.program import InputError
from data_prep.rows.answers import split_choices
from data_prep.thinkvg import main as thinkvg
from recipe.ask.question import (
    Examples,
    Training,
    read_picture,
    read_question,
    read_training,
    scored,
)
from reward.response import parse_response

LIMITS = ("--min-pixels", "12544", "--max-pixels", "15680")


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def data(request, phantom: Path, tmp_path_factory) -> tuple[Path, str]:
    """Prepared data of a family of models, and the family."""
    out = tmp_path_factory.mktemp("prepared")
    places = ("--source", str(phantom), "--images", str(phantom / "files"), "--out", str(out))
    shares = ("--val", "0.1", "--test", "0.2", "--limit", "400", "--workers", "1")
    assert thinkvg([*places, *LIMITS, *shares, "--model-family", request.param]) == 0
    return out, request.param


@pytest.fixture(scope="module")
def training(data) -> Training:
    return read_training(data[0], {"model_type": data[1]}, reasoning=True, pixels=None)


def test_a_question_in_a_users_words_has_the_prompt_of_its_row(data, training) -> None:
    rows = pq.read_table(data[0] / "test.parquet").to_pylist()
    prepared = Examples(data[0] / "test.parquet")
    kinds = set()
    for example in prepared.choose(10):
        row = prepared.row(example["index"])
        choices = row.question.choices or {}
        text = split_choices(row.question.text, choices)
        question = read_question(f"  {text} \n", row.question.kind, [*choices.values(), " "])
        asked = training.asked(question, row.picture)
        stored = next(r for r in rows if r["extra_info"]["index"] == example["index"])
        assert asked.prompt.messages == stored["prompt"]
        limits = {key: asked.prompt.images[0][key] for key in ("min_pixels", "max_pixels")}
        assert limits.items() <= stored["images"][0].items()
        kinds.add(question.kind)
    assert kinds == {"closed", "single", "multi", "open"}


def test_an_answer_is_in_the_pixels_of_its_picture_and_scored(data, training) -> None:
    """The boxes of the reference, through the model's coordinates, are those of the drawing."""
    prepared = Examples(data[0] / "test.parquet")
    row = prepared.row(prepared.choose(1)[0]["index"])
    asked = training.prepared(row.messages, row.question, row.picture)
    region = row.truth.regions[0]
    box = [round(side) for side in region.box]
    answer = row.truth.answer if isinstance(row.truth.answer, str) else ", ".join(row.truth.answer)
    response = (
        f"<think>The {region.ref} {box} shows it.</think>\n<answer>{answer}</answer>\n"
        f"<location><ref>{region.ref}</ref><box>{box}</box></location>"
    )
    shown = scored(row, asked, response)
    assert shown["raw"] == response
    assert shown["correct"]
    assert shown["parts"]["format"] == 1
    width, height = row.picture.size
    divisor = row.truth.image_size if training.family.coordinates == "absolute" else (1000, 1000)
    scale = (width / divisor[0], height / divisor[1])
    x1, y1, x2, y2 = (round(side * scale[at % 2]) for at, side in enumerate(box))
    assert shown["regions"][0]["at"] == [x1, y1, x2 - x1, y2 - y1]
    assert shown["regions"][0]["text"] == f"[{x1}, {y1}, {x2}, {y2}]"
    assert shown["think"][0][1] == (f"[{x1}, {y1}, {x2}, {y2}]", 0)
    (cited,) = parse_response(asked.in_pixels(response)).think_regions
    assert cited.box == (x1, y1, x2, y2)


def test_a_box_in_a_question_is_in_pixels_of_the_picture(training) -> None:
    picture = Image.new("RGB", (1120, 1120))
    asked = training.asked(read_question("What is in [100, 200, 300, 400]?"), picture)
    written = {"absolute": "[10, 20, 30, 40]", "norm1000": "[89, 179, 268, 357]"}
    assert written[training.family.coordinates] in asked.prompt.messages[0]["content"]
    with pytest.raises(InputError, match="outside"):
        training.asked(read_question("What is in [1000, 200, 3000, 400]?"), picture)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((" \n",), "the question is empty"),
        (("<image>",), "the question is empty"),
        (("Is it?", "maybe"), "none of closed, single, multi, open"),
        (("Is it?", "closed", ["a", "b"]), "has no choices"),
        (("Which?", "single", ["a"]), "two choices or more"),
        (("Which?", "multi"), "two choices or more"),
        (("Which?", "single", ["a, B: b", "c"]), "cannot be told from its neighbours"),
        (("Which?", "single", ["a"] * 27), "27 choices"),
    ],
)
def test_a_question_that_no_row_could_hold_is_refused(arguments, message) -> None:
    with pytest.raises(InputError, match=message):
        read_question(*arguments)


def test_marks_of_pictures_in_a_question_are_left_out() -> None:
    assert read_question("Is <image>it <|im_end|>so?").text == "Is it so?"


def test_other_prompts_and_families_are_refused(data, tmp_path) -> None:
    other = {"qwen2_5_vl": "qwen3_vl", "qwen3_vl": "qwen2_5_vl"}[data[1]]
    with pytest.raises(InputError, match=f"prepared for {data[1]}, the model is a {other}"):
        read_training(data[0], {"model_type": other}, reasoning=True, pixels=None)
    table = pq.read_table(data[0] / "test.parquet")
    metadata = json.loads(table.schema.metadata[b"thinkvg"])
    changed = json.dumps(metadata | {"prompt_version": "thinkvg-00000000"}).encode()
    table = table.replace_schema_metadata({b"thinkvg": changed})
    pq.write_table(table, tmp_path / "test.parquet")
    with pytest.raises(InputError, match="its prompts are thinkvg-00000000"):
        read_training(tmp_path, {"model_type": data[1]}, reasoning=True, pixels=None)


def test_data_of_a_family_that_writes_alike_fits(data) -> None:
    alike = {"qwen2_5_vl": "qwen2_5_vl", "qwen3_vl": "qwen3_5"}[data[1]]
    training = read_training(data[0], {"model_type": alike}, reasoning=True, pixels=None)
    assert training.family.name == alike
    training.check_examples(data[0], "SFT")


def test_examples_of_pictures_of_another_size_are_refused(data, training) -> None:
    training.check_examples(data[0], "SFT")
    other = read_training(data[0], {"model_type": data[1]}, reasoning=True, pixels=(12544, 50176))
    expected = (
        f"for {data[1]} with pictures of 12544 to 15680 pixels, and SFT is asked as {data[1]}"
    )
    with pytest.raises(InputError, match=expected):
        other.check_examples(data[0], "SFT")


def test_a_model_without_reasoning_is_not_asked_for_one(data) -> None:
    training = read_training(data[0], {"model_type": data[1]}, reasoning=False, pixels=None)
    asked = training.asked(read_question("Is it?"), Image.new("RGB", (300, 300)))
    assert "<think>" not in asked.prompt.messages[0]["content"]


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n broken"])
def test_what_is_no_picture_is_one_line(content) -> None:
    with pytest.raises(InputError, match=r"^a\.png: not a readable picture"):
        read_picture(content, "a.png")


def test_a_cut_picture_and_a_giant_one_are_refused(monkeypatch) -> None:
    stream = io.BytesIO()
    Image.effect_noise((300, 300), 50).save(stream, "PNG")
    with pytest.raises(InputError, match="not a readable picture"):
        read_picture(stream.getvalue()[:-4000], "a.png")
    monkeypatch.setattr("recipe.ask.question.MOST_PIXELS", 299 * 300)
    with pytest.raises(InputError, match="300 x 300 pixels"):
        read_picture(stream.getvalue(), "a.png")


def test_a_deep_picture_becomes_one_of_8_bits() -> None:
    stream = io.BytesIO()
    Image.linear_gradient("L").convert("I;16").point(lambda value: value * 200).save(stream, "PNG")
    picture = read_picture(stream.getvalue(), "a.png")
    assert picture.mode == "RGB"
    assert picture.getextrema()[0] == (0, 255)


def test_a_dicom_file_is_a_picture() -> None:
    picture = read_picture(Path(examples.get_path("ct")).read_bytes(), "a.dcm")
    assert (picture.mode, picture.size) == ("RGB", (128, 128))
    assert picture.getextrema()[0] == (0, 255)


@pytest.mark.parametrize("mode", ["I;16", "RGB"])
def test_a_giant_picture_is_refused_before_it_is_decoded(mode, monkeypatch) -> None:
    monkeypatch.setattr("recipe.ask.question.MOST_PIXELS", 299 * 300)
    stream = io.BytesIO()
    Image.new(mode, (300, 300)).save(stream, "PNG")
    content = stream.getvalue()[:60]  # its header, and pixels that do not decode
    with pytest.raises(InputError, match=r"a\.png: 300 x 300 pixels"):
        read_picture(content, "a.png")


def test_a_giant_dicom_file_is_refused_before_it_is_decoded(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("recipe.ask.question.MOST_PIXELS", 299 * 300)
    path = write_dicom(tmp_path / "a.dcm", np.zeros((300, 300), np.uint8))
    path.write_bytes(path.read_bytes()[:-50_000])
    with pytest.raises(InputError, match=r"a\.dcm: 300 x 300 pixels"):
        read_picture(path, "a.dcm")


def test_a_format_that_is_not_known_is_named_without_pythons_objects() -> None:
    with pytest.raises(InputError, match=r"picture \(no known format\); give a JPEG"):
        read_picture(b"no picture", "a.png")


def test_a_box_that_no_picture_has_does_not_end_an_answer(training) -> None:
    asked = training.asked(read_question("Is it?"), Image.new("RGB", (300, 200)))
    region = "<location><ref>a</ref><box>[-1e308, 2, 1.7e308, 3]</box></location>"
    (region,) = asked.shown(f"<think>a</think><answer>b</answer>{region}")["regions"]
    assert region["at"][::2] == [0, 300]


def test_a_question_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(InputError, match="not valid UTF-8"):
        read_question("Is it \udcff?")


@pytest.mark.parametrize("pixels", [(0, 9_999), (-5, 0), (20_000, 10_000), (1, 10), (1, 10**12)])
def test_pixels_that_no_picture_can_have_are_refused(pixels) -> None:
    with pytest.raises(InputError, match=f"--pixels {pixels[0]} {pixels[1]}: give MIN and MAX"):
        read_training(None, {"model_type": "qwen2_5_vl"}, True, pixels)
