"""One request to a server over real sockets, and what stops further ones."""

import asyncio
import json

import pytest

from llm_client.client import ChatClient
from llm_client.server import (
    BreakerOpen,
    PermanentFault,
    ServerSettings,
    TransientFault,
    chat_body,
    whole_text,
)

ANSWERS = {"answer_1": {"answer": "a"}, "answer_2": {"answer": "a"}}
BODY = chat_body("judge", [{"role": "user", "content": json.dumps(ANSWERS)}], {}, {})


async def ask(client: ChatClient) -> str:
    return await client.complete(BODY, lambda reply: whole_text(reply, ServerSettings.option).text)


async def test_a_server_that_is_left_alone_is_named_with_its_last_fault(judge_server) -> None:
    judge_server.control(script=["401", "503"])
    address = {"base_url": judge_server.url, "attempts": 1, "breaker_failures": 2}
    client = ChatClient(ServerSettings.parse(address))
    with pytest.raises(PermanentFault, match=r"HTTP status 401: server\.api_key_env names"):
        await ask(client)
    with pytest.raises(TransientFault, match="HTTP status 503"):
        await ask(client)
    with pytest.raises(BreakerOpen, match=r"2 failed requests in a row \(last: HTTP status 503\)"):
        await ask(client)
    await client.aclose()
    assert judge_server.seen()["requests"] == 2


async def test_one_attempt_at_a_time_tries_whether_the_server_is_back(judge_server) -> None:
    judge_server.control(always="500", delay_s=0.2)
    patience = {"attempts": 1, "breaker_failures": 1, "breaker_cooldown_s": 0.5}
    client = ChatClient(ServerSettings.parse({"base_url": judge_server.url, **patience}))
    with pytest.raises(TransientFault):
        await ask(client)
    await asyncio.sleep(0.6)
    results = await asyncio.gather(*(ask(client) for _ in range(8)), return_exceptions=True)
    await client.aclose()
    assert sorted(type(result).__name__ for result in results) == [
        *["BreakerOpen"] * 7,
        "TransientFault",
    ]
    assert judge_server.seen()["requests"] == 2


@pytest.mark.parametrize("status", ["400", "413", "422"])
async def test_a_server_that_refuses_many_requests_is_not_left_alone(judge_server, status) -> None:
    judge_server.control(script=["503", *[status] * 20, "503"])
    address = {"base_url": judge_server.url, "attempts": 1, "breaker_failures": 2}
    client = ChatClient(ServerSettings.parse(address))
    for fault in (TransientFault, *[PermanentFault] * 20, TransientFault):
        with pytest.raises(fault, match="HTTP status"):
            await ask(client)
    assert "score_1" in await ask(client)  # the two failures are not in a row
    await client.aclose()


async def test_one_who_is_cancelled_leaves_the_others_their_model(judge_server) -> None:
    judge_server.control(models=["some-model"])
    client = ChatClient(ServerSettings.parse({"base_url": judge_server.url}))
    names = [asyncio.create_task(client.model_name()) for _ in range(3)]
    await asyncio.sleep(0)
    names[0].cancel()
    results = await asyncio.gather(*names, return_exceptions=True)
    await client.aclose()
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == ["some-model"] * 2


async def test_half_a_character_becomes_a_question_mark(judge_server) -> None:
    judge_server.control(always="half_character")
    client = ChatClient(ServerSettings.parse({"base_url": judge_server.url}))
    assert await ask(client) == "half ?"
    await client.aclose()


async def streamed(client: ChatClient) -> list[str]:
    """The texts so far of a streamed reply, in order."""
    return [choice.message.content async for choice in client.stream({**BODY, "stream": True})]


async def test_a_streamed_reply_grows_word_by_word(judge_server) -> None:
    judge_server.control(text="one two  three")
    client = ChatClient(ServerSettings.parse({"base_url": judge_server.url}))
    assert await streamed(client) == ["", "one", "one two", "one two  three"]
    await client.aclose()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("503", "HTTP status 503"),
        ("drop_midway", "no connection or a broken one"),
        ("hang_midway", r"no whole reply within 0\.5 s"),  # the wait for the next word
    ],
)
async def test_a_stream_that_breaks_off_is_a_fault(judge_server, fault, message) -> None:
    judge_server.control(text="one two three four", script=[fault])
    settings = {"base_url": judge_server.url, "timeout_s": 0.5}
    client = ChatClient(ServerSettings.parse(settings))
    with pytest.raises(TransientFault, match=message):
        await streamed(client)
    await client.aclose()
