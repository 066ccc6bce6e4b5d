"""A model behind a real HTTP server: what is sent, what is read, and what is refused."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from omegaconf import OmegaConf
from PIL import Image
from tqdm import tqdm

from recipe.errors import InputError
from recipe.generation import Prompt, with_other_pictures
from recipe.program import compose_config
from recipe.serving import ServedModel, check_server


class Served:
    """A chat server that says which pictures it saw; `faults` are statuses of the next requests."""

    def __init__(self) -> None:
        self.faults: list[int] = []
        self.bodies: list[dict[str, Any]] = []
        self.models = ["tiny"]
        self.url = ""

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        self.bodies.append(body)
        url = body["messages"][0]["content"][0]["image_url"]["url"]
        image = Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1])))
        text = f"{image.size} {image.getpixel((0, 0))}"
        choices = [
            {"index": k, "message": {"role": "assistant", "content": f"{text} {k}"}}
            for k in reversed(range(body["n"]))
        ]
        return {"choices": choices}


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


@pytest.fixture
def config(served: Served) -> Any:
    overrides = ["data.dir=D", f"server.base_url={served.url}", "server.attempts=2"]
    return compose_config("evaluate", overrides)


@pytest.fixture
def prompts(tmp_path: Any) -> list[Prompt]:
    """Two questions about two patients, a white picture and a black one of another shape."""
    made = []
    for number, (size, colour) in enumerate((((112, 112), "white"), ((140, 84), "black"))):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", size, colour).save(path)
        image = {"image": str(path), "min_pixels": 3136, "max_pixels": 12544}
        messages = [{"role": "user", "content": "<image>What is seen?"}]
        made.append(Prompt(number, messages, [image], "{}", {"patient": f"p{number}"}))
    return made


def ask(config: Any, prompts: list[Prompt], samples: int = 1) -> list[list[str]]:
    with tqdm(total=len(prompts), disable=True) as bar:
        model = ServedModel(config, patch_size=14)
        return model.answer(prompts, temperature=0.0, samples=samples, progress=bar)


def test_pictures_are_sent_in_the_size_of_the_boxes(config: Any, prompts: Any) -> None:
    assert ask(config, prompts, samples=2) == [
        ["(112, 112) (255, 255, 255) 0", "(112, 112) (255, 255, 255) 1"],
        ["(140, 84) (0, 0, 0) 0", "(140, 84) (0, 0, 0) 1"],
    ]


def test_the_question_and_the_settings_are_sent(config: Any, prompts: Any, served: Any) -> None:
    config.server.extra_body = OmegaConf.create({"top_k": 5})
    ask(config, prompts[:1])
    body = served.bodies[0]
    assert body["model"] == "tiny"
    assert body["messages"][0]["content"][1] == {"type": "text", "text": "What is seen?"}
    assert (body["max_tokens"], body["top_k"], body["temperature"]) == (1024, 5, 0.0)


def test_controls_keep_the_size_and_change_the_picture(config: Any, prompts: Any) -> None:
    blank = ask(config, with_other_pictures(prompts, "blank", seed=0))
    assert blank == [["(112, 112) (128, 128, 128) 0"], ["(140, 84) (128, 128, 128) 0"]]
    shuffled = ask(config, with_other_pictures(prompts, "shuffled", seed=0))
    assert shuffled == [["(112, 112) (0, 0, 0) 0"], ["(140, 84) (255, 255, 255) 0"]]


def test_a_busy_server_is_asked_again(config: Any, prompts: Any, served: Any) -> None:
    served.faults = [503]
    assert ask(config, prompts[:1]) == [["(112, 112) (255, 255, 255) 0"]]


@pytest.mark.parametrize(
    ("faults", "models", "message"),
    [
        ([500, 500, 500, 500], ["tiny"], "HTTP status 500"),
        ([404], ["tiny"], "HTTP status 404"),
        ([], ["a", "b"], "server.model: .* offers a, b: name one"),
    ],
)
def test_a_server_that_does_not_answer_is_one_line(
    config: Any, prompts: Any, served: Any, faults: Any, models: Any, message: str
) -> None:
    served.faults, served.models = faults, models
    with pytest.raises(InputError, match=message):
        ask(config, prompts[:1])


def test_pictures_go_to_this_machine_only_unless_told(config: Any) -> None:
    config.server.base_url = "https://api.example.com/v1"
    with pytest.raises(InputError, match=r"server\.trusted_hosts"):
        check_server(config.server)
    config.server.trusted_hosts = ["api.example.com"]
    check_server(config.server)
    config.server.api_key_env = "NO_SUCH_VARIABLE"
    with pytest.raises(InputError, match="NO_SUCH_VARIABLE is not set"):
        check_server(config.server)
