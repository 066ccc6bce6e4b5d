"""Small questions, responses and parquet files whose scores can be worked out by hand; a server."""

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from qwen_vl_utils.vision_process import smart_resize

from recipe.evaluate.predictions import Prediction

TRUE_BOX = [0, 0, 50, 100]  # the left half of a 100 x 100 image


@pytest.fixture
def make_truth() -> Callable[..., dict[str, Any]]:
    """A ground truth: closed, answer Yes, the left half, unless told otherwise."""

    def make(question_type: str = "closed", answer: Any = "Yes", **changes: Any) -> dict[str, Any]:
        letters = question_type in ("single", "multi")
        regions = [{"ref": "left lung", "box": TRUE_BOX}]
        return {
            "question_type": question_type,
            "answer": answer,
            "choices": {"A": "opacity", "B": "effusion", "C": "device"} if letters else None,
            "regions": regions,
            "think_regions": regions,
            "image_size": [100, 100],
            "coordinates": "absolute",
        } | changes

    return make


@pytest.fixture
def make_prediction(make_truth: Callable[..., dict[str, Any]]) -> Callable[..., Prediction]:
    """An unscored prediction; `height` of its box over the true one's 100 is its IoU."""

    def make(
        index: int,
        answer: str = "Yes",
        height: int = 100,
        sample: int = 0,
        question_type: str = "closed",
        true_answer: Any = "Yes",
    ) -> Prediction:
        box = [0, 0, 50, height]
        response = (
            f"<think>the left lung {box} is seen</think>\n<answer>{answer}</answer>\n"
            f"<location><ref>left lung</ref><box>{box}</box></location>"
        )
        return Prediction(
            f"q{index}",
            index,
            sample,
            response,
            make_truth(question_type, true_answer),
            {"question": "?"},
        )

    return make


@pytest.fixture
def write_parquet(tmp_path: Path) -> Callable[..., Path]:
    """Write ground truths as rollout parquet; `extra_info.index` counts from 0."""

    def write(name: str, truths: list[dict[str, Any]]) -> Path:
        rows = [
            {
                "reward_model": {"style": "rule", "ground_truth": json.dumps(truth)},
                "extra_info": {"index": index, "patient": f"p9000000{index}"},
                "images": [{"image": f"{index}.jpg", "min_pixels": 1, "max_pixels": 2}],
            }
            for index, truth in enumerate(truths)
        ]
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path

    return write


class Served:
    """A chat server that says which pictures it saw; `faults` are statuses of the next requests.

    It resizes pictures to `pixels`, counts tokens as Qwen's processor does, and refuses requests
    with a field of `unknown`. `choice` and `usage` change its replies.
    """

    def __init__(self) -> None:
        self.faults: list[int] = []
        self.pixels = (3136, 12544)
        self.words = 5
        self.unknown: list[str] = []
        self.choice: dict[str, Any] = {}
        self.usage: dict[str, Any] | None = {}
        self.bodies: list[dict[str, Any]] = []
        self.models = ["tiny"]
        self.knows_n = True
        self.url = ""

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        self.bodies.append(body)
        *pictures, _ = body["messages"][0]["content"]
        text, tokens = "no picture", self.words
        for part in pictures:
            url = part["image_url"]["url"]
            image = Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1])))
            text = f"{image.size} {image.getpixel((0, 0))}"
            height, width = smart_resize(image.height, image.width, 28, *self.pixels)
            tokens += height * width // 28**2 + 2
        choices = [
            {"index": k, "message": {"role": "assistant", "content": f"{text} {k}"}, **self.choice}
            for k in reversed(range(body.get("n", 1) if self.knows_n else 1))
        ]
        if self.usage is None:
            return {"choices": choices}
        return {"choices": choices, "usage": {"prompt_tokens": tokens, **self.usage}}

    def refusal(self, body: dict[str, Any]) -> str:
        """What a hosted server says of the first field that it does not know."""
        unknown = [key for key in self.unknown if key in body]
        return f"Unrecognized request argument supplied: {unknown[0]}" if unknown else ""


@pytest.fixture
def served() -> Iterator[Served]:
    state = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send(200, {"data": [{"id": name} for name in state.models]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if state.faults:
                self.send(state.faults.pop(0), {})
            elif state.refusal(body):
                self.send(400, {"error": {"message": state.refusal(body)}})
            else:
                self.send(200, state.reply(body))

        def send(self, status: int, content: Any) -> None:
            payload = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *arguments: Any) -> None:
            del arguments

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield state
    server.shutdown()
    thread.join()
