"""The command line: faults that are known before a model is loaded, and the picture with boxes."""

import base64
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_prep.program import InputError
from recipe.ask.__main__ import COLOURS, _draw, _parser, main
from recipe.ask.models import check_memory, load, read_choices
from recipe.ask.question import read_question

BASE = Path(__file__).parents[3] / "phantom" / "tiny_base"
IMAGE = ("--image", "PICTURE")
QUESTION = ("--question", "Is it?", "--cluster", "cpu")


def image_of(body: dict[str, Any]) -> Image.Image | None:
    """The picture of a request, if it has one."""
    parts = body["messages"][-1]["content"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    content = io.BytesIO(base64.b64decode(urls[0].partition(",")[2])) if urls else None
    return Image.open(content) if content else None


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.new("RGB", (640, 480)).save(path)
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([str(BASE)], "give --image FILE and --question TEXT, or --page"),
        ([str(BASE), "--page", *QUESTION], "picture and question are given on the page"),
        ([str(BASE), "--image", "none.png", *QUESTION], "none.png: no such file"),
        ([*QUESTION, *IMAGE], "give one or 2 models"),
        (["/nowhere", *QUESTION, *IMAGE], "/nowhere: no such folder"),
        (["EMPTY", *QUESTION, *IMAGE], "no model in it"),
        ([str(BASE)] * 3 + [*QUESTION, *IMAGE], "give one or 2 models"),
        (
            [f"A={BASE}", f"A={BASE}", *QUESTION, *IMAGE],
            "two models are called A",
        ),
        ([str(BASE), *QUESTION, *IMAGE, "--out", "a.txt"], "not a name of a picture"),
        ([str(BASE), *QUESTION, *IMAGE, "--out", "FOLDER"], "is a folder: name a file"),
        ([str(BASE), *QUESTION, *IMAGE, "--data", "EMPTY"], "no test.parquet in it"),
        ([str(BASE), *QUESTION, *IMAGE, "--set", "no.key=1"], "no.key"),
        (
            ["--server", "http://127.0.0.1:9/v1", *QUESTION, *IMAGE],
            "give --data DIR",
        ),
        (
            [*("--server", "http://example.com/v1", "--family", "qwen2_5_vl", *QUESTION), *IMAGE],
            "example.com is not this machine",
        ),
    ],
)
def test_a_fault_is_one_line_before_a_model_is_loaded(
    arguments, message, picture, tmp_path, capsys
) -> None:
    for name in ("empty", "folder.png"):
        (tmp_path / name).mkdir()
    names = {"PICTURE": str(picture), "EMPTY": str(tmp_path / "empty")}
    names["FOLDER"] = str(tmp_path / "folder.png")
    with pytest.raises(SystemExit) as ended:
        main([names.get(each, each) for each in arguments])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize("name", ["modèle [x]", "it's", 'a "model"', "a,b {c}", "lr=0.1"])
def test_the_name_of_a_models_folder_may_have_any_letters(tmp_path, monkeypatch, name) -> None:
    shutil.copytree(BASE, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (name, str(tmp_path / name)):
        (choice,) = read_choices(_parser().parse_args([path, "--cluster", "cpu"]))
        assert choice.config.model.path == path


def test_a_checkpoint_names_its_data_and_form(phantom, tmp_path, capsys) -> None:
    """The run that wrote a checkpoint says which data it read, and whether it reasoned."""
    checkpoint = tmp_path / "run" / "checkpoints" / "global_step_4" / "huggingface"
    shutil.copytree(BASE, checkpoint)
    hydra = tmp_path / "run" / ".hydra"
    hydra.mkdir()
    # Relative to the folder where the training was started, which is not this one.
    hydra.joinpath("config.yaml").write_text("data: {dir: data, reasoning: false}\n")
    from data_prep.thinkvg import main as thinkvg

    places = ("--source", str(phantom), "--images", str(phantom / "files"))
    limits = ("--min-pixels", "12544", "--max-pixels", "15680", "--limit", "60", "--workers", "1")
    assert thinkvg([*places, *limits, "--out", str(tmp_path / "data")]) == 0
    options = _parser().parse_args([f"SFT={tmp_path / 'run'}", "--cluster", "cpu", "--page"])
    read_choices(options)
    assert "the data of its training, data, is not there" in capsys.readouterr().out
    file = tmp_path / "data" / "sft_train.parquet"
    (tmp_path / "run" / "run.json").write_text(json.dumps({"data.train_files": str(file)}))
    (choice,) = read_choices(options)
    assert not capsys.readouterr().out
    assert choice.title == "SFT"
    assert not choice.training.reasoning
    assert (choice.training.min_pixels, choice.training.max_pixels) == (12544, 15680)


async def test_a_server_is_compared_and_asked(judge_server, picture, tmp_path, monkeypatch) -> None:
    for function in ("console.begin", "set_environment"):
        monkeypatch.setattr(f"recipe.ask.models.{function}", lambda _: None)
    judge_server.control(text="<answer>Yes</answer>")
    limits = ("--family", "qwen2_5_vl", "--pixels", "12544", "50176")
    arguments = ["--server", judge_server.url, *limits, "--cluster", "cpu", "--log", str(tmp_path)]
    options = _parser().parse_args(arguments)
    # It counts 100 tokens for any prompt, 2 of which would mark a picture.
    with pytest.raises(InputError, match="as -2 tokens, but the boxes are written for 16"):
        await load(options, read_choices(options))
    sizes = {
        image_of(body).size for body in judge_server.seen()["bodies"] if image_of(body) is not None
    }
    assert sizes == {(112, 112), (224, 224)}

    options = _parser().parse_args([*arguments, "--set", "server.compare=false"])
    (named,) = await load(options, read_choices(options))
    asked = named.training.asked(read_question("Is it?"), Image.open(picture).convert("RGB"))
    *_, response = [text async for text in named.model.stream(asked.prompt, 0.0)]
    assert response == "<answer>Yes</answer>"


def test_models_that_memory_cannot_hold_are_refused(monkeypatch, tmp_path) -> None:
    shutil.copytree(BASE, tmp_path / "other")
    both = [str(BASE), str(tmp_path / "other"), "--pixels", "12544", "15680", "--cluster", "cpu"]
    choices = read_choices(_parser().parse_args(both))
    assert [choice.title for choice in choices] == ["tiny_base", "other"]
    size = (BASE / "model.safetensors").stat().st_size
    for free, models in ((2 * size, choices), (size, choices[:1])):
        memory = SimpleNamespace(available=free)
        monkeypatch.setattr("recipe.ask.models.psutil.virtual_memory", lambda m=memory: m)
        check_memory(models)
    with pytest.raises(InputError, match=r"the weights take 0\.0 and 0\.0 GB in float32"):
        check_memory(choices)


def test_the_picture_has_the_boxes_of_the_answer(tmp_path, picture, on_edges, is_colour) -> None:
    options = _parser().parse_args([str(BASE), "--cluster", "cpu", "--pixels", "12544", "15680"])
    choices = read_choices(options)
    opened = Image.open(picture).convert("RGB")
    asked = [each.training.asked(read_question("Is it?"), opened) for each in choices]
    (width, height), boxes = asked[0].model_boxes.size, [[14, 28, 56, 84]]
    response = f"<think>a {boxes[0]}</think><answer>Yes</answer><location>{boxes[0]}</location>"
    _draw(tmp_path / "out.png", opened, choices, asked, [response])
    pixels = np.asarray(Image.open(tmp_path / "out.png").convert("RGB"), dtype=np.int16)
    assert pixels.shape == (480, 640, 3)
    scale = (640 / width, 480 / height) * 2
    box = [side * by for side, by in zip(boxes[0], scale, strict=True)]
    colour = [int(COLOURS[0][at : at + 2], 16) for at in (1, 3, 5)]
    assert min(on_edges(is_colour(pixels, colour), box, 2)) > 0.95
    assert not list(tmp_path.glob("*.part"))
