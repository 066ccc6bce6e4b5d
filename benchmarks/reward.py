"""Grounding rewards side by side: what each pays for, and how long it takes.

`python -m benchmarks.reward [--out DIR] [--memory N] [--docs]` scores a file of responses with
the formulas of `benchmarks/reward_formulas.py` and with this project's, draws each against the IoU
and the number of boxes, and measures throughput in one process on one core. With `--docs`, it
updates the table, the plot and the figures in `docs/reward.md`.
"""

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

import matplotlib as mpl
import matplotlib.pyplot as plt
from tqdm import tqdm

from benchmarks import DOCS, write_section
from benchmarks.reward_formulas import FORMULAS, SIDE, Boxes, Formula, cases, closed_truth
from reward.boxes_in_text import Box
from reward.ground_truth import GroundTruth, place
from reward.grounding import dense_score, iou
from reward.response import Region, parse_response
from reward.settings import load_preset
from reward.thinkvg import compute_score

mpl.use("Agg")

COLUMNS = (*FORMULAS, "paper", "dense")
TARGET: Box = (0.1, 0.3, 0.4, 0.6)
STEPS = 301
Scorer = Callable[[str, str], float]


def dense(predicted: Boxes, reference: Boxes) -> float:
    """Return the dense score of boxes without names."""
    regions, targets = ([Region("", box) for box in boxes] for boxes in (predicted, reference))
    return dense_score(regions, targets)


def sliding(share: float) -> Box:
    """Return the target's box moved right by a share of the space between it and the edge."""
    x1, y1, x2, y2 = TARGET
    step = share * (1 - x2)
    return (x1 + step, y1, x2 + step, y2)


def growing(share: float) -> Box:
    """Return the target's box grown from its size (0) to the full image (1)."""
    x1, y1, x2, y2 = TARGET
    return (x1 * (1 - share), y1 * (1 - share), x2 + (1 - x2) * share, y2 + (1 - y2) * share)


def guesses(count: int) -> list[Box]:
    """Return the right box and `count` - 1 wrong boxes."""
    wrong: list[Box] = [(0.55, 0.02 + 0.1 * k, 0.7, 0.1 + 0.1 * k) for k in range(count - 1)]
    return [TARGET, *wrong]


def draw_curves(path: Path) -> None:
    """Draw every formula in three panels, with a thick line for `dense`."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), sharey=True, layout="constrained")
    formulas: dict[str, Formula] = {**FORMULAS, "dense (ours)": dense}
    shares = [index / (STEPS - 1) for index in range(STEPS)]
    points: list[list[tuple[float, list[Box]]]] = [
        [(_closeness(box), [box]) for box in map(sliding, shares)],
        [(_area(box), [box]) for box in map(growing, shares)],
        [(count, guesses(count)) for count in range(1, 11)],
    ]
    for name, formula in formulas.items():
        style = {"linewidth": 3, "color": "black"} if name.startswith("dense") else {"linewidth": 1}
        for panel, curve in zip(axes, points, strict=True):
            values = [formula(boxes, [TARGET]) for _, boxes in curve]
            panel.plot([x for x, _ in curve], values, label=name, **style)
    axes[0].set(
        title="a box slides onto its target", xlabel="IoU, left of 0: apart", ylabel="reward"
    )
    axes[1].set(title="the right box grows to the full image", xlabel="share of the image covered")
    axes[2].set(title="the right box and wrong ones", xlabel="boxes given, one wanted")
    axes[2].legend(fontsize=7)
    mpl.rcParams["svg.hashsalt"] = "reward"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _closeness(box: Box) -> float:
    """Return the IoU with the target, or minus the distance to it if they are apart."""
    return iou(box, TARGET) or TARGET[2] - box[0]


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def grounding_table() -> str:
    """Score every case with every formula, and return a Markdown table."""
    presets = {name: load_preset(name) for name in ("paper", "dense")}
    rows = [f"| response | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row in cases():
        truth = GroundTruth.parse(row["ground_truth"])
        predicted, reference = _boxes(row["response"], truth)
        values = [formula(predicted, reference) for formula in FORMULAS.values()]
        for kwargs in presets.values():
            scores = compute_score("bench", row["response"], row["ground_truth"], **kwargs)
            values.append(scores["grounding"])
        cells = " | ".join(f"{value:.2f}" for value in values)
        rows.append(f"| {row['id']} | {cells} |")
    return "\n".join(rows)


def _boxes(response: str, truth: GroundTruth) -> tuple[list[Box], list[Box]]:
    """Return the boxes of a response, by this project's parsing, and those of its reference."""
    regions = place(parse_response(response).regions, truth)
    return [box for _, box in regions if box], [box for _, box in truth.placed_regions if box]


def main() -> None:
    """Compare the formulas, and write the results."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reward",
        description="Compare grounding rewards and their speed.",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/benchmarks/reward"), help="folder (%(default)s)"
    )
    parser.add_argument(
        "--memory", type=int, default=100_000, help="responses scored for memory (%(default)s)"
    )
    parser.add_argument("--docs", action="store_true", help="update docs/reward.md as well")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) + "\n" for row in cases()]
    (options.out / "responses.jsonl").write_text("".join(lines), encoding="utf-8")
    table = grounding_table()
    print(f"{len(lines)} responses on a {SIDE} x {SIDE} image\n\n{table}\n")
    draw_curves(options.out / "reward.svg")
    speed = f"{speed_table()}\n\n{memory_table(options.memory)}"
    print(speed)
    (options.out / "reward.md").write_text(f"{table}\n\n{speed}\n", encoding="utf-8")
    if options.docs:
        write_section("reward.md", "formulas", table)
        write_section("reward.md", "speed", speed)
        draw_curves(DOCS / "reward.svg")
    print(f"\n{options.out}: responses.jsonl, reward.md, reward.svg")


CHUNK = 100
CHUNKS = 60
NAMES = ("left lung", "right lower lung zone", "cardiac silhouette")
SENTENCE = (
    "The {name} [{box}] shows a slightly higher density than the other side, without a sharp "
    "border or a displacement of its neighbours."
)
OPENING = (
    "The image is an upright frontal view of good quality, and the question asks about changes of "
    "density in several regions."
)
CLOSING = (
    "Taken together these findings speak for a local change, and the remaining regions look "
    "regular. Therefore, the answer is yes."
)


def typical_group(rng: Random, size: int = 8) -> list[tuple[str, str]]:
    """Return responses of about 120 words with 3 boxes, each also cited, and their reference.

    They share a reference, as the rollouts of a prompt do. Boxes are a few pixels off, and one in
    ten is somewhere else.
    """
    boxes = [_box(rng) for _ in NAMES]
    regions = [{"ref": name, "box": box} for name, box in zip(NAMES, boxes, strict=True)]
    truth = json.dumps(closed_truth("Yes", regions))
    return [(_response(rng, boxes), truth) for _ in range(size)]


def _response(rng: Random, boxes: list[list[int]]) -> str:
    predicted = [
        _box(rng) if rng.random() < 0.1 else [value + rng.randint(-6, 6) for value in box]
        for box in boxes
    ]
    pairs = [(name, ", ".join(map(str, box))) for name, box in zip(NAMES, predicted, strict=True)]
    sentences = [SENTENCE.format(name=name, box=box) for name, box in pairs]
    location = "".join(f"<ref>{name}</ref><box>[{box}]</box>" for name, box in pairs)
    think = " ".join([OPENING, *sentences, CLOSING])
    return f"<think>{think}</think>\n<answer>Yes</answer>\n<location>{location}</location>"


def _box(rng: Random) -> list[int]:
    x, y = rng.randint(10, 180), rng.randint(10, 180)
    return [x, y, x + rng.randint(40, 140), y + rng.randint(40, 140)]


def _peer(formula: Formula) -> Scorer:
    """Return a formula of another project, applied after this project's parsing."""
    parse_truth = cache(GroundTruth.parse)

    def score(response: str, ground_truth: str) -> float:
        return formula(*_boxes(response, parse_truth(ground_truth)))

    return score


def _preset(name: str) -> Scorer:
    kwargs = load_preset(name)
    return lambda response, truth: compute_score("bench", response, truth, **kwargs)["score"]


def speed_table() -> str:
    """Time every formula on the same responses, chunk by chunk in turn; return a Markdown table.

    The time of a chunk is processor time; that of a formula is the mean of its fastest quarter of
    chunks, which leaves out the influence of other processes.
    """
    rng = Random(0)
    pairs = [pair for _ in range(CHUNK * CHUNKS // 8) for pair in typical_group(rng)]
    scorers: dict[str, Scorer] = {"parse alone": _peer(lambda predicted, reference: 0.0)}
    scorers |= {name: _peer(formula) for name, formula in FORMULAS.items()}
    scorers |= {"all of `paper`": _preset("paper"), "all of `dense`": _preset("dense")}
    times: dict[str, list[float]] = {name: [] for name in scorers}
    for begin in tqdm(range(0, len(pairs), CHUNK), desc="speed", delay=2):
        for name, score in scorers.items():
            times[name].append(_seconds(score, pairs[begin : begin + CHUNK]))
    quick = {name: _quick(values) for name, values in times.items()}
    slowest = max(FORMULAS, key=quick.__getitem__)
    words = statistics.mean(len(text.split()) for text, _ in pairs)
    rows = ["| formula | responses a second | time of the slowest peer's |", "|---|---|---|"]
    rows += [
        f"| {name} | {1 / seconds:,.0f} | {seconds / quick[slowest]:.2f} |"
        for name, seconds in quick.items()
    ]
    about = f"Responses of {words:.0f} words with 3 boxes, slowest peer: {slowest}."
    return "\n".join([about, "", *rows, "", _linear_line(pairs, scorers["all of `dense`"])])


def _seconds(score: Scorer, pairs: list[tuple[str, str]]) -> float:
    """Return the processor time for each response."""
    start = time.process_time()
    for text, truth in pairs:
        score(text, truth)
    return (time.process_time() - start) / len(pairs)


def _quick(values: list[float]) -> float:
    return statistics.mean(sorted(values)[: max(1, len(values) // 4)])


def _linear_line(pairs: list[tuple[str, str]], score: Scorer) -> str:
    """Time growing numbers of responses with `dense`, and return a sentence."""
    cells = []
    for count in (750, 1500, 3000, 6000):
        seconds = min(_seconds(score, pairs[:count]) for _ in range(3))
        cells.append(f"{count:,}: {1e6 * seconds:.0f} µs")
    return f"Microseconds for each response of `dense`, by their number: {', '.join(cells)}."


def memory_table(count: int) -> str:
    """Score `count` distinct responses with distinct references, and return the peak memory."""
    rng = Random(1)
    score = _preset("dense")
    peaks = []
    for index in tqdm(range(1, count + 1), desc="memory", delay=2):
        score(*typical_group(rng, 1)[0])
        if index * 10 % count == 0 or index == count // 50:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            peaks.append(f"{index:,}: {peak:.0f}")
    return f"Peak memory in MiB after so many responses: {', '.join(peaks)}."


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
