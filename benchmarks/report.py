"""How long a report takes to write and to open, at 2,000 cases with an image each.

`python -m benchmarks.report [--cases N] [--repeat R] [--keep DIR]` draws a phantom set, makes up
the responses of two models to it (the reference's, with boxes moved, sentences dropped and answers
swapped, so that texts are as long as real ones), writes the report of that run, and opens it in a
headless Chromium, each time with an empty profile.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.chromium import Chromium
from data_prep.phantom.__main__ import main as phantom_main
from data_prep.thinkvg import main as thinkvg_main
from recipe.evaluation.files import write_text_atomically
from recipe.evaluation.predictions import Prediction, score_predictions, write_predictions
from recipe.evaluation.summary import build_summary, write_summary
from recipe.report import main as report_main
from reward.response import Box, replace_boxes

SPREAD = {"sft": 0.09, "grpo": 0.05}
"""How far each model's boxes are off, as a standard deviation in shares of the image."""
RIGHT = {"sft": 0.5, "grpo": 0.6}


def make_run(folder: Path, cases: int, seed: int = 0) -> Path:
    """Write a run folder with predictions, curves and a summary, and return its path."""
    data = folder / "data"
    source = folder / "phantom"
    options = ["--images", str(max(40, cases * 5 // 4)), "--seed", str(seed)]
    _succeed(phantom_main(["--out", str(source), *options]))
    shares = ["--val", "0.85", "--test", "0.02"]
    paths = ["--source", str(source), "--images", str(source / "files"), "--out", str(data)]
    _succeed(thinkvg_main([*paths, *shares]))
    # The reference's reasoning is written for training and validation only: answer the latter.
    table = pq.read_table(data / "val.parquet")
    paths_seen = [extra["image_path"] for extra in table["extra_info"].to_pylist()]
    firsts = sorted({path: place for place, path in enumerate(paths_seen)}.values())[:cases]
    if len(firsts) < cases:
        raise SystemExit(f"the phantom set gave {len(firsts)} pictures, not {cases}")
    table = table.take(firsts)
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
        text = references[extra["index"]]
        width, height = truth["image_size"]

        def moved(
            box: Box,
            draw: random.Random = draw,
            extent: tuple[int, ...] = (width, height, width, height),
        ) -> Box:
            x1, y1, x2, y2 = (
                min(max(side + draw.gauss(0, SPREAD[model]) * whole, 0), whole)
                for side, whole in zip(box, extent, strict=True)
            )
            return (min(x1, x2 - 2), min(y1, y2 - 2), max(x2, x1 + 2), max(y2, y1 + 2))

        text = replace_boxes(text, moved)
        if draw.random() > RIGHT[model]:
            before, rest = text.split("<answer>", 1)
            text = f"{before}<answer>{_other(truth, draw)}</answer>{rest.split('</answer>', 1)[1]}"
        yield Prediction(str(extra["index"]), extra["index"], 0, text, truth, extra)


def _other(truth: dict[str, Any], draw: random.Random) -> str:
    if truth["question_type"] == "closed":
        return "No" if truth["answer"] == "Yes" else "Yes"
    if truth["choices"]:
        return draw.choice([key for key in truth["choices"] if key not in truth["answer"]] or ["A"])
    return "The heart is enlarged."


def _write_curves(folder: Path, draw: random.Random) -> None:
    """Curves of about the right look; made up, as the responses are."""
    lines = []
    for step in range(1, 81):
        data = {"response_length/mean": 90 + draw.gauss(0, 3), "timing_s/step": 6.0}
        for place, name in enumerate(("format", "answer", "grounding", "think_grounding")):
            low = 0.9 - 0.15 * place
            data[f"reward/{name}/mean"] = low + 0.1 * step / 80 + draw.gauss(0, 0.02)
            data[f"reward/{name}/std"] = 0.1
        data["reward/alignment/mean"] = 0.7 + 0.15 * step / 80 + draw.gauss(0, 0.02)
        data["reward/score/mean"] = 0.55 + 0.1 * step / 80 + draw.gauss(0, 0.02)
        data["reward/score/std"] = 0.15
        lines.append(json.dumps({"step": step, "data": data}))
    write_text_atomically(folder / "grpo" / "metrics.jsonl", "\n".join(lines) + "\n")
    losses = [{"step": step, "data": {"train/loss": 3 / step**0.5}} for step in range(1, 61)]
    text = "".join(json.dumps(line) + "\n" for line in losses)
    write_text_atomically(folder / "sft" / "metrics.jsonl", text)


def open_page(page: Path) -> tuple[float, float, list[str]]:
    """Seconds until the page has loaded, until a case is painted, and what the console says."""
    with Chromium() as browser:
        browser.open(page)
        loaded = browser.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
        shown = browser.evaluate("performance.getEntriesByName('case shown')[0].startTime")
        return loaded / 1000, shown / 1000, browser.complaints


def main() -> None:
    """Entry point."""
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
