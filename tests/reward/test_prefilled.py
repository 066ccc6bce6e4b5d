"""A response that begins in the prompt: what is scored is that beginning with what follows it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from reward.__main__ import main
from reward.response import parse_response, whole_response
from reward.settings import load_preset
from reward.thinkvg import compute_score, compute_score_judged

DENSE = load_preset("dense")
REGION = {"ref": "left lung", "box": [60, 20, 90, 80]}
TRUTH: dict[str, Any] = {
    "question_type": "closed",
    "answer": "Yes",
    "choices": None,
    "regions": [REGION],
    "think_regions": [REGION],
    "image_size": [100, 100],
    "coordinates": "absolute",
}
THOUGHT = "The left lung [60, 20, 90, 80] shows an opacity."
REST = "<answer>Yes</answer>\n<location><ref>left lung</ref><box>[60, 20, 90, 80]</box></location>"
OPEN, CLOSED = "<think>\n", "<think>\n\n</think>\n\n"
WHOLE = f"<think>{THOUGHT}</think>\n{REST}"
CONTINUED = f"{THOUGHT}\n</think>\n\n{REST}"


def score(generated: str, prefix: str | None) -> dict[str, float]:
    extra = {"index": 1} | ({} if prefix is None else {"response_prefix": prefix})
    return compute_score("thinkvg", generated, TRUTH, extra, **DENSE)


@pytest.mark.parametrize(
    ("prefix", "generated", "format", "answer", "cited"),
    [
        # An ordinary template: the response opens its reasoning by itself.
        (None, WHOLE, 1, 1, 1),
        ("", WHOLE, 1, 1, 1),
        # It does not: read, but not in the form, whatever another template would have done.
        (None, CONTINUED, 0, 1, 1),
        ("", CONTINUED, 0, 1, 1),
        # The template opened it.
        (OPEN, CONTINUED, 1, 1, 1),
        ("<think>", CONTINUED, 1, 1, 1),
        (OPEN, f"{THOUGHT}</think>{REST}", 1, 1, 1),
        (OPEN, f"\n{THOUGHT}</think>\n{REST}", 1, 1, 1),
        # Opened again: two opening tags, and the reasoning is never closed.
        (OPEN, WHOLE, 0, 0, 1),
        (OPEN, f"<think>\n{CONTINUED}", 0, 0, 1),
        # Closed, and another reasoning behind it.
        (OPEN, f"{THOUGHT}</think>\n{WHOLE}", 0, 1, 1),
        (OPEN, f"</think>{WHOLE}", 0, 1, 1),
        # Nothing in it; no end; text between; an answer inside.
        (OPEN, f"</think>\n{REST}", 0, 1, 0),
        (OPEN, f"{THOUGHT}\n{REST}", 0, 0, 1),
        (OPEN, f"{THOUGHT}</think> So: {REST}", 0, 1, 1),
        (OPEN, f"<answer>No</answer>{THOUGHT}</think>{REST}", 0, 1, 1),
        (OPEN, "", 0, 0, 0),
        # The template closed it at once: there is no reasoning, and a second one is one too many.
        (CLOSED, REST, 0, 1, 0),
        (CLOSED, WHOLE, 0, 1, 1),
        (CLOSED, CONTINUED, 0, 1, 0),
    ],
)
def test_the_form_is_that_of_both_together(
    prefix: str | None, generated: str, format: int, answer: int, cited: int
) -> None:
    scores = score(generated, prefix)
    assert (scores["format"], scores["answer"]) == (format, answer)
    assert (scores["think_grounding"] == 1) == bool(cited)
    assert scores["response_chars"] == len((prefix or "") + generated)


def test_a_prefix_scores_what_the_whole_text_does() -> None:
    for cut in range(len(WHOLE) + 1):
        assert score(WHOLE[cut:], WHOLE[:cut]) == score(WHOLE, None)


def test_a_missing_tag_is_not_guessed_from_the_response() -> None:
    assert not parse_response(CONTINUED).well_formed
    assert whole_response(CONTINUED, None) == CONTINUED
    assert whole_response(CONTINUED, {"response_prefix": None}) == CONTINUED


def test_a_prefix_that_is_no_text_is_named() -> None:
    with pytest.raises(ValueError, match=r"extra_info\.response_prefix is 1, not a text"):
        compute_score("thinkvg", WHOLE, TRUTH, {"response_prefix": 1}, **DENSE)


def test_with_a_judge_too() -> None:
    # A closed question is decided without it.
    kwargs = load_preset("paper_judge", {"base_url": "http://127.0.0.1:9/v1"})
    scored = compute_score_judged(
        "thinkvg", CONTINUED, TRUTH, {"response_prefix": OPEN, "question": "Is it?"}, **kwargs
    )
    scores = asyncio.run(scored)
    assert (scores["format"], scores["answer"], scores["judge_used"]) == (1, 1, 0)


def test_lines_of_the_offline_command_may_have_it(tmp_path: Path) -> None:
    line = {"id": 1, "response": CONTINUED, "ground_truth": TRUTH}
    lines = [line, line | {"extra_info": {"response_prefix": OPEN}}, line | {"extra_info": None}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    out = tmp_path / "out.jsonl"
    command = ["--preset", "dense", "--input", str(tmp_path / "in.jsonl"), "--output", str(out)]
    assert main(command) == 0
    assert [json.loads(text)["format"] for text in out.read_text().splitlines()] == [0, 1, 0]


@pytest.mark.parametrize(
    ("extra", "fault"),
    [("x", "'extra_info' is not an object"), ({"response_prefix": ["a"]}, "not a text")],
)
def test_a_line_at_fault_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: Any, fault: str
) -> None:
    line = {"id": 1, "response": CONTINUED, "ground_truth": TRUTH, "extra_info": extra}
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps(line) + "\n")
    assert main(["--preset", "dense", "--input", str(source), "--output", str(out)]) == 2
    error = capsys.readouterr().err.strip()
    assert fault in error
    assert f"{source}, line 1" in error
    assert len(error.splitlines()) == 1
