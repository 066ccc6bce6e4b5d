"""Test the reward with random and mutated responses: `python tools/fuzz_reward.py --count 1000000`.

Every response must give the same keys, finite floats, and components and score in [0, 1], within
100 ms of processor time. Responses that fail are written to `--failures`, one JSON object per line,
and the exit code is 1. The same seed and count give the same responses for any number of workers.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from tqdm.contrib.concurrent import process_map

from reward.settings import COMPONENTS, load_preset
from reward.thinkvg import SCORE_KEYS, compute_score

LONGEST_SECONDS = 0.1
PRESETS = ("dense", "paper")
CHUNK = 2000

_FRAGMENTS = (
    *("<think>", "</think>", "<answer>", "</answer>", "<location>", "</location>", "<response>"),
    *("<ref>", "</ref>", "<box>", "</box>", "<THINK>", "<think ", "< answer>", "</", "<", ">"),
    *("[", "]", "(", ")", "[[", "]]", "{", "}", ",", ";", ":", ".", "\n", "\t", " ", "\x00"),
    *("Yes", "No", "yes or no", "A", "B", "A, C", "['A', 'C']", "(choice A)", "None", "Normal"),
    *("The answer is ", "Therefore, ", "not ", "no ", "left ", "right ", "or ", "effusion"),
    *("[63, 20, 98, 80]", "[98, 80, 63, 20]", "[1e400, 0, 1, 1]", "[nan, nan, nan, nan]"),
    *("[inf, -inf, 1, 2]", "[-5, -5, 5000, 5000]", "[0.5, 0.5, 0.9, 0.9]"),
    *("[1, 2, 3]", "[1,2,3,4,5]"),
    *("(1, 2), (3, 4)", "<box>1,2,3,4</box>", "[[1,2,3,4],[5,6,7,8]]", "1" * 400, "-", "+", "1e5"),
    *("\u202e", "\u0130", "𝔸", "é", "ﬁ", "٣", "１", "\u200b", "🫁", "\\boxed{B}"),
)
_SENTENCE = (
    "the left lung shows an opacity in its upper zone while the heart is normal and there is no "
    "effusion on the right side so the answer is clear because of a device near the carina"
)
_WORDS = _SENTENCE.split()
_REGIONS = ("left lung", "right lung", "cardiac silhouette", "spine", "")

_load_preset = cache(load_preset)


def random_box(rng: Random, largest: int = 112) -> list[int]:
    """Return x1, y1, x2, y2 of a box with an area inside a square of `largest` pixels."""
    (x1, x2), (y1, y2) = (sorted(rng.sample(range(largest + 1), 2)) for _ in range(2))
    return [x1, y1, x2, y2]


@cache
def ground_truths(seed: int) -> tuple[str, ...]:
    """Return 200 references: every question type, 0 to 5 regions, both coordinate systems."""
    rng = Random(seed)
    choices = {"A": "Normal", "B": "Pleural effusion", "C": "Left lung and heart", "D": "None"}
    answers: dict[str, list[Any]] = {
        "closed": ["Yes", "No"],
        "single": ["A", "B", "D"],
        "multi": [["A"], ["A", "C"], ["B", "C", "D"]],
        "open": ["No effusion in the left lung.", "left lower lung zone", "."],
    }
    truths = []
    for _ in range(200):
        kind = rng.choice(list(answers))
        size = rng.choice(([112, 112], [280, 336]))
        regions, cited = (
            [
                {"ref": rng.choice(_REGIONS), "box": random_box(rng)}
                for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 5)))
            ]
            for _ in range(2)
        )
        truth = {
            "question_type": kind,
            "answer": rng.choice(answers[kind]),
            "choices": choices if kind in ("single", "multi") else None,
            "regions": regions,
            "think_regions": cited,
            "image_size": size,
            "coordinates": rng.choice(("absolute", "norm1000")),
        }
        truths.append(json.dumps(truth))
    return tuple(truths)


def responses(seed: int, count: int) -> Iterator[tuple[str, str]]:
    """Yield pairs of response and ground truth."""
    rng = Random(seed)
    truths = ground_truths(0)
    for _ in range(count):
        kind = rng.random()
        if kind < 0.001:
            text = _giant(rng)
        elif kind < 0.15:
            text = "".join(rng.choice(_FRAGMENTS) for _ in range(rng.randint(0, 120)))
        elif kind < 0.2:
            text = "".join(chr(_code_point(rng)) for _ in range(rng.randint(0, 400)))
        else:
            text = _mutated(rng, _plausible(rng))
        yield text, rng.choice(truths)


def _plausible(rng: Random) -> str:
    boxes = [random_box(rng) for _ in range(rng.choice((0, 1, 1, 2, 3, 5)))]
    words = [rng.choice(_WORDS) for _ in range(rng.randint(5, 120))]
    for box in boxes:
        words.insert(rng.randint(0, len(words)), f"{rng.choice(_REGIONS)} {box}")
    answer = rng.choice(("Yes", "No.", "B", "['A', 'C']", "A: Normal", "No effusion.", "left lung"))
    location = "".join(f"<ref>{rng.choice(_REGIONS)}</ref><box>{box}</box>" for box in boxes)
    think = " ".join(words)
    return f"<think>{think}</think>\n<answer>{answer}</answer>\n<location>{location}</location>"


def _mutated(rng: Random, text: str) -> str:
    for _ in range(rng.choice((0, 1, 1, 2, 3, 6))):
        begin, end = sorted(rng.randint(0, len(text)) for _ in range(2))
        end = min(end, begin + rng.choice((1, 10, 100, 1000)))
        action = rng.randrange(4)
        if action == 0:
            text = text[:begin] + text[end:]
        elif action == 1:
            text = text[:end] + text[begin:end] * rng.choice((1, 2, 20)) + text[end:]
        elif action == 2:
            text = text[:begin] + rng.choice(_FRAGMENTS) + text[begin:]
        else:
            text = text[:begin] + rng.choice(_FRAGMENTS) + text[end:]
    return text


def _giant(rng: Random) -> str:
    """Return 1 MB of one or two fragments repeated, bare or inside a block, or 10,000 boxes."""
    if rng.random() < 0.3:
        pairs = (f"<ref>x</ref><box>{random_box(rng)}</box>" for _ in range(10_000))
        filling = "".join(pairs)
    else:
        piece = rng.choice(_FRAGMENTS) + rng.choice(("", *_FRAGMENTS))
        length = rng.choice((2_000, 31_000, 1_000_000))
        filling = (piece * (length // len(piece) + 1))[:length]
    frame = rng.choice(
        (
            "{}",
            "<think>{}</think><answer>Yes</answer><location></location>",
            "<think>a</think><answer>{}</answer><location></location>",
            "<think>a</think><answer>B</answer><location>{}</location>",
            "<think>{}",
        )
    )
    return frame.replace("{}", filling)


def _code_point(rng: Random) -> int:
    while True:
        point = rng.choice((rng.randrange(128), rng.randrange(0x110000)))
        if not 0xD800 <= point < 0xE000:
            return point


def fault_of(scores: dict[str, float]) -> str:
    """Return what is wrong with a result, or ""."""
    if tuple(scores) != SCORE_KEYS:
        return f"keys {', '.join(scores)}"
    for key, value in scores.items():
        if type(value) is not float or not math.isfinite(value):
            return f"{key} is {value!r}"
        if key in ("score", *COMPONENTS) and not 0 <= value <= 1:
            return f"{key} is {value}"
    return ""


def check(response: str, truth: str, preset: str) -> tuple[float, str]:
    """Score one response, up to five times if it takes too long.

    Returns:
        The shortest time in seconds, and what is wrong, or "".
    """
    kwargs = _load_preset(preset)
    seconds = math.inf
    for _ in range(5):
        begin = time.process_time()
        try:
            fault = fault_of(compute_score("fuzz", response, truth, **kwargs))
        except Exception as error:
            fault = f"raised {type(error).__name__}: {error}"
        seconds = min(seconds, time.process_time() - begin)
        if seconds <= LONGEST_SECONDS or fault:
            return seconds, fault
    return seconds, f"took {seconds:.3f} s"


def run_chunk(seed: int, count: int) -> tuple[float, list[dict[str, Any]]]:
    """Check `count` responses, and return the longest time and those that failed."""
    slowest, findings = 0.0, []
    for number, (response, truth) in enumerate(responses(seed, count)):
        preset = PRESETS[number % len(PRESETS)]
        seconds, fault = check(response, truth, preset)
        slowest = max(slowest, seconds)
        if fault:
            finding = {"preset": preset, "fault": fault, "seconds": seconds}
            findings.append({**finding, "response": response, "ground_truth": truth})
    return slowest, findings


def main() -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="fuzz_reward", description="Throw random and mutated responses at the reward."
    )
    add = parser.add_argument
    failures = Path("outputs/fuzz/failures.jsonl")
    add("--count", type=int, default=1_000_000, help="responses (%(default)s)")
    add("--seed", type=int, default=0, help="of the responses (%(default)s)")
    add("--workers", type=int, default=os.cpu_count(), help="processes (%(default)s)")
    add("--failures", type=Path, default=failures, help="for faulty responses (%(default)s)")
    options = parser.parse_args()
    counts = [min(CHUNK, options.count - done) for done in range(0, options.count, CHUNK)]
    seeds = [options.seed * 1_000_003 + index for index in range(len(counts))]
    results = process_map(
        run_chunk,
        seeds,
        counts,
        max_workers=options.workers,
        chunksize=1,
        desc="fuzz",
        unit="chunk",
        delay=2,
    )
    slowest = max((seconds for seconds, _ in results), default=0.0)
    findings = [finding for _, chunk_findings in results for finding in chunk_findings]
    print(f"{options.count} responses, {len(findings)} faults, slowest {1000 * slowest:.1f} ms")
    if findings:
        options.failures.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(finding) + "\n" for finding in findings]
        options.failures.write_text("".join(lines), encoding="utf-8")
        print(f"first fault: {findings[0]['fault']}; all in {options.failures}", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
