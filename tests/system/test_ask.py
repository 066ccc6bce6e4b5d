"""The page of `recipe.ask` in a real browser, before two models in real engines.

With `THINKVG_ASK_DEMO=FOLDER` of a demo, the models are the demo's and the picture of the page in
docs/ask.png is made anew: `THINKVG_ASK_DEMO=outputs/demo pytest tests/system/test_ask.py`.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from benchmarks.report import open_chromium
from reward.ground_truth import GroundTruth
from reward.response import render_response

ROOT = Path(__file__).parents[2]
DEMO = os.environ.get("THINKVG_ASK_DEMO")
STEPS = 120
LAST_SENTENCE = (
    "The heart, both lungs, the ribs and the spine were looked at one after the other, and nothing "
    "else in this picture is of a kind that a careful reader would have to name or point out."
)
"""Ends a reasoning; it takes longer to write than the page waits between two parts."""
ANSWER_MS, END_S = 60_000, 60
expect.set_options(timeout=ANSWER_MS)
MODEL_1 = (92, 188, 242)
"""The colour of the first model's boxes, --model-1 of style.css."""


def reference(row: dict[str, Any]) -> str:
    """The right response to a row, which cites each region in a sentence."""
    truth = GroundTruth.parse(row["reward_model"]["ground_truth"])
    cited = [f"The {ref} {[round(side) for side in box]} shows it." for ref, box in truth.regions]
    answer = truth.answer if isinstance(truth.answer, str) else ", ".join(truth.answer)
    return render_response(" ".join([*cited, LAST_SENTENCE]), answer, truth.regions)


def teach(rows: list[dict[str, Any]], folder: Path) -> None:
    """Save the demo's base model after it has learned the responses to some rows by heart."""
    import torch
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    from recipe.data.prompts import prompt_text
    from recipe.evaluate.generation import load_image, read_prompts

    base = ROOT / "phantom" / "tiny_base"
    processor = AutoProcessor.from_pretrained(base)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    batches = []
    for row in rows:
        prompt = next(p for p in read_prompts(row["file"]) if p.index == row["extra_info"]["index"])
        text = prompt_text(prompt.messages, processor)
        whole = f"{text}{reference(row)}{processor.tokenizer.eos_token}"
        image = load_image(prompt, 14)
        batch = processor(text=[whole], images=[image], return_tensors="pt")
        start = processor(text=[text], images=[image], return_tensors="pt")["input_ids"].shape[1]
        labels = batch["input_ids"].clone()
        labels[:, :start] = -100
        batches.append({**batch, "labels": labels})
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(STEPS):
        losses = [model(**batch).loss for batch in batches]
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if loss.item() < 0.01:
            break
    print(f"loss {loss.item():.4f}")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


@pytest.fixture(scope="module")
def data(request: pytest.FixtureRequest) -> Path:
    folder: Path = Path(DEMO) / "data" if DEMO else request.getfixturevalue("workspace") / "data"
    return folder


@pytest.fixture(scope="module")
def rows(data: Path) -> list[dict[str, Any]]:
    """A row of each question type, one with two regions first."""
    first: dict[str, dict[str, Any]] = {}
    for row in pq.read_table(data / "test.parquet").to_pylist():
        truth = json.loads(row["reward_model"]["ground_truth"])
        boxes = [tuple(region["box"]) for region in truth["regions"]]
        kind = truth["question_type"]
        if boxes and (kind not in first or (kind == "multi" and len(boxes) == 2)):
            first[kind] = row | {"file": data / "test.parquet", "truth": truth}
    return [first.pop("multi"), *first.values()]


@pytest.fixture(scope="module")
def models(
    request: pytest.FixtureRequest, rows: list[dict[str, Any]], tmp_path_factory: Any
) -> list[str]:
    """Two models as the command line names them: one that answers well, and another."""
    if DEMO:
        return [f"SFT={DEMO}/sft", f"SFT + GRPO={DEMO}/grpo"]
    folder = tmp_path_factory.mktemp("models")
    teach(rows, folder / "taught")
    shutil.copytree(request.getfixturevalue("workspace") / "model", folder / "random")
    return [f"taught={folder / 'taught'}", f"random={folder / 'random'}"]


@pytest.fixture(scope="module")
def server(
    models: list[str], data: Path, tmp_path_factory: Any
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Address of the page with its key, and the program; nothing of it is left afterwards."""
    log = tmp_path_factory.mktemp("log")
    command = [sys.executable, "-m", "recipe.ask", *models, "--data", str(data), "--page"]
    command += ["--port", "0", "--log", str(log), "--cluster", "cpu"]
    command += ["--set", "data.max_response_length=320"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as program:
        try:
            yield address_of(program, log), program
            family = psutil.Process(program.pid).children(recursive=True)
            assert family
            program.send_signal(signal.SIGINT)
            assert program.wait(END_S) == 130
            assert program.stdout is not None
            assert program.stdout.read() == "stopped\n"
            _, alive = psutil.wait_procs(family, timeout=END_S)
            assert not alive
        finally:
            program.kill()


def address_of(program: subprocess.Popen[str], log: Path) -> str:
    """The address that the program prints when its models are loaded."""
    assert program.stdout is not None
    lines = []
    for line in program.stdout:
        lines.append(line)
        if match := re.match(r"open (http://127\.0\.0\.1:\d+/#key=\S+) ", line):
            return match[1]
    pytest.fail("".join(lines) + (log / "log.txt").read_text()[-5000:])


class Browser:
    """A browser before the page: what it complained of, and what it asked for."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.set_default_timeout(ANSWER_MS)
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        self.open()

    def open(self) -> None:
        self.page.goto("about:blank")
        self.page.goto(self.address, wait_until="load")
        # Not by a function of the page's: its policy forbids `eval`, with which Playwright waits.
        self.page.locator(".ask optgroup").first.wait_for(state="attached")

    def field(self, name: str) -> Any:
        return self.page.locator(f".ask [name={name}]")

    def choose(self, row: dict[str, Any]) -> None:
        """Choose a prepared question."""
        option = str(row["extra_info"]["index"])
        self.field("question").fill("")
        self.field("example").evaluate(
            "(select, value) => { select.append(new Option(value, value)); select.value = value;"
            " select.dispatchEvent(new Event('change')); }",
            option,
        )
        expect(self.field("question")).not_to_have_value("")

    def upload(self, file: Path) -> None:
        self.field("file").set_input_files(file)
        expect(self.page.locator(".status")).to_contain_text(f"{file.name}, ")

    def ask(self) -> str:
        """Press the button, and wait for all answers; return the line about them."""
        self.page.get_by_role("button", name="Ask").click()
        status = self.page.locator(".status")
        count = self.page.locator(".responses > .response").count()
        expect(status).to_have_text(re.compile(f"(all after.*){{{count}}}"))
        return str(status.text_content())

    def pixels(self, file: Path) -> np.ndarray:
        self.page.screenshot(path=file)
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"), dtype=np.int16)

    def on_screen(self, box: list[float]) -> list[float]:
        """A box in pixels of the picture, as pixels of the screen."""
        rectangle = self.page.locator(".case .picture").bounding_box()
        assert rectangle is not None
        size = self.size()
        scale = rectangle["width"] / size[0], rectangle["height"] / size[1]
        corners = rectangle["x"], rectangle["y"]
        return [side * scale[at % 2] + corners[at % 2] for at, side in enumerate(box)]

    def size(self) -> list[float]:
        view = self.page.locator(".case .picture").get_attribute("viewBox")
        assert view is not None
        return [float(side) for side in view.split()[2:]]


@pytest.fixture(scope="module")
def first_browser(server: tuple[str, Any], chromium: str) -> Iterator[Browser]:
    with open_chromium() as page:
        yield Browser(page, server[0])


@pytest.fixture
def browser(first_browser: Browser) -> Iterator[Browser]:
    """The page, newly opened; the console stays silent, and only this machine is asked."""
    first_browser.open()
    yield first_browser
    assert first_browser.complaints == []
    page_address = first_browser.address.partition("#")[0]
    for address in first_browser.requests:
        assert address.startswith((page_address, "data:", "about:")), address


def test_boxes_are_where_the_text_says(
    browser: Browser, rows: list[dict[str, Any]], is_colour: Any, on_edges: Any, tmp_path: Path
) -> None:
    page = browser.page
    browser.choose(rows[0])
    # What the page shows at each change: the boxes, and whether there is an answer.
    page.evaluate(
        """() => { window.seen = []; new MutationObserver(() => seen.push([
        document.querySelectorAll('.picture .box.model-1').length,
        document.querySelector('[data-model=model-1] .answer')?.lastChild.textContent ?? '',
        ])).observe(document.querySelector('.case'), { childList: true, subtree: true }); }"""
    )
    status = browser.ask()
    assert re.search(r"first word after \d+\.\d+ s", status)
    page.mouse.move(1, 1)
    response = page.locator("[data-model=model-1]")
    if not DEMO:
        expect(response.locator(".mark")).to_have_text("✓ right")
        early = page.evaluate("seen.filter(([boxes, answer]) => boxes && answer === '…').length")
        assert early, "no box was there before the answer"
    assert page.evaluate("seen.length") > 3
    assert response.locator(".parts tr").count() > 5
    regions = response.locator(".region")
    assert regions.count() == (2 if not DEMO else regions.count())
    # Other boxes may lie over those of the answer.
    for layer in page.locator(".legend button").all():
        if layer.get_attribute("data-layer") != "model-1":
            layer.click()
    for number in range(regions.count()):
        text = regions.nth(number).locator("small").first.text_content() or ""
        box = json.loads(text)
        assert box[2] <= browser.size()[0]
        regions.nth(number).hover()  # it lights its box: a whole line, and others are dim
        expect(page.locator(".picture .box.lit")).to_have_count(1)
        time.sleep(0.3)  # its line has a transition
        mask = is_colour(browser.pixels(tmp_path / "page.png"), MODEL_1)
        for shift, is_there in ((0.0, True), (0.06, False)):
            moved = [side + shift * browser.size()[at % 2] for at, side in enumerate(box)]
            shares = on_edges(mask, browser.on_screen(moved), 4)
            assert (min(shares) > 0.9) == is_there, (box, shift, shares)
    page.keyboard.press("b")  # all boxes again
    cited = response.locator(".sentence.link").first
    inside = json.loads(re.findall(r"\[[^]]+\]", cited.text_content() or "")[0])
    cited.hover()
    lit = page.locator(".box.lit rect.line").first
    sides = [float(lit.get_attribute(name) or 0) for name in ("x", "y", "width", "height")]
    assert sides == [inside[0], inside[1], inside[2] - inside[0], inside[3] - inside[1]]
    if DEMO:
        save_picture(page, tmp_path)


def save_picture(page: Page, folder: Path) -> None:
    """Write docs/ask.png: the page with a sentence that is pointed at."""
    page.set_viewport_size({"width": 1440, "height": 1060})
    page.locator(".detail").evaluate("(detail) => detail.scrollTo(0, 0)")
    page.locator("[data-model=model-2] .sentence.link").first.hover()
    time.sleep(0.3)
    page.screenshot(path=folder / "ask.png")
    page.set_viewport_size({"width": 1440, "height": 900})
    with Image.open(folder / "ask.png") as shot:
        small = shot.convert("RGB").resize((1080, 795), Image.Resampling.LANCZOS)
        colours = small.quantize(256, Image.Quantize.FASTOCTREE)
        colours.save(ROOT / "docs" / "ask.png", optimize=True)


def test_the_answer_is_that_of_the_evaluation(browser: Browser, rows: list[dict[str, Any]]) -> None:
    """The model has learned its rows by heart: only their own prompts bring the answers back."""
    if DEMO:
        pytest.skip("the demo's models have learned nothing by heart")
    for row in rows[1:]:
        browser.choose(row)
        browser.ask()
        raw = browser.page.locator("[data-model=model-1] pre").text_content()
        assert raw == reference(row)


def test_an_uploaded_picture_and_words_of_ones_own(
    browser: Browser, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    """The page's own way to a prompt: the same picture and question have the same answer."""
    row, page = rows[0], browser.page
    browser.choose(row)
    form = {name: browser.field(name).input_value() for name in ("question", "choices")}
    browser.ask()
    known = page.locator("[data-model=model-1] pre").text_content()
    browser.open()
    file = tmp_path / "picture.jpg"
    shutil.copy(row["images"][0]["image"], file)
    browser.upload(file)
    page.get_by_label("Type of the question").select_option("multi")
    page.get_by_role("textbox", name="Question").fill(form["question"])
    page.get_by_label("Choices, one a line").fill(form["choices"])
    browser.ask()
    assert page.locator("[data-model=model-1] pre").text_content() == known
    assert page.locator(".mark, .reference, .parts").count() == 0  # nothing is known of it
    assert page.get_by_role("button", name="reference", exact=True).count() == 0
    assert page.locator(".responses > .response").count() == 2


def test_faults_are_one_message(browser: Browser, tmp_path: Path) -> None:
    page, alert = browser.page, browser.page.get_by_role("alert")
    page.get_by_role("button", name="Ask").click()
    expect(alert).to_have_text("choose a picture first")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    browser.field("file").set_input_files(broken)
    expect(alert).to_have_text(re.compile(r"^broken\.png: not a readable picture"))
    # It is not what the next question would be about.
    expect(browser.field("file")).to_have_value("")
    whole = tmp_path / "whole.png"
    Image.effect_noise((640, 480), 40).save(whole)
    browser.upload(whole)
    expect(alert).to_be_empty()
    page.get_by_role("button", name="Ask").click()
    expect(alert).to_have_text(re.compile("^the question is empty"))
    browser.field("question").fill("Is there an opacity? " * 500)
    page.get_by_role("button", name="Ask").click()
    expect(alert).to_have_text(re.compile(r"the question has \d{4} tokens .*: shorten it"))


def test_two_browsers_are_answered_at_once_and_one_can_stop(
    browser: Browser, server: tuple[str, Any], rows: list[dict[str, Any]]
) -> None:
    context = browser.page.context.browser
    assert context is not None
    other = Browser(context.new_page(), server[0])
    for each, row in zip((browser, other), rows, strict=False):
        each.choose(row)
    browser.page.get_by_role("button", name="Ask").click()
    other.ask()
    expect(browser.page.locator(".status")).to_have_text(re.compile("(all after.*){2}"))
    for each, row in zip((browser, other), rows, strict=False):
        shown = each.page.locator(".question").text_content()
        assert row["extra_info"]["question"].startswith(str(shown))
    browser.page.get_by_role("button", name="Ask").click()
    browser.page.get_by_role("button", name="Ask").click()  # in place of the first
    browser.page.get_by_role("button", name="Stop").click()
    expect(browser.page.locator(".status")).to_have_text("stopped")
    assert other.complaints == []
    other.page.close()
    browser.ask()


def test_the_keyboard_a_narrow_window_and_the_dark(
    browser: Browser, rows: list[dict[str, Any]]
) -> None:
    page = browser.page
    browser.choose(rows[0])
    browser.field("question").focus()
    page.keyboard.press("Control+Enter")
    expect(page.locator(".status")).to_have_text(re.compile("(all after.*){2}"))
    page.locator("[data-model=model-1] .region").last.focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.matches('.sentence.lit')")
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.get_by_role("button", name="Dark or light").click()
    assert page.evaluate(colour) != light
    for width in (1440, 760, 360):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.set_viewport_size({"width": 1440, "height": 900})


def test_another_page_cannot_ask(browser: Browser) -> None:
    """A page of another origin in the same browser gets nothing, even with the key."""
    address, _, key = browser.address.partition("#key=")
    context = browser.page.context.browser
    assert context is not None
    page = context.new_page()
    page.route("http://evil.example/", lambda route: route.fulfill(body="<p>evil</p>"))
    page.goto("http://evil.example/")
    script = """async ([address, key]) => { try {
        const reply = await fetch(address, { headers: { 'X-Key': key } });
        return await reply.text(); } catch (error) { return 'refused'; } }"""
    assert page.evaluate(script, [f"{address}examples", key]) == "refused"
    # A request without a preflight, which a browser sends before it asks: refused for its origin.
    plain = """async (address) => { try {
        return (await fetch(address, { method: 'POST', mode: 'no-cors', body: '{}' })).status;
        } catch (error) { return 0; } }"""
    assert page.evaluate(plain, f"{address}ask") == 0
    page.close()


def test_one_question_on_the_console(judge_server: Any, tmp_path: Path) -> None:
    """A server in place of an engine: the answer, and the picture with its box."""
    judge_server.control(
        text="<think>The left lung [56, 28, 84, 112] shows it.</think>\n<answer>Yes</answer>\n"
        "<location><ref>left lung</ref><box>[56, 28, 84, 112]</box></location>"
    )
    Image.new("RGB", (1120, 1120)).save(tmp_path / "picture.png")
    command = [sys.executable, "-m", "recipe.ask", "--server", judge_server.url]
    command += ["--family", "qwen2_5_vl", "--pixels", "12544", "15680", "--cluster", "cpu"]
    command += ["--set", "server.compare=false", "--log", str(tmp_path / "log")]
    command += ["--image", str(tmp_path / "picture.png"), "--question", "Is it?"]
    command += ["--out", str(tmp_path / "out.png")]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    lines = finished.stdout.splitlines()
    start = lines.index("reasoning")
    assert lines[start:] == [
        "reasoning",
        "  The left lung [560, 280, 840, 1120] shows it.",
        "answer",
        "  Yes",
        "places, in pixels of 1120 x 1120",
        "  left lung [560, 280, 840, 1120]",
        str(tmp_path / "out.png"),
    ]
    with Image.open(tmp_path / "out.png") as drawn:
        assert drawn.convert("RGB").getpixel((562, 700)) == MODEL_1


def test_an_engine_that_has_ended_is_one_message(
    browser: Browser, server: tuple[str, subprocess.Popen[str]], rows: list[dict[str, Any]]
) -> None:
    """The last test: the other model still answers, and the program ends as it should."""
    processes = psutil.Process(server[1].pid).children(recursive=True)
    engine = next(each for each in processes if "EngineCore" in " ".join(each.cmdline()))
    engine.kill()
    browser.choose(rows[0])
    browser.page.get_by_role("button", name="Ask").click()
    expect(browser.page.get_by_role("alert")).to_have_text(
        re.compile(r"^(taught|random|SFT.*): vLLM's process has ended .*: start the program again$")
    )
    expect(browser.page.locator(".status")).to_have_text(re.compile("all after"))
