"""What a judge changes in a result, with everything in order."""

import asyncio
import inspect
import subprocess
import sys

import pytest

from reward.settings import load_preset
from reward.thinkvg import SCORE_KEYS, compute_score, compute_score_judged

RIGHT = "small left pleural effusion."
WRONG = "No acute finding"


def test_the_engine_takes_it_for_asynchronous() -> None:
    assert inspect.iscoroutinefunction(compute_score_judged)
    assert not inspect.iscoroutinefunction(compute_score)


async def test_the_judge_decides_an_open_answer(score, judge_server):
    right, wrong = await score(RIGHT), await score(WRONG)
    assert (right["answer"], right["judge_used"], right["judge_failed"]) == (1, 1, 0)
    assert (wrong["answer"], wrong["judge_used"], wrong["judge_failed"]) == (0, 1, 0)
    # Answer and boxes count alike in this preset, and the boxes are right.
    assert (right["score"], wrong["score"]) == (1, 0.5)
    assert judge_server.seen()["requests"] == 2


async def test_keys_are_those_of_every_result(score):
    assert tuple(await score(RIGHT)) == SCORE_KEYS
    assert tuple(await score("")) == SCORE_KEYS


async def test_a_paraphrase_that_the_text_score_misses_is_the_judges_to_decide(score):
    # The server gives 9 and 2, seven apart: wrong at 2, right at 8.
    assert (await score(WRONG))["answer"] == 0
    assert (await score(WRONG, judge={"score_difference": 8}))["answer"] == 1


async def test_scores_that_differ_by_exactly_the_difference_are_apart(score):
    assert (await score(WRONG, judge={"score_difference": 7}))["answer"] == 0


@pytest.mark.parametrize(
    "answer",
    [
        "",  # no answer
        "  \n ",  # nothing but white space
        "x" * 2001,  # longer than any answer
    ],
)
async def test_what_is_no_answer_is_zero_by_rule_and_not_sent(answer, score, judge_server):
    scores = await score(answer)
    assert (scores["answer"], scores["judge_used"], scores["judge_failed"]) == (0, 0, 0)
    assert judge_server.seen()["requests"] == 0


CLOSED = {"question_type": "closed", "answer": "Yes"}
SINGLE = {"question_type": "single", "answer": "B", "choices": {"A": "Normal", "B": "Effusion"}}
MULTI = {**SINGLE, "question_type": "multi", "answer": ["A", "B"]}


@pytest.mark.parametrize(("truth", "answer"), [(CLOSED, "Yes"), (SINGLE, "B"), (MULTI, "A, B")])
async def test_other_question_types_are_decided_exactly(truth, answer, score, judge_server):
    scores = await score(answer, truth=truth)
    assert (scores["answer"], scores["judge_used"]) == (1, 0)
    assert judge_server.seen()["requests"] == 0


@pytest.mark.parametrize(("truth", "answer"), [(CLOSED, "Yes"), (SINGLE, "B"), (MULTI, "A, B")])
async def test_the_paper_judges_all_types_alike(truth, answer, score, judge_server):
    types = {"question_types": ["closed", "single", "multi", "open"]}
    scores = await score(answer, truth=truth, judge=types)
    assert (scores["answer"], scores["judge_used"]) == (1, 1)
    assert judge_server.seen()["requests"] == 1


async def test_the_judge_may_decide_whether_the_reasoning_supports_the_answer(score, judge_server):
    asked = {"alignment": True}
    kept = await score(RIGHT, judge=asked)
    lost = await score(RIGHT, judge=asked, think="unsupported: lung [63, 20, 98, 80].")
    assert kept["alignment"] == 1
    assert (lost["alignment"], lost["answer"]) == (0, 1)
    # Also for a question whose answer is decided exactly.
    closed = await score("Yes", judge=asked, truth=CLOSED)
    assert (closed["answer"], closed["judge_used"]) == (1, 1)
    assert judge_server.seen()["requests"] == 3


async def test_equal_responses_at_once_are_one_request(score, judge_server):
    judge_server.control(delay_s=0.1)
    results = await asyncio.gather(*(score(RIGHT) for _ in range(8)))
    assert [result["answer"] for result in results] == [1] * 8
    assert judge_server.seen()["requests"] == 1


async def test_without_a_name_the_only_model_is_asked(score, judge_server):
    judge_server.control(models=["some-model"])
    assert (await score(RIGHT, judge={"model": None}))["judge_used"] == 1
    assert judge_server.seen()["bodies"][0]["model"] == "some-model"


async def test_without_a_name_several_models_are_a_fault(score, judge_server):
    judge_server.control(models=["one", "two"])
    assert (await score(RIGHT, judge={"model": None}))["judge_failed"] == 1


async def test_the_engines_own_judge_is_used_where_no_address_is_set(judge_server, score):
    address = judge_server.url.removeprefix("http://").removesuffix("/v1")
    scores = await score(RIGHT, judge={"base_url": None}, reward_router_address=address)
    assert scores["judge_used"] == 1


async def test_a_key_is_sent_from_the_environment(judge_server, score, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY_OF_TEST", "secret")
    await score(RIGHT, judge={"api_key_env": "JUDGE_KEY_OF_TEST"})
    assert judge_server.seen()["headers"][0]["authorization"] == "Bearer secret"


async def test_nothing_that_the_environment_holds_for_another_server_is_sent(
    judge_server, score, monkeypatch
):
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", "secret")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer secret\nX-Key: secret")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.2:9/v1")
    assert (await score(RIGHT))["judge_used"] == 1
    (headers,) = judge_server.seen()["headers"]
    assert "secret" not in str(headers)
    assert "authorization" not in headers


async def test_extra_fields_reach_the_server(judge_server, score):
    await score(RIGHT, judge={"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}})
    assert judge_server.seen()["bodies"][0]["chat_template_kwargs"] == {"enable_thinking": False}


async def test_no_sampling_is_left_to_the_server(judge_server, score):
    await score(RIGHT, judge={"extra_body": {"repetition_penalty": 1.1}})
    body = judge_server.seen()["bodies"][0]
    neutral = {"temperature": 0, "top_p": 1, "top_k": -1, "min_p": 0}
    neutral |= {"presence_penalty": 0, "frequency_penalty": 0}
    assert {key: body[key] for key in neutral} == neutral
    assert body["repetition_penalty"] == 1.1  # the user's own goes first


@pytest.mark.parametrize(
    ("structured", "sent"),
    [("json_schema", "json_schema"), ("json_object", "json_object"), ("none", None)],
)
async def test_the_form_is_asked_for(structured, sent, judge_server, score):
    await score(RIGHT, judge={"structured_output": structured})
    assert judge_server.seen()["bodies"][0].get("response_format", {}).get("type") == sent


def test_one_event_loop_after_another(judge_server):
    kwargs = load_preset("paper_judge")
    kwargs["judge"] |= {"base_url": judge_server.url}
    truth = {"question_type": "open", "answer": RIGHT, "regions": [], "think_regions": []}
    truth |= {"image_size": [9, 9], "coordinates": "absolute"}
    text = f"<think>So</think><answer>{RIGHT}</answer><location></location>"
    for _ in range(3):
        scores = asyncio.run(compute_score_judged("d", text, truth, **kwargs))
        assert scores["judge_used"] == 1


def test_at_most_so_many_requests_at_a_time(judge_server):
    judge_server.control(delay_s=0.2)
    kwargs = load_preset("paper_judge")
    kwargs["judge"] |= {"base_url": judge_server.url, "max_concurrency": 16}
    truth = {"question_type": "open", "answer": RIGHT, "regions": [], "think_regions": []}
    truth |= {"image_size": [9, 9], "coordinates": "absolute"}

    async def judge_all() -> list[dict[str, float]]:
        texts = [f"<think>.</think><answer>Finding {n}</answer>" for n in range(128)]
        return await asyncio.gather(
            *(compute_score_judged("d", text, truth, **kwargs) for text in texts)
        )

    assert all(result["judge_used"] for result in asyncio.run(judge_all()))
    seen = judge_server.seen()
    assert seen["requests"] == 128
    # Nearly all that is allowed was used, so responses do not wait for each other.
    assert 12 <= seen["peak"] <= 16


def test_scoring_without_a_judge_needs_no_package_of_it():
    code = (
        "import sys; blocked = ('openai', 'tenacity', 'diskcache', 'verl', 'torch')\n"
        "sys.modules.update(dict.fromkeys(blocked))\n"
        "from reward.settings import load_preset\n"
        "from reward.thinkvg import compute_score\n"
        "import reward.__main__\n"
        "load_preset('paper_judge'), load_preset('dense')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_missing_package_is_one_line_that_says_how_to_get_it():
    code = (
        "import asyncio, sys; sys.modules['openai'] = None\n"
        "from reward.thinkvg import compute_score_judged\n"
        "asyncio.run(compute_score_judged('d', '', '{}', judge={}))"
    )
    command = [sys.executable, "-c", code]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60)
    last = finished.stderr.strip().splitlines()[-1]
    install = "in this project's folder, pip install -e '.[judge]'"
    expected = f"asking a server needs the package openai: {install}"
    assert last == f"ValueError: {expected}"
