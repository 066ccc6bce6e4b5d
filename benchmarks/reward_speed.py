"""Throughput and memory of the reward beside those of other formulas given the same parse."""

import json
import resource
import statistics
import time
from collections.abc import Callable
from random import Random

from tqdm import tqdm

from benchmarks.peer_formulas import FORMULAS, Formula
from reward.ground_truth import GroundTruth, place
from reward.presets import load_preset
from reward.response import parse_response
from reward.thinkvg import compute_score

CHUNK = 100
CHUNKS = 60
SIDE = 336
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

Scorer = Callable[[str, str], float]


def typical_group(rng: Random, size: int = 8) -> list[tuple[str, str]]:
    """Return responses of about 120 words with 3 boxes, each also cited, and their reference.

    As the rollouts of a prompt do, they share it: boxes a few pixels off, one in ten elsewhere.
    """
    boxes = [_box(rng) for _ in NAMES]
    regions = [{"ref": name, "box": box} for name, box in zip(NAMES, boxes, strict=True)]
    truth = json.dumps(
        {
            "question_type": "closed",
            "answer": "Yes",
            "choices": None,
            "regions": regions,
            "think_regions": regions,
            "image_size": [SIDE, SIDE],
            "coordinates": "absolute",
        }
    )
    return [(_response(rng, boxes), truth) for _ in range(size)]


def _response(rng: Random, boxes: list[list[int]]) -> str:
    given = [
        _box(rng) if rng.random() < 0.1 else [value + rng.randint(-6, 6) for value in box]
        for box in boxes
    ]
    pairs = [(name, ", ".join(map(str, box))) for name, box in zip(NAMES, given, strict=True)]
    sentences = [SENTENCE.format(name=name, box=box) for name, box in pairs]
    location = "".join(f"<ref>{name}</ref><box>[{box}]</box>" for name, box in pairs)
    think = " ".join([OPENING, *sentences, CLOSING])
    return f"<think>{think}</think>\n<answer>Yes</answer>\n<location>{location}</location>"


def _box(rng: Random) -> list[int]:
    x, y = rng.randint(10, 180), rng.randint(10, 180)
    return [x, y, x + rng.randint(40, 140), y + rng.randint(40, 140)]


def _peer(formula: Formula) -> Scorer:
    """A peer's formula behind the parse that this project does."""
    truths: dict[str, GroundTruth] = {}

    def score(response: str, ground_truth: str) -> float:
        if ground_truth not in truths:
            truths[ground_truth] = GroundTruth.parse(ground_truth)
        truth = truths[ground_truth]
        given = place(parse_response(response).regions, truth)
        return formula(
            [box for _, box in given if box],
            [box for _, box in truth.placed_regions if box],
        )

    return score


def _preset(name: str) -> Scorer:
    kwargs = load_preset(name)
    return lambda response, truth: compute_score("bench", response, truth, **kwargs)["score"]


def speed_table() -> str:
    """Time every formula on the same responses, chunk by chunk in turn; a Markdown table.

    The time of a chunk is the processor's; a formula's is that of its quickest quarter of chunks,
    which leaves out what other processes on the machine cost.
    """
    rng = Random(0)
    pairs = [pair for _ in range(CHUNK * CHUNKS // 8) for pair in typical_group(rng)]
    scorers: dict[str, Scorer] = {"parse alone": _peer(lambda predicted, reference: 0.0)}
    scorers |= {name: _peer(formula) for name, formula in FORMULAS.items()}
    scorers |= {"all of `paper`": _preset("paper"), "all of `dense`": _preset("dense")}
    times: dict[str, list[float]] = {name: [] for name in scorers}
    for begin in tqdm(range(0, len(pairs), CHUNK), desc="speed", delay=2):
        for name, score in scorers.items():
            start = time.process_time()
            for text, truth in pairs[begin : begin + CHUNK]:
                score(text, truth)
            times[name].append((time.process_time() - start) / CHUNK)
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


def _quick(values: list[float]) -> float:
    return statistics.mean(sorted(values)[: max(1, len(values) // 4)])


def _linear_line(pairs: list[tuple[str, str]], score: Scorer) -> str:
    """Time growing numbers of responses with `dense`."""
    cells = []
    for count in (750, 1500, 3000, 6000):
        seconds = []
        for _ in range(3):
            start = time.process_time()
            for text, truth in pairs[:count]:
                score(text, truth)
            seconds.append(time.process_time() - start)
        cells.append(f"{count:,}: {1e6 * min(seconds) / count:.0f} µs")
    return f"Microseconds for each response of `dense`, by their number: {', '.join(cells)}."


def memory_table(count: int) -> str:
    """Score `count` distinct responses with distinct references; peak memory along the way."""
    rng = Random(1)
    score = _preset("dense")
    peaks = []
    for index in tqdm(range(1, count + 1), desc="memory", delay=2):
        score(*typical_group(rng, 1)[0])
        if index * 10 % count == 0 or index == count // 50:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            peaks.append(f"{index:,}: {peak:.0f}")
    return f"Peak memory in MiB after so many responses: {', '.join(peaks)}."
