"""The local page: a small server on 127.0.0.1 that keeps pictures in memory and sends nothing on.

The page itself holds no data. Every other address wants the key that the program prints as a part
of the page's address, after its ``#``, which a browser never sends: so neither another user of the
machine nor another web page can ask or read anything. A wrong Host (a name that was made to point
to 127.0.0.1) and a foreign Origin are refused as well.

An answer is a line of JSON for each part of it, with the whole of what the page then shows.
"""

import asyncio
import json
import re
import secrets
import socket
import traceback
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Protocol

import uvicorn
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from data_prep.program import InputError
from data_prep.rows.answers import split_choices
from recipe.ask.question import (
    Asked,
    Examples,
    PreparedRow,
    Training,
    known_case,
    read_picture,
    read_question,
    scored,
)
from recipe.evaluate.generation import Prompt
from recipe.evaluate.predictions import first_fault
from recipe.program import describe
from recipe.report.cases import PARTS, encode
from recipe.report.page import layers, script_json, template
from reward.response import replace_boxes

HOST = "127.0.0.1"
HOST_NAMES = (HOST, "localhost")
MOST_BYTES = 64 << 20
"""Largest file of a picture."""
MOST_REQUEST_BYTES = 1 << 20
"""Largest question, as JSON."""
MOST_PICTURES = 16
"""Pictures in memory; the one that was used longest ago gives way."""
MOST_QUESTIONS = 8
"""Questions that are answered at one time; more are refused."""
MOST_EXAMPLES = 50
"""Prepared questions of each type that the page offers."""
MOST_TEMPERATURE = 2.0
ANSWER_S = 600.0
"""Longest time for an answer."""
PART_S = 0.05
"""Shortest time between two parts of an answer, since the page draws each anew."""
SHOWN_AS = (1024, 85)
"""Longest side in pixels and quality of a picture on the page."""
ROW = "row-"
_NUMBER = re.compile(r"[0-9]{1,18}")

HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
POLICY = (
    "default-src 'none'; img-src data:; connect-src 'self'; style-src 'nonce-{nonce}'; "
    "script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Model(Protocol):
    """A model that answers word by word."""

    def stream(self, prompt: Prompt, temperature: float) -> AsyncGenerator[str, None]:
        """Yield the whole response so far."""


class NamedModel(NamedTuple):
    """A model, its name on the page, and how it was trained."""

    title: str
    model: Model
    training: Training


class QuestionForm(BaseModel):
    """What the page sends to ask."""

    model_config = ConfigDict(extra="forbid")

    picture: str
    question: str
    kind: str = "open"
    choices: list[str] = []
    temperature: float = Field(default=0.0, ge=0.0, le=MOST_TEMPERATURE, allow_inf_nan=False)


class Page:
    """The server of one page, for any number of browsers."""

    def __init__(
        self, models: Mapping[str, NamedModel], examples: Examples | None, notice: str = ""
    ) -> None:
        """Prepare the page; `models` are by key, `notice` is a line above the form."""
        self.key = secrets.token_urlsafe(16)
        self._models, self._examples, self._notice = models, examples, notice
        self._pictures: OrderedDict[str, Image.Image] = OrderedDict()
        self._running = 0
        self._count = 0

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/", self._show),
                Route("/examples", self._with_key(self._list_examples)),
                Route("/examples/{index}", self._with_key(self._open_example)),
                Route("/pictures", self._with_key(self._take_picture), methods=["POST"]),
                Route("/ask", self._with_key(self._ask), methods=["POST"]),
            ]
        )

    async def _show(self, request: Request) -> Response:
        if fault := _foreign(request):
            return _refusal(403, fault)
        nonce = secrets.token_urlsafe(16)
        titles = {key: named.title for key, named in self._models.items()}
        text = template("ask.html.j2").render(
            nonce=nonce,
            layers=layers(titles),
            notice=self._notice,
            megabytes=MOST_BYTES >> 20,
            case_json=script_json({"models": titles, "parts": PARTS, "frame": "the picture"}),
        )
        policy = {"Content-Security-Policy": POLICY.format(nonce=nonce)}
        return HTMLResponse(text, headers=HEADERS | policy)

    def _with_key(
        self, handle: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return a handler that refuses requests of others, and turns faults into one line."""

        async def guarded(request: Request) -> Response:
            if fault := _foreign(request):
                return _refusal(403, fault)
            if not secrets.compare_digest(
                request.headers.get("x-key", "").encode(), self.key.encode()
            ):
                return _refusal(403, "open the address that the program printed: it has the key")
            try:
                return await handle(request)
            except InputError as error:
                # Not an error's status, which browsers also write to their console.
                return _refusal(200, str(error))
            except ClientDisconnect:
                return _refusal(400, "the browser went away")

        return guarded

    async def _list_examples(self, request: Request) -> Response:
        chosen = self._examples.choose(MOST_EXAMPLES) if self._examples else []
        return _reply({"examples": chosen})

    async def _open_example(self, request: Request) -> Response:
        identity = f"{ROW}{request.path_params['index']}"
        row, asked = await asyncio.to_thread(self._prepared, identity)
        self._store(identity, row.picture)
        text = replace_boxes(row.question.text, asked.box_in_pixels)
        choices = row.question.choices or {}
        form = {
            "question": split_choices(text, choices),
            "kind": row.question.kind,
            "choices": list(choices.values()),
        }
        return _reply(form | await self._shown_picture(identity))

    async def _take_picture(self, request: Request) -> Response:
        content = await _body(request, MOST_BYTES, "the picture")
        self._count += 1
        identity, name = f"upload-{self._count}", "the picture"
        self._store(identity, await asyncio.to_thread(read_picture, content, name))
        return _reply(await self._shown_picture(identity))

    async def _ask(self, request: Request) -> Response:
        content = await _body(request, MOST_REQUEST_BYTES, "the question")
        try:
            form = QuestionForm.model_validate_json(content)
        except ValidationError as error:
            raise InputError(first_fault(error)) from None
        if self._running >= MOST_QUESTIONS:
            raise InputError(f"{self._running} questions are being answered: ask again in a while")
        self._running += 1  # from here on, since the question is read in another thread
        try:
            row, asked = await asyncio.to_thread(self._read_form, form)
            self._count += 1
            identity = str(self._count)
            first = next(iter(asked.values()))
            case = known_case(identity, row, first) if row else first.case(identity)
        except BaseException:
            self._end_question()
            raise
        lines = self._answers(case, asked, row, form.temperature)
        return _Answer(lines, self._end_question)

    def _end_question(self) -> None:
        self._running -= 1

    def _read_form(self, form: QuestionForm) -> tuple[PreparedRow | None, dict[str, Asked]]:
        """Return the question for each model, and the prepared row if it is that row's own."""
        question = read_question(form.question, form.kind, form.choices)
        if form.picture.startswith(ROW):
            row, asked = self._prepared(form.picture)
            in_pixels = replace_boxes(row.question.text, asked.box_in_pixels)
            if question.kind == row.question.kind and question.text == in_pixels:
                prepared = {
                    key: named.training.prepared(row.messages, row.question, row.picture)
                    for key, named in self._models.items()
                }
                return row, prepared
            self._store(form.picture, row.picture)
        if form.picture not in self._pictures:
            raise InputError("choose a picture first; one of long ago has to be chosen again")
        self._pictures.move_to_end(form.picture)
        picture = self._pictures[form.picture]
        trained = {key: named.training for key, named in self._models.items()}
        return None, {key: each.asked(question, picture) for key, each in trained.items()}

    def _prepared(self, identity: str) -> tuple[PreparedRow, Asked]:
        """Return a prepared row, and how its first model reads it."""
        number = identity.removeprefix(ROW)
        if self._examples is None:
            raise InputError("the program was started without prepared questions (--data)")
        if not _NUMBER.fullmatch(number):
            raise InputError(f"no prepared question {number[:20]}: choose one of the list")
        row = self._examples.row(int(number))
        training = next(iter(self._models.values())).training
        return row, training.prepared(row.messages, row.question, row.picture)

    def _store(self, identity: str, picture: Image.Image) -> None:
        self._pictures[identity] = picture
        self._pictures.move_to_end(identity)
        while len(self._pictures) > MOST_PICTURES:
            self._pictures.popitem(last=False)

    async def _shown_picture(self, identity: str) -> dict[str, Any]:
        picture = self._pictures[identity]
        uri = await asyncio.to_thread(encode, picture.copy(), SHOWN_AS)
        return {"picture": identity, "size": picture.size, "shown": uri}

    async def _answers(
        self,
        case: dict[str, Any],
        asked: Mapping[str, Asked],
        row: PreparedRow | None,
        temperature: float,
    ) -> AsyncIterator[str]:
        """Yield lines of JSON: the case, then parts of all models' answers as they come."""
        lines: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(maxsize=4 * len(asked))
        tasks = [
            asyncio.create_task(self._answer(key, each, row, temperature, lines))
            for key, each in asked.items()
        ]
        try:
            yield _line({"case": case})
            left = len(tasks)
            while left:
                line = await lines.get()
                if line is None:
                    left -= 1
                else:
                    yield _line(line)
        finally:  # also when the browser goes away: vLLM then drops the request
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(
        self,
        key: str,
        asked: Asked,
        row: PreparedRow | None,
        temperature: float,
        lines: asyncio.Queue[dict[str, Any] | None],
    ) -> None:
        """Put the parts of a model's answer into a queue, at last None."""
        title = self._models[key].title
        try:
            async with asyncio.timeout(ANSWER_S):
                async for part in self._parts(key, asked, row, temperature):
                    await lines.put({"model": key, **part})
        except InputError as error:
            await lines.put({"model": key, "fault": f"{title}: {error}"})
        except TimeoutError:
            fault = f"{title}: no whole answer within {ANSWER_S:g} s"
            await lines.put({"model": key, "fault": fault})
        except Exception as error:  # whatever the engine raises
            traceback.print_exc()
            fault = f"{title}: {describe(error)}: start the program again if this stays"
            await lines.put({"model": key, "fault": fault})
        await lines.put(None)

    async def _parts(
        self, key: str, asked: Asked, row: PreparedRow | None, temperature: float
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield what the page shows of a growing answer, and of the whole one with its times."""
        clock = asyncio.get_running_loop().time
        started = last = clock()
        first: float | None = None
        text = ""
        async for text in self._models[key].model.stream(asked.prompt, temperature):
            now = clock()
            if first is None or now - last >= PART_S:
                first, last = first or now - started, now
                yield {"answer": asked.shown(_whole_tags(text))}
        times = {"first_word_s": first or 0.0, "seconds": clock() - started}
        rounded = {name: round(seconds, 2) for name, seconds in times.items()}
        yield {"answer": scored(row, asked, text) if row else asked.shown(text), **rounded}


class _Answer(StreamingResponse):
    """Lines of JSON; `ended` is called once, also if the browser goes away before the first."""

    def __init__(self, lines: AsyncIterator[str], ended: Callable[[], None]) -> None:
        super().__init__(lines, media_type="application/x-ndjson", headers=HEADERS)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


def _whole_tags(text: str) -> str:
    """Return a text that is being written without a tag that has only begun."""
    start = text.rfind("<")
    return text[:start] if start >= 0 and ">" not in text[start:] else text


def _foreign(request: Request) -> str:
    """Return why a request does not come from this page in a browser of this machine."""
    host = request.headers.get("host", "")
    if host.rpartition(":")[0] not in HOST_NAMES and host not in HOST_NAMES:
        return f"this is a page of {HOST}, not of another name"
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "none")
    if origin not in (None, f"http://{host}") or site not in ("none", "same-origin"):
        return "another web page may not ask here"
    return ""


async def _body(request: Request, limit: int, name: str) -> bytes:
    """Return the body of a request; raise InputError if it is longer than `limit` bytes."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > limit:
            size = f"{limit >> 20} MB"
            raise InputError(f"{name} is too large: at most {size}")
    return bytes(content)


def _reply(content: Mapping[str, Any]) -> JSONResponse:
    return JSONResponse(content, headers=HEADERS)


def _refusal(status: int, fault: str) -> JSONResponse:
    # Without reading what is left of the body, which may be large.
    return JSONResponse(
        {"fault": fault}, status_code=status, headers=HEADERS | {"Connection": "close"}
    )


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"


def listen(port: int) -> socket.socket:
    """Return a socket that listens on a port of 127.0.0.1, 0 for any free one.

    Raises:
        InputError: the port cannot be had.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()  # a browser that comes while models load waits for them
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--port {port}: {reason}: give another one, or 0 for any") from None
    return listener


async def serve(page: Page, listener: socket.socket) -> None:
    """Serve the page until Ctrl-C or SIGTERM; answers that are being written end with it."""
    config = uvicorn.Config(
        page.app(),
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    await uvicorn.Server(config).serve(sockets=[listener])
