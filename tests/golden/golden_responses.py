"""Collects the responses of `responses.parquet`, with a fixed seed.

From the phantom set, in the form that is trained and in the published one, with changes that a
model or a cheat makes; from the cases of `benchmarks.reward_formulas`; from the strings and pairs
of strings of `tests/reward`; from the fuzzer; and with ground truths that are odd or refused.
"""

import ast
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
from golden_changes import CHANGES, CLOSED, OPENED, Example, Truth, prefilled, respond
from golden_scores import Row

from benchmarks.reward_formulas import cases
from data_prep.thinkvg import main as thinkvg_main
from phantom.draw.__main__ import main as phantom_main

ROOT = Path(__file__).parents[2]
SEED = 20260
FUZZED, MUTATED, VARIANTS = 5000, 2500, 6
LONGEST = 40_000  # characters; more than are read, few enough for a small file
PHANTOM = "--images 150 --seed 11 --odd 0.2 --beyond 0.1 --regions all --workers 1"
SIZES = "--min-pixels 12544 --max-pixels 15680 --val 0 --test 0 --workers 1"
FAMILIES = ("qwen2_5_vl", "qwen3_vl")
REGION = {"ref": "left lung", "box": [60, 20, 90, 80]}
RIGHT = {"ref": "right lung", "box": [10, 20, 45, 85]}
LOCATION = "<ref>left lung</ref><box>[60, 20, 90, 80]</box>"
CHOICES = {"A": "Normal", "B": "Pleural effusion", "C": "Enlarged heart and effusion", "D": "None"}
CLOSED_TRUTH: Truth = {
    "question_type": "closed",
    "answer": "Yes",
    "choices": None,
    "regions": [REGION],
    "think_regions": [REGION],
    "image_size": [100, 100],
    "coordinates": "absolute",
}
SINGLE_TRUTH = CLOSED_TRUTH | {"question_type": "single", "answer": "B", "choices": CHOICES}
MULTI_TRUTH = CLOSED_TRUTH | {"question_type": "multi", "answer": ["A", "C"], "choices": CHOICES}
OPEN_TRUTH = CLOSED_TRUTH | {"question_type": "open", "answer": "Small left pleural effusion."}
TRUTHS = (CLOSED_TRUTH, SINGLE_TRUTH, MULTI_TRUTH, OPEN_TRUTH)
ODD_TRUTHS: tuple[Truth, ...] = (
    {"regions": []},
    {"regions": [], "think_regions": []},
    {"think_regions": []},
    {"think_regions": [REGION, RIGHT]},
    {"regions": [REGION, REGION], "think_regions": [REGION, REGION]},
    {"regions": [REGION, RIGHT, {"ref": "spine", "box": [45, 0, 55, 100]}]},
    {"regions": [{"ref": "", "box": [60, 20, 90, 80]}]},
    {"regions": [{"box": [60, 20, 90, 80]}]},
    {"regions": [{"ref": "left lung", "box": [60.25, 19.5, 90.125, 80.0]}]},
    {"regions": [{"ref": "left lung", "box": [-5, 20, 190, 80]}]},
    {"regions": [{"ref": "left lung", "box": [60, 20, 60.0001, 20.0001]}]},
    {"regions": [{"ref": "x", "box": [k, k, k + 9, k + 9]} for k in range(0, 90, 5)]},
    {"image_size": [7, 5], "coordinates": "norm1000"},
    {"image_size": [100.0, 200]},
    {"image_size": [1, 1], "regions": [{"ref": "a", "box": [0, 0, 1, 1]}], "think_regions": []},
    {"coordinates": "norm1000"},
    {"answer": "No"},
    {"more": {"keys": 1}},
    SINGLE_TRUTH | {"choices": None},
    SINGLE_TRUTH | {"choices": {}},
    SINGLE_TRUTH | {"choices": {"A": "Normal", "B": "Normal", "C": "Edema"}},
    SINGLE_TRUTH | {"choices": {"B": ""}},
    SINGLE_TRUTH | {"choices": {"B": "Left lung", "C": "Left lower lung zone"}},
    MULTI_TRUTH | {"answer": ["C", "A", "A"]},
    MULTI_TRUTH | {"answer": ["A", "B", "C", "D"]},
    MULTI_TRUTH | {"choices": None},
    OPEN_TRUTH | {"answer": "."},
    OPEN_TRUTH | {"answer": "the"},
    OPEN_TRUTH | {"answer": "No effusion. " * 60},
    OPEN_TRUTH | {"answer": "Épanchement pleural gauche, 5 mm"},
    OPEN_TRUTH | {"answer": "left or right effusion"},
    # refused
    {"question_type": "essay"},
    {"answer": "yes"},
    {"answer": None},
    {"regions": None},
    {"regions": [[1, 2, 3, 4]]},
    {"regions": [{"ref": "a", "box": [1, 2, 3]}]},
    {"regions": [{"ref": "a", "box": [3, 2, 1, 4]}]},
    {"regions": [{"ref": "a", "box": [True, 2, 30, 40]}]},
    {"regions": [{"ref": "a", "box": ["1", 2, 30, 40]}]},
    {"regions": [{"ref": None, "box": [1, 2, 30, 40]}]},
    {"regions": [{"ref": "a", "box": [300, 2, 400, 4]}]},
    {"think_regions": [{"ref": "a", "box": [1, 2, None, 4]}]},
    {"image_size": [0, 5]},
    {"image_size": [5.5, 5]},
    {"image_size": [5]},
    {"coordinates": "percent"},
    SINGLE_TRUTH | {"answer": "Z"},
    SINGLE_TRUTH | {"answer": ["B"]},
    SINGLE_TRUTH | {"answer": "b"},
    SINGLE_TRUTH | {"choices": {"1": "a"}},
    SINGLE_TRUTH | {"choices": ["a"]},
    SINGLE_TRUTH | {"choices": {"B": 3}},
    MULTI_TRUTH | {"answer": []},
    MULTI_TRUTH | {"answer": "A"},
    OPEN_TRUTH | {"answer": " "},
    OPEN_TRUTH | {"answer": 5},
)
NO_TRUTHS = ("", "{", "[]", "3", "null", "{}", '{"question_type": "closed"}', '{"answer": NaN}')


def collect_rows() -> list[Row]:
    """Return all rows, each once, in an order that keeps similar ones together."""
    examples = _examples()
    rows = [
        *_phantom_rows(examples),
        *_mutated_rows(examples),
        *_case_rows(),
        *_test_rows(),
        *_fuzzed_rows(),
        *_odd_rows(),
        *_long_rows(),
    ]
    return list(dict.fromkeys(rows))


def _row(response: str, truth: Truth, prefix: str | None = None) -> Row:
    extra_info = None if prefix is None else json.dumps({"response_prefix": prefix})
    return Row(response, json.dumps(truth), extra_info)


def _examples() -> list[Example]:
    """The accepted rows of a phantom set, for each family of models."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assert phantom_main(["--out", name, *PHANTOM.split()]) == 0
        source = pq.read_table(folder / "data").to_pylist()
        examples = []
        for family in FAMILIES:
            out = folder / family
            folders = ["--source", name, "--images", f"{name}/files", "--out", str(out)]
            options = ["--model-family", family, *SIZES.split()]
            assert thinkvg_main([*folders, *options]) == 0
            rollout = pq.read_table(out / "train.parquet").to_pylist()
            tuned = pq.read_table(out / "sft_train.parquet").to_pylist()
            for row, sft in zip(rollout, tuned, strict=True):
                index = row["extra_info"]["index"]
                assert index == sft["extra_info"]["index"]
                examples.append(_example(row, sft, source[index]))
    return examples


def _example(row: dict[str, Any], sft: dict[str, Any], source: dict[str, Any]) -> Example:
    blocks = re.fullmatch(
        r"<think>(.*)</think>\n<answer>(.*)</answer>\n<location>(.*)</location>",
        sft["messages"][1]["content"],
        re.DOTALL,
    )
    assert blocks
    think, answer, location = blocks.groups()
    truth = json.loads(row["reward_model"]["ground_truth"])
    return Example(truth, think, answer, location, (source["thinkVG"], source["response"]))


def _phantom_rows(examples: Sequence[Example]) -> Iterator[Row]:
    rng = Random(SEED)
    by_type: dict[str, list[Example]] = {}
    for example in examples:
        by_type.setdefault(example.truth["question_type"], []).append(example)
    for example in examples:
        donor = rng.choice(by_type[example.truth["question_type"]])
        yield _row(respond(example.think, example.answer, example.location), example.truth)
        for change in rng.sample(CHANGES, VARIANTS):
            yield _row(change(example, donor, rng), example.truth)
        generated, prefix = prefilled(example, rng)
        yield _row(generated, example.truth, prefix)


def _mutated_rows(examples: Sequence[Example]) -> Iterator[Row]:
    """Responses of the phantom set with pieces cut, doubled, moved and put in."""
    rng = Random(SEED + 1)
    for _ in range(MUTATED):
        example = rng.choice(examples)
        text = respond(example.think, example.answer, example.location)
        for _ in range(rng.choice((1, 1, 2, 4))):
            begin = rng.randint(0, len(text))
            end = min(len(text), begin + rng.choice((1, 3, 10, 60)))
            piece = rng.choice(("", text[begin:end] * 2, text[-begin - 20 : -begin or None]))
            text = text[:begin] + piece + text[end:]
        yield _row(text, example.truth)


def _case_rows() -> Iterator[Row]:
    for case in cases():
        yield _row(case["response"], case["ground_truth"])


def _test_rows() -> Iterator[Row]:
    """Every string of the reward's tests as a response and as each part of one."""
    strings: dict[str, None] = {}
    pairs: dict[tuple[str, str], None] = {}
    for path in sorted((ROOT / "tests" / "reward").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if id(node) not in documented and len(node.value) < 2000:
                    strings[node.value] = None
            elif isinstance(node, ast.Tuple):
                texts = [item.value for item in node.elts if isinstance(item, ast.Constant)]
                for first, second in pairwise(texts):
                    if isinstance(first, str) and isinstance(second, str):
                        pairs[first, second] = None
    think = "The left lung [60, 20, 90, 80] shows an opacity."
    for text in strings:
        yield _row(text, CLOSED_TRUTH)
        yield from (_row(respond(think, text, LOCATION), truth) for truth in TRUTHS)
        yield _row(respond(text, "Yes", LOCATION), CLOSED_TRUTH)
        yield _row(respond(text, "B", LOCATION), SINGLE_TRUTH)
        yield _row(respond(text, "left lung", LOCATION), OPEN_TRUTH)
        yield _row(respond(think, "Yes", text), CLOSED_TRUTH)
        yield _row(respond(think, "Yes", f"<ref>lung</ref><box>{text}</box>"), CLOSED_TRUTH)
    for first, second in pairs:
        yield from (_row(respond(first, second, LOCATION), truth) for truth in TRUTHS)
        for answer, reference in ((first, second), (second, first)):
            if reference.strip():
                truth = OPEN_TRUTH | {"answer": reference}
                yield _row(respond(think, answer, LOCATION), truth)


def _fuzzed_rows() -> Iterator[Row]:
    sys.path.insert(0, str(ROOT / "tools"))
    import fuzz_reward

    for text, truth in fuzz_reward.responses(SEED, FUZZED):
        yield Row(text[:LONGEST], truth)


def _odd_rows() -> Iterator[Row]:
    """Ground truths that are odd or refused, each with a few responses."""
    think = "The left lung [60, 20, 90, 80] shows an opacity, the right lung [10, 20, 45, 85] none."
    both = f"{LOCATION}<ref>right lung</ref><box>[10, 20, 45, 85]</box>"
    responses = [
        *(
            respond(think, answer, LOCATION)
            for answer in ("Yes", "B", "A, C", "effusion", "Normal")
        ),
        respond(think, "Yes", ""),
        respond("The image is clear.", "Yes", ""),
        respond(think, "Small left pleural effusion", both),
        respond(think, "A, B, C, D", both * 5),
        "",
    ]
    truths = [json.dumps(CLOSED_TRUTH | change) for change in ODD_TRUTHS]
    yield from (Row(text, truth) for truth in (*truths, *NO_TRUTHS) for text in responses)
    for prefix in (None, "", OPENED, CLOSED, "<think>", "<answer>No</answer>"):
        yield from (_row(text, CLOSED_TRUTH, prefix) for text in responses)
    for value in (None, 1, ["<think>"]):
        extra_info = json.dumps({"index": 1, "response_prefix": value})
        yield Row(responses[0], truths[0], extra_info)


def _long_rows() -> Iterator[Row]:
    """Responses about as long as is read, and with many boxes."""
    box = "[60, 20, 90, 80]"
    for length in (31_999, 32_000, 32_001, LONGEST):
        text = respond("", "Yes", LOCATION)
        yield _row(respond("x" * (length - len(text)), "Yes", LOCATION), CLOSED_TRUTH)
        yield _row((respond(f"lung {box}", "Yes", "") + " " * length)[:length], CLOSED_TRUTH)
    for count in (6, 7, 20, 21, 99, 100, 255, 256, 257, 1000, 1100):
        yield _row(respond(f"lung {box}" * count, "Yes", LOCATION), CLOSED_TRUTH)
        yield _row(respond(f"lung {box}", "Yes", LOCATION * min(count, 600)), CLOSED_TRUTH)
    for length in (1_999, 2_000, 2_001):
        yield _row(respond("x", ("Yes. " + "word " * 400)[:length], LOCATION), CLOSED_TRUTH)
        yield _row(respond("x", ("word " * 401)[:length], LOCATION), OPEN_TRUTH)
