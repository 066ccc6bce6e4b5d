"""A judge's faults: tried again, and never a zero."""

import asyncio
import email.utils
import socket
import time

import pytest

RIGHT = "small left pleural effusion."
WRONG = "No acute finding"

TRANSIENT = [
    "429",  # too many requests, for an unknown time
    "429:0",  # at once again
    "500",  # an error of the server
    "503:1",  # back in a second
    "drop",  # the connection ends before the reply
    "drop_midway",  # … in the middle of it
    "drip",  # a reply that comes byte by byte for longer than the time limit
    "hang",  # no reply
    "html",  # a page of some gateway
    "empty",  # nothing, with status 200
    "huge",  # three million blanks
    "no_choices",  # not a chat completion
    "null",  # no text
    "only_thinks",  # all of it in the field for the reasoning
    "thinks_too_long",  # cut off before the text began
    "cut_json",  # half an object
    "length",  # half an object, and the server says that it is half
    "prose",  # no object
    "list",  # JSON, but no object
    "one_score",  # a key is missing
    "out_of_range",  # 11 of 10
    "zero",  # 0 of 10
    "string_score",  # "9"
    "bool_score",  # true, which Python takes for 1
    "nan",  # not JSON, though Python reads it
    "giant",  # a number of 5,000 digits
    "nested",  # 100,000 opening braces
]
SLOW = {"drip", "hang"}
PERMANENT = [
    "400",  # say, a prompt that is too long
    "401",  # a wrong key
    "404",  # a wrong model
    "307:http://127.0.0.2:9/v1/chat/completions",  # data would go elsewhere
]


@pytest.mark.parametrize("fault", TRANSIENT)
async def test_a_passing_fault_is_tried_again(fault, score, judge_server):
    judge_server.control(script=[fault])
    scores = await score(RIGHT, judge={"timeout_s": 0.7} if fault in SLOW else {})
    assert (scores["answer"], scores["judge_used"], scores["judge_failed"]) == (1, 1, 0)
    assert judge_server.seen()["requests"] == 2


@pytest.mark.parametrize("fault", [*TRANSIENT, *PERMANENT])
async def test_a_lasting_fault_leaves_the_score_without_a_judge(fault, score, judge_server):
    judge_server.control(always=fault)
    patience = {"attempts": 2, "timeout_s": 0.5 if fault in SLOW else 10}
    right, wrong = await score(RIGHT, judge=patience), await score(WRONG, judge=patience)
    for scores in (right, wrong):
        assert (scores["judge_used"], scores["judge_failed"]) == (0, 1)
    assert (right["answer"], right["score"]) == (1, 1)
    assert (wrong["answer"], wrong["score"]) == (0, 0.5)
    once = fault in PERMANENT
    assert judge_server.seen()["requests"] == (2 if once else 4)


FORMS = [
    "fenced",  # in a block of code, with a word before it
    "thinks",  # after thinking aloud
    "thinks_apart",  # with the reasoning in a field of its own
    "quotes_tag",  # with the tag that ends thinking in its reason
    "bare_newline",  # with a control character in a string, as vLLM's structured output allows
]


@pytest.mark.parametrize("form", FORMS)
async def test_a_verdict_in_another_form_is_read(form, score, judge_server):
    judge_server.control(always=form)
    assert (await score(RIGHT))["judge_used"] == 1
    assert judge_server.seen()["requests"] == 1


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_the_server_says_how_long_to_wait(form, score, judge_server):
    date = email.utils.formatdate(time.time() + 2, usegmt=True)
    judge_server.control(script=[f"429:{1 if form == 'seconds' else date}"])
    start = time.monotonic()
    assert (await score(RIGHT))["judge_used"] == 1
    # A date has no fractions of a second.
    assert 0.9 < time.monotonic() - start < 3


async def test_a_server_that_wants_more_patience_than_there_is_is_not_asked_again(
    score, judge_server
):
    judge_server.control(always="429:60")
    assert (await score(RIGHT))["judge_failed"] == 1
    assert judge_server.seen()["requests"] == 1


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_nobody_there(score):
    scores = await score(RIGHT, judge={"base_url": f"http://127.0.0.1:{closed_port()}/v1"})
    assert (scores["answer"], scores["judge_failed"]) == (1, 1)


async def test_nobody_there_who_could_name_the_model(score):
    judge = {"base_url": f"http://127.0.0.1:{closed_port()}/v1", "model": None}
    assert (await score(RIGHT, judge=judge))["judge_failed"] == 1


async def test_a_third_of_faults_costs_no_reward(score, judge_server):
    faults = ["429", "429:0", "500", "drop", "drop_midway", "hang", "cut_json", "prose"]
    faults += ["one_score", "out_of_range"]
    judge_server.control(shares=dict.fromkeys(faults, 0.03), seed=7, delay_s=0.01)
    answers = [RIGHT + " " * n if n % 2 else f"Finding {n}" for n in range(200)]
    # Trailing space is no difference, so right answers are one request; the reasoning is not.
    patience = {"timeout_s": 2}
    results = await asyncio.gather(
        *(score(text, judge=patience, think=f"Step {n}.") for n, text in enumerate(answers))
    )
    for number, scores in enumerate(results):
        assert scores["judge_used"] + scores["judge_failed"] == 1
        assert scores["answer"] == number % 2
    seen = judge_server.seen()
    assert 0.2 < 1 - seen["faults"]["ok"] / seen["requests"] < 0.4
    failed = sum(scores["judge_failed"] for scores in results)
    # Four attempts at 30 % leave 0.8 % on average, and some more on a busy machine.
    assert failed <= 12


async def test_a_dead_server_is_left_alone_within_the_bound(score, judge_server):
    judge_server.control(always="hang")
    patience = {"timeout_s": 0.3, "attempts": 2, "breaker_failures": 4, "max_concurrency": 2}
    # Four failures, two at a time, each of two attempts with a wait of at most 0.02 s.
    bound = 2 * (2 * 0.3 + 0.02)
    start = time.monotonic()
    results = await asyncio.gather(*(score(f"Finding {n}", judge=patience) for n in range(200)))
    # Scoring takes its own time; all 200 waiting for their time-outs would take a minute.
    assert time.monotonic() - start < bound + 10
    assert all(scores["judge_failed"] for scores in results)
    requests = judge_server.seen()["requests"]
    assert requests <= 4 * 2 + 2
    # What comes while it is left alone is not sent.
    assert (await score("Another finding", judge=patience))["judge_failed"] == 1
    assert judge_server.seen()["requests"] == requests


async def test_a_server_that_is_back_is_asked_again(score, judge_server):
    judge_server.control(always="500")
    patience = {"attempts": 1, "breaker_failures": 2, "breaker_cooldown_s": 0.3}
    for number in range(3):
        assert (await score(f"Finding {number}", judge=patience))["judge_failed"] == 1
    assert judge_server.seen()["requests"] == 2
    judge_server.control()
    await asyncio.sleep(0.35)
    assert (await score(RIGHT, judge=patience))["judge_used"] == 1
    assert (await score(WRONG, judge=patience))["judge_used"] == 1


async def test_warnings_tell_the_fault_but_not_the_text(score, judge_server, caplog):
    judge_server.control(always="401")
    await score("Secret finding", info={"findings": "secret caption"})
    assert "HTTP status 401: judge.api_key_env" in caplog.text
    assert "ecret" not in caplog.text


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("only_thinks", "without its reasoning parser, or turn thinking off with judge.extra_body"),
        ("thinks_too_long", "cut off at judge.max_tokens while the model was still reasoning"),
    ],
)
async def test_a_reply_without_text_says_where_the_text_is(
    fault, line, score, judge_server, caplog
):
    judge_server.control(always=fault)
    assert (await score(RIGHT, judge={"attempts": 1}))["judge_failed"] == 1
    assert line in caplog.text


async def test_a_field_that_the_server_does_not_take_is_named(score, judge_server, caplog):
    judge_server.control(unknown=["top_k"])
    assert (await score(RIGHT))["judge_failed"] == 1
    assert judge_server.seen()["requests"] == 1
    assert "HTTP status 400 about top_k: leave out what the server does not take" in caplog.text
    assert 'judge.extra_body {"top_k": null}' in caplog.text
    assert (await score(RIGHT, judge={"extra_body": {"top_k": None}}))["judge_used"] == 1


async def test_proxies_of_the_environment_are_not_used(score, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    assert (await score(RIGHT))["judge_used"] == 1
