"""The report as a browser shows it, with a real mouse and real keys."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.report import make_run, open_chromium
from recipe.evaluate.metrics import answer_correct
from recipe.evaluate.predictions import read_predictions
from recipe.report.__main__ import main
from reward.ground_truth import GroundTruth

CASES = 24
TRUTH = (245, 230, 99)
LAYERS = "[...document.querySelectorAll('.legend button')].map((each) => each.dataset.layer)"


class Browser:
    """A page that is painted anew after each action, and what it has complained of and asked for.

    Attributes:
        complaints: warnings and errors of the console, and uncaught exceptions.
        requests: addresses requested since the start, without `data:` ones.
    """

    def __init__(self, page):
        self.page = page
        self.evaluate = page.evaluate
        self.complaints, self.requests = [], []
        page.on("console", self.note_message)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self.note_request)

    def note_message(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def note_request(self, request):
        if not request.url.startswith("data:"):
            self.requests.append(request.url)

    def open(self, file, fragment):
        # With only a new fragment, the browser would scroll and not load the file again.
        self.page.goto("about:blank")
        self.page.goto(file.resolve().as_uri() + fragment, wait_until="load")
        self.settle()

    def settle(self):
        """Wait until two frames have been painted."""
        frames = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        self.page.evaluate(f"{frames}.then(() => true)")

    def box_of(self, selector):
        """The box of the first element, which must be visible."""
        box = self.page.locator(selector).first.bounding_box()
        assert box is not None, f"{selector} is not visible"
        return box

    def move(self, x, y):
        self.page.mouse.move(x, y)
        self.settle()

    def click(self, selector):
        self.page.locator(selector).first.click()
        self.settle()

    def press(self, key):
        self.page.keyboard.press(key)
        self.settle()

    def write(self, text):
        self.page.keyboard.insert_text(text)
        self.settle()

    def screenshot(self, file):
        self.page.screenshot(path=file)


@pytest.fixture(scope="module")
def run(tmp_path_factory, chromium):
    folder = make_run(tmp_path_factory.mktemp("viewer"), CASES)
    assert main([str(folder), "--images", "all"]) == 0
    return folder


@pytest.fixture(scope="module")
def models(run):
    return {
        name: read_predictions(run / "eval" / name / "greedy.jsonl") for name in ("sft", "grpo")
    }


@pytest.fixture(scope="module")
def rows(run):
    found = pq.read_table(run / "data" / "test.parquet").to_pylist()
    return {str(row["extra_info"]["index"]): row for row in found}


@pytest.fixture(scope="module")
def browser(chromium):
    with open_chromium() as opened:
        yield Browser(opened)


@pytest.fixture
def page(browser, run):
    """The cases of the report, newly opened; the console must stay silent and nothing be sent."""
    browser.open(run / "report.html", "#cases")
    yield browser
    assert browser.complaints == []
    addresses = {address.partition("#")[0] for address in browser.requests}
    assert addresses <= {"about:blank", (run / "report.html").as_uri()}


def shown(page):
    return page.evaluate("document.querySelector('#cases .case').dataset.id")


def listed(page):
    """The ids of the list in order; it is scrolled, since only what is in sight is in the page."""
    found = {}
    height = page.evaluate("document.querySelector('.list').scrollHeight")
    for top in range(0, height, 200):
        page.evaluate(f"document.querySelector('.list').scrollTop = {top}")
        page.settle()
        for place, key in page.evaluate(
            "[...document.querySelectorAll('.row')].map((row) =>"
            " [Number(row.getAttribute('aria-posinset')), row.dataset.id])"
        ):
            found[place] = key
    assert sorted(found) == list(range(1, len(found) + 1))
    return [found[place] for place in sorted(found)]


def choose(page, name, value):
    page.evaluate(
        f"(() => {{ const field = document.querySelector('.filters [name={name}]');"
        f" field.value = {json.dumps(value)};"
        " field.dispatchEvent(new Event('input', {bubbles: true})); return field.value; })()"
    )
    page.settle()


def lit(page):
    """The boxes that are lit: layer and place in pixels of the frame, in any order."""
    return {
        (layer, *map(float, sides))
        for layer, *sides in page.evaluate(
            "[...document.querySelectorAll('.picture .box.lit')].map((box) => [box.dataset.layer,"
            " ...['x', 'y', 'width', 'height'].map((n) =>"
            " box.querySelector('rect').getAttribute(n))])"
        )
    }


def test_the_first_case_is_open_and_all_are_listed(page, models):
    assert shown(page) == models["grpo"][0].id
    assert page.evaluate("document.querySelector('.count').textContent") == "24 of 24 cases"
    assert page.evaluate("document.querySelectorAll('.row').length") < CASES
    assert listed(page) == [p.id for p in models["grpo"]]


def test_every_view_opens_without_a_complaint(page):
    for name in ("results", "training", "run", "cases"):
        page.click(f".top nav a[href='#{name}']")
        views = "[...document.querySelectorAll('.view')].filter((v) => !v.hidden).map((v) => v.id)"
        assert page.evaluate(views) == [name]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def pixels(page, file):
    page.screenshot(file)
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.int16)


def test_the_picture_is_that_of_the_question(page, rows, tmp_path):
    page.press("b")
    place = page.box_of(".picture")
    seen = pixels(page, tmp_path / "page.png")
    x, y, width, height = (round(place[name]) for name in ("x", "y", "width", "height"))
    seen = seen[y : y + height, x : x + width].mean(axis=-1)
    likeness = {}
    for key, row in rows.items():
        with Image.open(row["images"][0]["image"]) as picture:
            wanted = np.asarray(picture.convert("L").resize((width, height)), dtype=float)
        likeness[key] = np.corrcoef(seen.ravel(), wanted.ravel())[0, 1]
    assert max(likeness, key=likeness.__getitem__) == shown(page)
    assert likeness[shown(page)] > 0.95


def test_boxes_of_the_reference_lie_where_the_data_says(page, rows, is_colour, on_edges, tmp_path):
    for layer in page.evaluate(LAYERS):
        if layer != "truth":
            page.click(f".legend [data-layer='{layer}']")
    checked = 0
    for _ in range(8):
        row = rows[shown(page)]
        truth = GroundTruth.parse(row["reward_model"]["ground_truth"])
        page.move(1, 1)
        mask = is_colour(pixels(page, tmp_path / "page.png"), TRUTH)
        frame = page.box_of(".picture")
        for _, box in truth.placed_regions:
            for shift, is_there in ((0.0, True), (0.06, False)):
                x1, y1, x2, y2 = (side + shift for side in box)
                at = (
                    *(frame["x"] + x1 * frame["width"], frame["y"] + y1 * frame["height"]),
                    *(frame["x"] + x2 * frame["width"], frame["y"] + y2 * frame["height"]),
                )
                shares = on_edges(mask, at, 3)
                assert (min(shares) > 0.9) == is_there, (shown(page), box, shift, shares)
                checked += 1
        page.press("ArrowRight")
    assert checked >= 16


def sentence_with_a_box(page, model="grpo"):
    """Go on to a case whose answer has a sentence with a box, and return the case's data."""
    sentences = f".response[data-model='{model}'] .sentence.link"
    while not page.evaluate(f'Boolean(document.querySelector("{sentences}"))'):
        page.press("j")
    data = page.evaluate(
        "JSON.parse(document.getElementById('case-data').textContent).cases"
        f".find((each) => each.id === {json.dumps(shown(page))})"
    )
    return sentences, data


def test_pointing_at_a_sentence_lights_its_boxes_and_no_others(page):
    sentences, case = sentence_with_a_box(page)
    answer = case["answers"]["grpo"]
    parts = next(parts for parts in answer["think"] if any(place >= 0 for _, place in parts))
    wanted = {("grpo-cited", *answer["cited"][place]["at"]) for _, place in parts if place >= 0}
    # The middle of a sentence over several lines may be beside it: point at its first line.
    line = page.evaluate(f'document.querySelector("{sentences}").getClientRects()[0].toJSON()')
    page.move(line["x"] + line["width"] / 2, line["y"] + line["height"] / 2)
    assert lit(page) == wanted
    page.move(1, 1)
    assert lit(page) == set()


def test_pointing_at_a_box_lights_the_sentence_that_cites_it(page):
    _, case = sentence_with_a_box(page)
    for layer in page.evaluate(LAYERS):
        if layer != "grpo-cited":
            page.click(f".legend [data-layer='{layer}']")
    frame, size = page.box_of(".picture"), case["size"]
    # Its upper left corner lies in no smaller box of the same reasoning here.
    smallest = min(
        case["answers"]["grpo"]["cited"], key=lambda region: region["at"][2] * region["at"][3]
    )
    x, y, width, height = smallest["at"]
    page.move(
        frame["x"] + (x + width / 2) * frame["width"] / size[0],
        frame["y"] + (y + height / 2) * frame["height"] / size[1],
    )
    assert ("grpo-cited", *smallest["at"]) in lit(page)
    texts = page.evaluate(
        "[...document.querySelectorAll('.response .sentence.lit')].map((each) => each.textContent)"
    )
    assert texts
    assert all(smallest["text"] in text for text in texts)


def test_the_keyboard_alone_reaches_sentences(page):
    sentence_with_a_box(page)
    chips = "[...document.querySelectorAll('.response[data-model=grpo] .region')]"
    page.evaluate(f"{chips}.at(-1).focus()")
    page.settle()
    assert {layer for layer, *_ in lit(page)} == {"grpo"}
    page.press("Tab")
    assert page.evaluate("document.activeElement.matches('.sentence.lit')")
    assert {layer for layer, *_ in lit(page)} == {"grpo-cited"}


def test_keys_go_through_the_cases_and_switch_layers(page, models):
    ids = [p.id for p in models["grpo"]]
    for key, place in (("ArrowRight", 1), ("j", 2), ("k", 1), ("ArrowLeft", 0), ("ArrowLeft", 0)):
        page.press(key)
        assert shown(page) == ids[place]
    visible = (
        "[...document.querySelectorAll('.picture .box')]"
        ".filter((each) => !each.hasAttribute('hidden')).length"
    )
    everything = page.evaluate(visible)
    page.press("1")
    assert 0 < page.evaluate(visible) < everything
    page.press("b")
    assert page.evaluate(visible) == everything
    page.press("b")
    assert page.evaluate(visible) == 0
    page.press("j")
    assert page.evaluate(visible) == 0, "the next case shows what was hidden"


def test_keys_typed_into_the_search_are_text(page, models):
    page.press("/")
    page.write("jjbb")
    assert shown(page) == models["grpo"][0].id
    assert page.evaluate("document.querySelector('.empty').textContent").startswith("No case")
    page.press("Escape")
    choose(page, "text", "")
    page.press("j")
    assert shown(page) == models["grpo"][1].id


def test_cases_are_filtered_by_type(page, models):
    page.click("[data-kind='single']")
    assert listed(page) == [p.id for p in models["grpo"] if p.question_type == "single"]
    page.click("[data-kind='open']")
    wanted = [p.id for p in models["grpo"] if p.question_type in ("single", "open")]
    assert listed(page) == wanted
    assert shown(page) in wanted


def test_cases_are_filtered_by_region(page, models):
    names = {p.id: {r["ref"] for r in p.ground_truth["regions"]} for p in models["grpo"]}
    name = sorted(set.union(*names.values()))[0]
    choose(page, "region", name)
    assert listed(page) == [key for key, found in names.items() if name in found]


def test_cases_are_filtered_by_right_and_wrong(page, models):
    right = {name: {p.id for p in found if answer_correct(p)} for name, found in models.items()}
    ids = [p.id for p in models["grpo"]]
    wanted = {
        "SFT right": right["sft"],
        "GRPO wrong": set(ids) - right["grpo"],
        "SFT wrong → GRPO right": right["grpo"] - right["sft"],
        "SFT right → GRPO wrong": right["sft"] - right["grpo"],
        "both right": right["sft"] & right["grpo"],
        "both wrong": set(ids) - right["sft"] - right["grpo"],
    }
    for name, keys in wanted.items():
        choose(page, "outcome", name)
        assert listed(page) == [key for key in ids if key in keys], name


def test_cases_are_ordered_by_what_changed(page, models):
    scores = {
        name: {p.id: round(p.scores["score"], 4) for p in found} for name, found in models.items()
    }
    choose(page, "order", "reward gained most")
    gains = [scores["grpo"][key] - scores["sft"][key] for key in listed(page)]
    assert len(gains) == CASES
    assert gains == sorted(gains, reverse=True)


def test_the_tally_is_that_of_the_cases_listed(page, models):
    page.click("[data-kind='closed']")
    found = [p for p in models["grpo"] if p.question_type == "closed"]
    cells = page.evaluate(
        "[...document.querySelectorAll('.tally tr:last-child td')].map((cell) => cell.textContent)"
    )
    right = sum(map(answer_correct, found)) / len(found)
    assert cells[0] == f"{right * 100:.0f} %"
    assert float(cells[1]) == pytest.approx(
        np.mean([p.scores["mean_iou"] for p in found]), abs=0.006
    )


def test_the_parts_of_the_reward_are_those_of_the_predictions(page, models):
    cells = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('[data-model=sft] .parts tr')]"
        ".map((row) => [row.cells[0].textContent, Number(row.cells[1].textContent)]))"
    )
    scores = next(p.scores for p in models["sft"] if p.id == shown(page))
    names = {"reward": "score", "think grounding": "think_grounding", "mean IoU": "mean_iou"}
    assert len(cells) == 7
    for title, value in cells.items():
        assert value == pytest.approx(scores[names.get(title, title)], abs=0.006)


def test_an_address_leads_to_its_case(browser, run, models):
    key = models["grpo"][7].id
    browser.open(run / "report.html", f"#case-{key}")
    assert shown(browser) == key


CONTRAST = """
(() => {
  const numbers = (name) => {
    const probe = document.createElement("i");
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color.match(/[0-9.]+/g).slice(0, 3).map(Number);
    probe.remove();
    const linear = found.map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const pairs = [["ink", "page"], ["soft", "page"], ["soft", "card"], ["soft", "well"],
                 ["ink", "lit"], ["link", "card"], ["good", "good-well"], ["bad", "bad-well"]];
  return pairs.map(([front, back]) => {
    const [a, b] = [numbers(front), numbers(back)].sort((x, y) => y - x);
    return [front, back, (a + 0.05) / (b + 0.05)];
  });
})()
"""


def test_texts_have_contrast_in_the_light_and_in_the_dark(page):
    """4.5 to 1, as WCAG 2.2 asks of text (AA)."""
    seen = set()
    for _ in range(2):
        seen.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        for front, back, ratio in page.evaluate(CONTRAST):
            assert ratio >= 4.5, (seen, front, back, ratio)
        page.press("t")
    assert len(seen) == 2
