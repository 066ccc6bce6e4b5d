"""How long a report takes to write and to open, at 2,000 cases with an image each.

`python -m benchmarks.report [--cases N] [--repeat R]` draws a phantom set, makes up the responses
of two models (reference responses with moved boxes and some wrong answers, so that texts have a
real length), writes the report of that run, and opens it in a headless Chromium, each time with an
empty profile.
"""

import argparse
import contextlib
import json
import random
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from playwright.sync_api import Page, sync_playwright

from data_prep.program import write_whole
from data_prep.thinkvg import main as thinkvg_main
from phantom.draw.__main__ import main as phantom_main
from recipe.evaluate.predictions import Prediction, score_predictions, write_predictions
from recipe.evaluate.results import build_summary, write_summary
from recipe.report.__main__ import main as report_main
from reward.boxes_in_text import Box
from reward.response import replace_boxes
from reward.settings import COMPONENTS

NAMES = ("chromium", "chromium-browser", "google-chrome")
# The first as root and in containers, the second where /dev/shm is small.
OPTIONS = ("--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars")


def find_chromium() -> str | None:
    """Return the path of the browser's program, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def open_chromium() -> Iterator[Page]:
    """Start a browser with a fresh profile and one page, and close it with the context.

    Raises:
        SystemExit: there is no Chromium on this machine.
    """
    program = find_chromium()
    if program is None:
        raise SystemExit("no Chromium here: run tools/chromium.sh as root")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=OPTIONS)
        yield browser.new_page(viewport={"width": 1440, "height": 900})
        browser.close()


SPREAD = {"sft": 0.09, "grpo": 0.05}
"""Standard deviation of the error of each model's boxes, as a share of the image."""
RIGHT = {"sft": 0.5, "grpo": 0.6}
"""Share of each model's answers that are the reference."""


def make_run(folder: Path, cases: int) -> Path:
    """Write a run folder with predictions, curves and a summary, and return its path.

    Raises:
        SystemExit: a program failed, or there are too few pictures.
    """
    data = folder / "data"
    source = folder / "phantom"
    _succeed(phantom_main(["--out", str(source), "--images", str(max(40, cases * 5 // 4))]))
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
    pq.write_table(table, data / "test.parquet")
    references = {
        row["extra_info"]["index"]: row["messages"][-1]["content"]
        for row in pq.read_table(data / "sft_val.parquet").to_pylist()
    }
    models = {}
    for name in SPREAD:
        predictions = score_predictions(
            [_prediction(row, references, name) for row in table.to_pylist()]
        )
        for kind in ("greedy", "sampled"):
            write_predictions(folder / "eval" / name / f"{kind}.jsonl", predictions)
        models[name] = (predictions, predictions)
    run = {"seed": 0, "versions": {}, "wall_seconds": {}, "grpo_steps": 80, "rollouts": 0}
    files = data / "train.parquet", data / "test.parquet"
    write_summary(
        folder / "summary.json", build_summary(models["sft"], models["grpo"], *files, run)
    )
    _write_curves(folder)
    return folder


def _succeed(code: int) -> None:
    if code:
        raise SystemExit(code)


def _prediction(row: dict[str, Any], references: dict[int, str], model: str) -> Prediction:
    """Return the reference response with moved boxes, and sometimes with a wrong answer."""
    extra, truth = row["extra_info"], json.loads(row["reward_model"]["ground_truth"])
    draw = random.Random(f"{model} {extra['index']}")
    move = partial(_moved_box, size=truth["image_size"], spread=SPREAD[model], draw=draw)
    text = replace_boxes(references[extra["index"]], move)
    if draw.random() > RIGHT[model]:
        answer = f"<answer>{_wrong_answer(truth, draw)}</answer>"
        text = re.sub("<answer>.*</answer>", answer, text, flags=re.DOTALL)
    return Prediction(str(extra["index"]), extra["index"], 0, text, truth, extra)


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


def _write_curves(folder: Path) -> None:
    """Write made-up training curves."""
    draw = random.Random(0)
    grpo, sft = [], []
    for step in range(1, 81):
        data = {"response_length/mean": 90 + draw.gauss(0, 3), "timing_s/step": 6.0}
        for name in ("score", *COMPONENTS):
            data[f"reward/{name}/mean"] = 0.55 + 0.1 * step / 80 + draw.gauss(0, 0.02)
            data[f"reward/{name}/std"] = 0.1
        grpo.append(json.dumps({"step": step, "data": data}))
        sft.append(json.dumps({"step": step, "data": {"train/loss": 3 / step**0.5}}))
    write_whole(folder / "grpo" / "metrics.jsonl", "\n".join(grpo) + "\n")
    write_whole(folder / "sft" / "metrics.jsonl", "\n".join(sft) + "\n")


def _show_fault(message: Any) -> None:
    if message.type in ("error", "warning"):
        print(f"console: {message.text}")


def open_page(file: Path) -> None:
    """Open the report, and print its times and what its console shows."""
    with open_chromium() as page:
        page.on("console", _show_fault)
        page.on("pageerror", lambda error: print(f"console: {error}"))
        page.goto(file.resolve().as_uri(), wait_until="load")
        page.wait_for_function("performance.getEntriesByName('case shown').length")
        loaded = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
        shown = page.evaluate("performance.getEntriesByName('case shown')[0].startTime")
        print(f"loaded in {loaded / 1000:.2f} s, first case painted after {shown / 1000:.2f} s")


def main() -> None:
    """Make a run, write its report, and open it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = make_run(Path(temporary), options.cases)
        start = time.perf_counter()
        _succeed(report_main([str(run), "--cases", str(options.cases), "--images", "all"]))
        written = time.perf_counter() - start
        page = run / "report.html"
        print(f"written in {written:.1f} s, {page.stat().st_size / 2**20:.1f} MiB")
        for _ in range(options.repeat):
            open_page(page)


if __name__ == "__main__":
    main()
