"""The server of the page: who may ask, what comes back, and what is refused in one line."""

import asyncio
import io
import json
import re
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.program import InputError, encode_metadata, read_metadata
from data_prep.thinkvg import main as thinkvg
from recipe.ask import page as page_module
from recipe.ask.__main__ import _notice
from recipe.ask.page import HOST, NamedModel, Page, listen
from recipe.ask.question import Examples, read_training
from recipe.evaluate.serving import ServedModel
from recipe.program import compose_config

LIMITS = ("--min-pixels", "12544", "--max-pixels", "15680")
ADDRESS = f"http://{HOST}:8600"
LONG = "row-" + "9" * 5000
"""More digits than Python makes a number of."""
RESPONSE = (
    "<think>The left lung [56, 28, 84, 112] shows an opacity. So it is.</think>\n"
    "<answer>Yes</answer>\n<location><ref>left lung</ref><box>[56, 28, 84, 112]</box></location>"
)


@pytest.fixture(scope="module")
def examples(phantom: Path, tmp_path_factory) -> Examples:
    out = tmp_path_factory.mktemp("prepared")
    places = ("--source", str(phantom), "--images", str(phantom / "files"), "--out", str(out))
    shares = ("--val", "0.1", "--test", "0.2", "--limit", "400", "--workers", "1")
    assert thinkvg([*places, *LIMITS, *shares]) == 0
    return Examples(out / "test.parquet")


def test_only_drawn_questions_are_called_synthetic(examples: Examples, tmp_path: Path) -> None:
    drawn = examples._path
    assert "synthetic" in _notice(drawn.parent)
    values = {**read_metadata(drawn), "notice": "Reasoning written by a language model."}
    rows = pq.read_table(drawn).replace_schema_metadata(encode_metadata(values))
    pq.write_table(rows, tmp_path / drawn.name)
    assert _notice(tmp_path) == _notice(None) == ""


def served(title: str, url: str) -> NamedModel:
    """The model behind a server."""
    overrides = [f"server.base_url={url}", "data.dir=none", "server.timeout_s=5"]
    training = read_training(None, {"model_type": "qwen2_5_vl"}, True, (12544, 15680))
    return NamedModel(title, ServedModel(compose_config("evaluate", overrides), 14), training)


@pytest.fixture
def page(judge_server, examples: Examples) -> Page:
    """A page whose model says `RESPONSE` to everything."""
    judge_server.control(text=RESPONSE)
    return Page({"model-1": served("SFT", judge_server.url)}, examples)


def browser(page: Page, key: str | None = None, **headers: str) -> httpx.AsyncClient:
    """A client that has the key of the page, or another one."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(page.app()),
        base_url=ADDRESS,
        headers={"x-key": page.key if key is None else key, **headers},
    )


def picture(size: tuple[int, int] = (1120, 1120)) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise(size, 40).save(stream, "PNG")
    return stream.getvalue()


async def ask(client: httpx.AsyncClient, **form: object) -> list[dict]:
    """The lines of the answer; it must be one."""
    reply = await client.post("/ask", json=form)
    assert reply.status_code == 200, reply.text
    return [json.loads(line) for line in reply.text.splitlines()]


async def test_only_who_has_the_key_sees_anything(page) -> None:
    async with browser(page, key="guessed") as client:
        shown = await client.get("/")
        assert shown.status_code == 200
        assert page.key not in shown.text
        assert "opacity?" not in shown.text.replace('placeholder="Is there an opacity', "")
        for request in (
            client.get("/examples"),
            client.get("/examples/0"),
            client.post("/pictures", content=picture()),
            client.post("/ask", json={}),
        ):
            reply = await request
            assert reply.status_code == 403
            assert "the key" in reply.json()["fault"]
    assert not page._pictures


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "rebound.example:8600"},  # a name that its owner made to point to 127.0.0.1
        {"host": "127.0.0.1.example"},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9999"},  # another program of this machine
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
async def test_other_pages_are_refused_even_with_the_key(page, headers) -> None:
    async with browser(page, **headers) as client:
        for address in ("/", "/examples"):
            assert (await client.get(address)).status_code == 403
        reply = await client.post("/ask", json={"picture": "row-1", "question": "Is it?"})
        assert reply.status_code == 403


async def test_the_page_lets_nothing_in_or_out(page) -> None:
    async with browser(page) as client:
        reply = await client.get("/", headers={"origin": ADDRESS})
    policy = reply.headers["content-security-policy"]
    (nonce,) = set(re.findall(r"'nonce-([^']+)'", policy))
    for part in ("default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"):
        assert part in policy
    for tag in re.findall(r"<(?:script|style)\b[^>]*>", reply.text):
        assert f'nonce="{nonce}"' in tag or "application/json" in tag
    assert not re.search(r"(?:src|href)=\"https?:", reply.text)
    assert "access-control-allow-origin" not in reply.headers


async def test_an_answer_grows_and_its_boxes_are_in_the_pictures_pixels(page, judge_server) -> None:
    judge_server.control(text=RESPONSE, pace_s=0.08)
    async with browser(page) as client:
        chosen = (await client.post("/pictures", content=picture())).json()
        assert chosen["size"] == [1120, 1120]
        assert chosen["shown"].startswith("data:image/webp;base64,")
        case, *parts = await ask(client, picture=chosen["picture"], question="Is it?")
    assert case["case"]["question"] == "Is it?"
    assert "answer" not in case["case"]  # nothing is known
    assert len(parts) > 5
    last = parts[-1]["answer"]
    assert last["raw"] == RESPONSE
    assert last["answer"] == "Yes"
    (region,) = last["regions"]
    assert region == {
        "ref": "left lung",
        "at": [560, 280, 280, 840],
        "text": "[560, 280, 840, 1120]",
    }
    assert "correct" not in last
    cited = [len(part["answer"]["cited"]) for part in parts]
    assert cited == sorted(cited)
    assert set(cited) == {0, 1}
    assert not parts[cited.index(1)]["answer"]["answer"]  # it is cited before there is an answer
    for part in parts:  # a tag that has only begun is not text
        for sentence in part["answer"]["think"]:
            assert all("<" not in text for text, _ in sentence)
    (body,) = judge_server.seen()["bodies"]
    assert "Reason in <think></think>" in json.dumps(body["messages"])
    assert page._running == 0


async def test_a_prepared_question_is_scored_until_it_is_changed(page, examples) -> None:
    async with browser(page) as client:
        listed = (await client.get("/examples")).json()["examples"]
        index = next(each["index"] for each in listed if each["kind"] == "multi")
        row = (await client.get(f"/examples/{index}")).json()
        form = {key: row[key] for key in ("picture", "question", "kind", "choices")}
        case, *_, last = await ask(client, **form)
        other, *_, changed = await ask(client, **form | {"question": "Which of them?"})
    assert len(form["choices"]) == 4
    assert case["case"]["answer"]
    assert last["answer"]["parts"]["format"] == 1
    assert last["answer"]["correct"] is False
    assert "answer" not in other["case"]
    assert "parts" not in changed["answer"]


async def test_one_model_that_fails_leaves_the_other_its_answer(page, judge_server) -> None:
    gone = listen(0)
    port = gone.getsockname()[1]
    gone.close()
    models = {
        "model-1": page._models["model-1"],
        "model-2": served("B", f"http://{HOST}:{port}/v1"),
    }
    models["model-2"].model._settings = models["model-2"].model._settings.model_copy(
        update={"attempts": 1}
    )
    async with browser(Page(models, None)) as client, browser(page):
        chosen = (await client.post("/pictures", content=picture((300, 200)))).json()
        lines = await ask(client, picture=chosen["picture"], question="Is it?")
    (fault,) = [line for line in lines if "fault" in line]
    assert fault["model"] == "model-2"
    assert re.fullmatch(r"B: server\.base_url=\S+: no connection .*", fault["fault"])
    assert next(line for line in lines if "seconds" in line)["answer"]["answer"] == "Yes"


async def test_several_questions_are_answered_at_the_same_time(page, judge_server) -> None:
    judge_server.control(text=RESPONSE, pace_s=0.05)
    async with browser(page) as first, browser(page) as second:
        names = [
            (await each.post("/pictures", content=picture((300, 200)))).json()["picture"]
            for each in (first, second)
        ]
        pairs = zip((first, second), names, strict=True)
        answers = [ask(each, picture=name, question=name) for each, name in pairs]
        answer_lines = await asyncio.gather(*answers)
    assert judge_server.seen()["peak"] == 2
    assert [lines[0]["case"]["question"] for lines in answer_lines] == names
    assert all(lines[-1]["answer"]["answer"] == "Yes" for lines in answer_lines)


async def test_more_questions_than_fit_are_refused_also_when_all_come_at_once(
    page, judge_server
) -> None:
    judge_server.control(text=RESPONSE, pace_s=0.05)
    most = page_module.MOST_QUESTIONS
    async with browser(page) as client:
        name = (await client.post("/pictures", content=picture((300, 200)))).json()["picture"]
        answers = [ask(client, picture=name, question=f"Is it {n}?") for n in range(3 * most)]
        first = [lines[0] for lines in await asyncio.gather(*answers)]
    assert sum("case" in line for line in first) == most
    assert sum("are being answered" in line.get("fault", "") for line in first) == 2 * most
    assert page._running == 0


async def test_faults_of_the_input_are_one_line(page, monkeypatch) -> None:
    monkeypatch.setattr(page_module, "MOST_BYTES", 2 << 20)
    async with browser(page) as client:
        chosen = (await client.post("/pictures", content=picture((300, 200)))).json()["picture"]
        for address, options, fault in (
            (
                "/pictures",
                {"content": b"no picture"},
                "the picture: not a readable picture (no known format)",
            ),
            ("/pictures", {"content": bytes(3 << 20)}, "the picture is too large: at most 2 MB"),
            ("/ask", {"content": bytes(2 << 20)}, "the question is too large: at most 1 MB"),
            ("/ask", {"content": b"{"}, "Invalid JSON"),
            ("/ask", {"json": {"picture": chosen}}, "question: Field required"),
            ("/ask", {"json": {"picture": chosen, "question": " "}}, "the question is empty"),
            ("/ask", {"json": {"picture": "upload-99", "question": "Is it?"}}, "choose a picture"),
            (
                "/ask",
                {"json": {"picture": "row-x", "question": "Is it?"}},
                "no prepared question x",
            ),
            ("/ask", {"json": {"picture": LONG, "question": "Is it?"}}, "no prepared question 99"),
        ):
            reply = await client.post(address, **options)
            assert fault in reply.json()["fault"]
            assert "\n" not in reply.json()["fault"]
        assert "no question 99999999" in (await client.get("/examples/99999999")).json()["fault"]
        reply = await client.get(f"/examples/{LONG.removeprefix('row-')}")
        assert "no prepared question 99" in reply.json()["fault"]


async def test_pictures_of_long_ago_give_way(page) -> None:
    async with browser(page) as client:
        content = picture((64, 64))
        names = [
            (await client.post("/pictures", content=content)).json()["picture"]
            for _ in range(page_module.MOST_PICTURES + 1)
        ]
        reply = await client.post("/ask", json={"picture": names[0], "question": "Is it?"})
        assert "has to be chosen again" in reply.json()["fault"]
        assert await ask(client, picture=names[1], question="Is it?")


def test_a_port_in_use_is_one_line() -> None:
    with listen(0) as listener:
        port = listener.getsockname()[1]
        assert listener.getsockname()[0] == HOST
        with pytest.raises(InputError, match=f"--port {port}: Address already in use"):
            listen(port)
    with pytest.raises(InputError, match="--port 70000"):
        listen(70000)
