"""How long a report takes to write and to open, at 2,000 cases with an image each.

`python -m benchmarks.report [--cases N] [--repeat R] [--keep DIR]` draws a phantom set, makes up
the responses of two models (reference responses with moved boxes and some wrong answers, so that
texts have a real length), writes the report of that run, and opens it in a headless Chromium, each
time with an empty profile.
"""

import argparse
import contextlib
import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
from playwright.sync_api import ConsoleMessage, Page, Request, sync_playwright

from data_prep.program import write_whole
from data_prep.thinkvg import main as thinkvg_main
from phantom.draw.__main__ import main as phantom_main
from recipe.evaluate.predictions import Prediction, score_predictions, write_predictions
from recipe.evaluate.results import build_summary, write_summary
from recipe.report.__main__ import main as report_main
from reward.boxes_in_text import Box
from reward.response import replace_boxes

NAMES = ("chromium", "chromium-browser", "google-chrome")
# The first as root and in containers, the second where /dev/shm is small.
OPTIONS = ("--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars")


def find_chromium() -> str | None:
    """Return the path of the browser's program, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@dataclass
class Chromium:
    """One page of a browser with a fresh profile.

    Attributes:
        page: Playwright's page, for what this class does not offer.
        complaints: warnings and errors of the console, and uncaught exceptions.
        requests: addresses requested since the start, without `data:` ones.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._note_message)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._note_request)

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _note_request(self, request: Request) -> None:
        if not request.url.startswith("data:"):
            self.requests.append(request.url)

    def open(self, file: Path, fragment: str = "") -> None:
        """Load a file and wait until it has been painted."""
        # With only a new fragment, the browser would scroll and not load the file again.
        self.page.goto("about:blank")
        self.page.goto(file.resolve().as_uri() + fragment, wait_until="load")
        self.settle()

    def settle(self) -> None:
        """Wait until two frames have been painted."""
        frames = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        self.page.evaluate(f"{frames}.then(() => true)")

    def evaluate(self, expression: str) -> Any:
        """Return the JSON value of an expression in the page; promises are awaited."""
        return self.page.evaluate(expression)

    def box_of(self, selector: str) -> dict[str, float]:
        """Return x, y, width and height in pixels of the first element of a selector."""
        box = self.page.locator(selector).first.bounding_box()
        assert box is not None, f"{selector} is not visible"
        return {"x": box["x"], "y": box["y"], "width": box["width"], "height": box["height"]}

    def move(self, x: float, y: float) -> None:
        """Move the mouse."""
        self.page.mouse.move(x, y)
        self.settle()

    def hover(self, selector: str) -> None:
        """Move the mouse over the middle of the first element of a selector."""
        self.page.locator(selector).first.hover()
        self.settle()

    def click(self, selector: str) -> None:
        """Click on the middle of the first element of a selector."""
        self.page.locator(selector).first.click()
        self.settle()

    def press(self, key: str) -> None:
        """Press and release a key: a character, or a name such as ArrowRight."""
        self.page.keyboard.press(key)
        self.settle()

    def write(self, text: str) -> None:
        """Type a text at the cursor."""
        self.page.keyboard.insert_text(text)
        self.settle()

    def screenshot(self, file: Path) -> None:
        """Write a PNG of the window's content."""
        self.page.screenshot(path=file)


@contextlib.contextmanager
def open_chromium(
    width: int = 1440, height: int = 900, scheme: Literal["dark", "light"] = "light"
) -> Iterator[Chromium]:
    """Start a browser and close it with the context.

    Raises:
        SystemExit: there is no Chromium on this machine.
    """
    program = find_chromium()
    if program is None:
        raise SystemExit("no Chromium here: run tools/chromium.sh as root")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=OPTIONS)
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        yield Chromium(page)
        browser.close()


SPREAD = {"sft": 0.09, "grpo": 0.05}
"""Standard deviation of the error of each model's boxes, as a share of the image."""
RIGHT = {"sft": 0.5, "grpo": 0.6}
"""Share of each model's answers that are the reference."""


def make_run(folder: Path, cases: int, seed: int = 0) -> Path:
    """Write a run folder with predictions, curves and a summary, and return its path.

    Raises:
        SystemExit: a program failed, or there are too few pictures.
    """
    data = folder / "data"
    source = folder / "phantom"
    options = ["--images", str(max(40, cases * 5 // 4)), "--seed", str(seed)]
    _succeed(phantom_main(["--out", str(source), *options]))
    shares = ["--val", "0.85", "--test", "0.02"]
    paths = ["--source", str(source), "--images", str(source / "files"), "--out", str(data)]
    _succeed(thinkvg_main([*paths, *shares]))
    # Only training and validation have reference reasoning, so validation rows become the test set.
    table = pq.read_table(data / "val.parquet")
    image_paths = [extra["image_path"] for extra in table["extra_info"].to_pylist()]
    row_of_image = {path: index for index, path in enumerate(image_paths)}
    indices = sorted(row_of_image.values())[:cases]
    if len(indices) < cases:
        raise SystemExit(f"the phantom set gave {len(indices)} pictures, not {cases}")
    table = table.take(indices)
    rows = table.to_pylist()
    pq.write_table(table, data / "test.parquet")
    references = {
        row["extra_info"]["index"]: row["messages"][-1]["content"]
        for row in pq.read_table(data / "sft_val.parquet").to_pylist()
    }
    models = {}
    for name in SPREAD:
        predictions = score_predictions(list(_predictions(rows, references, name, seed)))
        for kind in ("greedy", "sampled"):
            write_predictions(folder / "eval" / name / f"{kind}.jsonl", predictions)
        models[name] = (predictions, predictions)
    run = {"seed": seed, "versions": {}, "wall_seconds": {}, "grpo_steps": 80, "rollouts": 0}
    files = data / "train.parquet", data / "test.parquet"
    write_summary(
        folder / "summary.json", build_summary(models["sft"], models["grpo"], *files, run)
    )
    _write_curves(folder, random.Random(seed))
    return folder


def _succeed(code: int) -> None:
    if code:
        raise SystemExit(code)


def _predictions(
    rows: list[dict[str, Any]], references: dict[int, str], model: str, seed: int
) -> Iterator[Prediction]:
    for row in rows:
        extra, truth = row["extra_info"], json.loads(row["reward_model"]["ground_truth"])
        draw = random.Random(f"{seed} {model} {extra['index']}")
        move = partial(_moved_box, size=truth["image_size"], spread=SPREAD[model], draw=draw)
        text = replace_boxes(references[extra["index"]], move)
        if draw.random() > RIGHT[model]:
            before, rest = text.split("<answer>", 1)
            answer = _wrong_answer(truth, draw)
            text = f"{before}<answer>{answer}</answer>{rest.split('</answer>', 1)[1]}"
        yield Prediction(str(extra["index"]), extra["index"], 0, text, truth, extra)


def _moved_box(box: Box, size: list[int], spread: float, draw: random.Random) -> Box:
    """Return a box with random errors, at least 2 pixels wide and high."""
    x1, y1, x2, y2 = (
        min(max(edge + draw.gauss(0, spread) * length, 0), length)
        for edge, length in zip(box, [*size, *size], strict=True)
    )
    return (min(x1, x2 - 2), min(y1, y2 - 2), max(x2, x1 + 2), max(y2, y1 + 2))


def _wrong_answer(truth: dict[str, Any], draw: random.Random) -> str:
    if truth["question_type"] == "closed":
        return "No" if truth["answer"] == "Yes" else "Yes"
    if truth["choices"]:
        return draw.choice([key for key in truth["choices"] if key not in truth["answer"]] or ["A"])
    return "The heart is enlarged."


def _write_curves(folder: Path, draw: random.Random) -> None:
    """Write made-up training curves that look about real."""
    lines = []
    for step in range(1, 81):
        data = {"response_length/mean": 90 + draw.gauss(0, 3), "timing_s/step": 6.0}
        for index, name in enumerate(("format", "answer", "grounding", "think_grounding")):
            low = 0.9 - 0.15 * index
            data[f"reward/{name}/mean"] = low + 0.1 * step / 80 + draw.gauss(0, 0.02)
            data[f"reward/{name}/std"] = 0.1
        data["reward/alignment/mean"] = 0.7 + 0.15 * step / 80 + draw.gauss(0, 0.02)
        data["reward/score/mean"] = 0.55 + 0.1 * step / 80 + draw.gauss(0, 0.02)
        data["reward/score/std"] = 0.15
        lines.append(json.dumps({"step": step, "data": data}))
    write_whole(folder / "grpo" / "metrics.jsonl", "\n".join(lines) + "\n")
    losses = [{"step": step, "data": {"train/loss": 3 / step**0.5}} for step in range(1, 61)]
    text = "".join(json.dumps(line) + "\n" for line in losses)
    write_whole(folder / "sft" / "metrics.jsonl", text)


def open_page(page: Path) -> tuple[float, float, list[str]]:
    """Return seconds until the page has loaded, until a case is painted, and console messages."""
    with open_chromium() as browser:
        browser.open(page)
        loaded = browser.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
        shown = browser.evaluate("performance.getEntriesByName('case shown')[0].startTime")
        return loaded / 1000, shown / 1000, browser.complaints


def main() -> None:
    """Make a run, write its report, and open it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the run folder here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        run = folder if (folder / "summary.json").is_file() else make_run(folder, options.cases)
        start = time.perf_counter()
        _succeed(report_main([str(run), "--cases", str(options.cases)]))
        written = time.perf_counter() - start
        page = run / "report.html"
        print(f"written in {written:.1f} s, {page.stat().st_size / 2**20:.1f} MiB")
        for _ in range(options.repeat):
            loaded, shown, complaints = open_page(page)
            print(f"loaded in {loaded:.2f} s, first case painted after {shown:.2f} s")
            for complaint in complaints:
                print(f"console: {complaint}")


if __name__ == "__main__":
    main()
