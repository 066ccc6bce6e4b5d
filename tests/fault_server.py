"""An OpenAI-compatible server over real sockets that fails as it is told.

Run as a script; it prints its port as one line. `POST /control` sets what it does and forgets what
it saw; `GET /control` tells what it saw. Its verdict is 9 and 9 for two answers with the same
words and 9 and 2 otherwise, so that a right response gets 1 from it and a wrong one 0.

Control: `script` (faults of the next requests, one each), `always` (of all after it), `shares`
(fault to probability, drawn by `seed` and request, so that the order of arrival does not matter),
`delay_s` before every answer. `verdict` "same" finds all answers equally good, "reasoning" writes a
reasoning for a row of `data_prep.synthesize` instead. `models` is what `GET /v1/models` lists.
Requests with one of the fields `unknown` are refused as hosted servers do it. A request with
`stream` gets the words of `text` one by one, `pace_s` apart; of the faults only `drop_midway`,
`hang_midway` and statuses are known there. A request whose last message has parts, as one with a
picture, gets `text`.
"""

import argparse
import asyncio
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

STATUS = {200: "OK", 307: "Temporary Redirect", 400: "Bad Request", 401: "Unauthorized"}
STATUS |= {404: "Not Found", 429: "Too Many Requests", 500: "Internal Server Error"}
STATUS |= {503: "Service Unavailable", 413: "Content Too Large", 422: "Unprocessable Content"}
DRIP_S = 0.2


class Server:
    """What to do, and what was seen."""

    def __init__(self) -> None:
        self.control: dict[str, Any] = {}
        self.reset({})

    def reset(self, control: dict[str, Any]) -> None:
        known = {
            "script": [],
            "always": "ok",
            "shares": {},
            "seed": 0,
            "delay_s": 0.0,
            "verdict": "words",
        }
        known |= {"models": ["judge"], "unknown": [], "text": "", "pace_s": 0.0}
        self.control = known | control
        self.requests = self.now = self.peak = 0
        self.faults: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []

    def fault(self, body: bytes) -> str:
        """The fault of a request: scripted, drawn, or none."""
        digest = hashlib.sha256(body).hexdigest()
        self.seen[digest] += 1
        if self.control["script"]:
            return str(self.control["script"].pop(0))
        draw = random.Random(f"{self.control['seed']} {digest} {self.seen[digest]}").random()
        for name, share in self.control["shares"].items():
            draw -= share
            if draw < 0:
                return str(name)
        return str(self.control["always"])

    def report(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "peak": self.peak,
            "faults": dict(self.faults),
            "distinct": len(self.seen),
            "bodies": self.bodies,
            "headers": self.headers,
        }


def verdict(body: dict[str, Any], control: dict[str, Any]) -> dict[str, Any]:
    """Scores of the two answers in a request."""
    if control["verdict"] == "same":
        return {"reason": "as told", "score_1": 7, "score_2": 7}
    if control["verdict"] == "reasoning":
        return reasoning(json.loads(body["messages"][1]["content"]))
    document = json.loads(body["messages"][-1]["content"])
    words = [document[key]["answer"].lower().strip(" .") for key in ("answer_1", "answer_2")]
    scores = {"score_1": 9, "score_2": 9 if words[0] == words[1] else 2}
    if "supported" in json.dumps(body.get("response_format", {})):
        scores["supported"] = "unsupported" not in json.dumps(document)
    return {"reason": "compared word by word", **scores}


def reasoning(document: dict[str, Any]) -> dict[str, Any]:
    """A reasoning that cites all regions of the answer and the first of the findings."""
    cited = [f"the {each['region']} {each['box']}" for each in document["answer_regions"]]
    first = document["findings"].split(". ")[0]
    told = f"At first {first}. Then I look at {' and '.join(cited) or 'all of it'} with care."
    filler = "Nothing else in the image changes what this shows, as far as can be seen from here."
    end = f"Therefore, the answer is {document['answer']}."
    return {"reasoning": f"{told} {filler} {end}", "answer": document["answer"]}


def said(text: str, **changes: Callable[[str], str]) -> bytes:
    """A reasoning with its texts changed."""
    reply = json.loads(text)
    return completion(json.dumps(reply | {key: new(reply[key]) for key, new in changes.items()}))


def completion(content: Any, finish: str = "stop", **fields: str) -> bytes:
    message = {"role": "assistant", "content": content, **fields}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    usage = {"prompt_tokens": 100, "completion_tokens": len(str(content)) // 4}
    reply = {"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}
    return json.dumps(reply).encode()


def changed(text: str, score: Any) -> bytes:
    return completion(json.dumps(json.loads(text) | {"score_2": score}))


# Whole replies with status 200, by fault; made from a verdict's text.
REPLIES: dict[str, Callable[[str], bytes]] = {
    "ok": lambda text: completion(text),
    "fenced": lambda text: completion(f"Here you are:\n```json\n{text}\n```\n"),
    "thinks": lambda text: completion(f"<think>perhaps {{ }} so</think>\n{text}"),
    "bare_newline": lambda text: completion(text.replace("word by word", "word\n\tby word")),
    "thinks_apart": lambda text: completion(text, reasoning="perhaps { } so"),
    "only_thinks": lambda text: completion(None, reasoning_content=text),
    "thinks_too_long": lambda text: completion(None, "length", reasoning=text),
    "quotes_tag": lambda text: completion(text.replace("word by word", "</think> {word} by word")),
    "cut_json": lambda text: completion(text[: len(text) // 2]),
    "length": lambda text: completion(text[: len(text) // 2], "length"),
    "prose": lambda text: completion("Both answers are fine, 9 and 9."),
    "list": lambda text: completion("[9, 9]"),
    "one_score": lambda text: completion('{"reason": "", "score_1": 9}'),
    "out_of_range": lambda text: changed(text, 11),
    "zero": lambda text: changed(text, 0),
    "string_score": lambda text: changed(text, "9"),
    "bool_score": lambda text: changed(text, True),
    "nan": lambda text: changed(text, float("nan")),
    "giant": lambda text: completion(text.replace("9", "9" * 5000)),
    "nested": lambda text: completion("{" * 100_000),
    "null": lambda text: completion(None),
    "half_character": lambda text: completion("half \ud800"),
    "mentions_report": lambda text: said(text, reasoning=lambda r: f"{r} The report says so."),
    "unknown_box": lambda text: said(text, reasoning=lambda r: f"{r} See [1, 2, 33, 44]."),
    "too_short": lambda text: said(text, reasoning=lambda r: "So it is."),
    "too_long": lambda text: said(text, reasoning=lambda r: r + " So it is." * 100),
    "tags": lambda text: said(text, reasoning=lambda r: f"<think>{r}</think>"),
    "other_answer": lambda text: said(
        text, answer=lambda a: {"Yes": "No", "No": "Yes"}.get(a, "Z")
    ),
    "contradicts": lambda text: said(
        text, reasoning=lambda r: r.replace("is Yes.", "is No, not so.").replace("is A.", "is B.")
    ),
    "no_choices": lambda text: b'{"choices": []}',
    "html": lambda text: b"<html><body>Bad gateway</body></html>",
    "empty": lambda text: b"",
    "huge": lambda text: b" " * (3 << 20),
}


async def serve(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection."""
    try:
        while await answer(server, reader, writer):
            pass
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def answer(
    server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    """Answer one request; returns whether the connection stays open."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:-2])}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    if path == "/control":
        if method == "POST":
            server.reset(json.loads(body))
        return await reply(writer, 200, json.dumps(server.report()).encode())
    if path == "/v1/models":
        models = [{"id": name} for name in server.control["models"]]
        return await reply(writer, 200, json.dumps({"data": models}).encode())
    if path != "/v1/chat/completions":
        return await reply(writer, 404, b"{}")
    server.requests += 1
    server.headers.append(headers)
    server.bodies.append(json.loads(body))
    server.now += 1
    server.peak = max(server.peak, server.now)
    try:
        unknown = [key for key in server.control["unknown"] if key in json.loads(body)]
        if unknown:
            message = f"Unrecognized request argument supplied: {unknown[0]}"
            return await reply(writer, 400, json.dumps({"error": {"message": message}}).encode())
        await asyncio.sleep(server.control["delay_s"])
        fault = server.fault(body)
        server.faults[fault] += 1
        if json.loads(body).get("stream") and not fault.partition(":")[0].isdecimal():
            return await stream(writer, server.control, fault)
        if isinstance(json.loads(body)["messages"][-1]["content"], list):
            return await fail(fault, server.control["text"], writer)
        right = verdict(json.loads(body), server.control)
        return await fail(fault, json.dumps(right), writer)
    finally:
        server.now -= 1


async def stream(writer: asyncio.StreamWriter, control: dict[str, Any], fault: str) -> bool:
    """Send the words of the text as vLLM does; returns that the connection is closed."""
    words = re.findall(r"\s*\S+", control["text"])
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
    writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
    for number, word in enumerate(["", *words]):
        if number > len(words) // 2 and fault != "ok":
            if fault == "hang_midway":
                await asyncio.sleep(3600)
            return False
        delta = {"content": word} | ({} if number else {"role": "assistant"})
        choices = [{"index": 0, "delta": delta, "finish_reason": None}]
        part = {"id": "1", "object": "chat.completion.chunk", "choices": choices}
        await send_part(writer, json.dumps(part))
        await asyncio.sleep(control["pace_s"])
    await send_part(writer, json.dumps({"choices": [], "usage": {"prompt_tokens": 1}}))
    await send_part(writer, "[DONE]")
    writer.write(b"0\r\n\r\n")
    return False


async def send_part(writer: asyncio.StreamWriter, text: str) -> None:
    line = f"data: {text}\n\n".encode()
    writer.write(b"%x\r\n%b\r\n" % (len(line), line))
    await writer.drain()


async def fail(fault: str, text: str, writer: asyncio.StreamWriter) -> bool:
    """Reply with a verdict as a fault says; returns whether the connection stays open."""
    name, _, detail = fault.partition(":")
    if name in REPLIES:
        return await reply(writer, 200, REPLIES[name](text))
    if name == "drop":
        return False
    if name == "hang":
        await asyncio.sleep(3600)
    whole = completion(text)
    if name in ("drop_midway", "drip"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(whole))
        for byte in whole[: len(whole) // 2]:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(DRIP_S if name == "drip" else 0)
        return False
    extra = {"307": f"Location: {detail}\r\n"}.get(name, f"Retry-After: {detail}\r\n")
    return await reply(writer, int(name), b'{"error": {}}', extra if detail else "")


async def reply(writer: asyncio.StreamWriter, status: int, payload: bytes, extra: str = "") -> bool:
    head = f"HTTP/1.1 {status} {STATUS[status]}\r\n{extra}Content-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
    await writer.drain()
    return True


async def main(control: dict[str, Any]) -> None:
    server = Server()
    server.reset(control)
    listener = await asyncio.start_server(
        lambda reader, writer: serve(server, reader, writer), "127.0.0.1", 0, backlog=1024
    )
    print(listener.sockets[0].getsockname()[1], flush=True)
    await listener.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--control", default="{}", help="JSON, as for POST /control")
    asyncio.run(main(json.loads(parser.parse_args().control)))
