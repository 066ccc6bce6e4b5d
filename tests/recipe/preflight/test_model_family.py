"""The family of a model that is named as on the hub: cache, known shapes, hub, name."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ASK = "import sys; from recipe.preflight.model import hub_config; "
ASK += "print(hub_config(sys.argv[1]).get('model_type'))"


class Hub(http.server.BaseHTTPRequestHandler):
    """Has one model, of a name that tells nothing."""

    def do_GET(self) -> None:
        known = self.path == "/somebody/fine-tuned/resolve/main/config.json"
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(json.dumps({"model_type": "qwen3_vl"}).encode() if known else b"")

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def ask(name: str, home: Path, **variables: str) -> tuple[str, str]:
    """The family that a process of its own finds, and what it says."""
    found = subprocess.run(
        [sys.executable, "-c", ASK, name],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": "http://127.0.0.1:9", **variables},
    )
    return found.stdout.strip(), found.stderr


def test_the_cache_has_the_first_word(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--Qwen--Qwen2.5-VL-7B-Instruct"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"model_type": "cached"}')
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert ask("Qwen/Qwen2.5-VL-7B-Instruct", tmp_path) == ("cached", "")


def test_the_hub_is_asked(tmp_path: Path, hub: str) -> None:
    assert ask("somebody/fine-tuned", tmp_path, HF_ENDPOINT=hub) == ("qwen3_vl", "")


def test_no_hub_is_asked_offline(tmp_path: Path, hub: str) -> None:
    family, said = ask("somebody/fine-tuned", tmp_path, HF_ENDPOINT=hub, HF_HUB_OFFLINE="1")
    assert family == "None"
    assert said.startswith("note: model.path=somebody/fine-tuned: its family is unknown")


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Qwen/Qwen2.5-VL-72B-Instruct", "qwen2_5_vl"),
        ("Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl"),
        ("me/qwen2.5-vl-3b-thinkvg", "qwen2_5_vl"),
        ("me/my_qwen2_5_vl_tuned", "qwen2_5_vl"),
        ("Qwen/Qwen2-VL-7B-Instruct", "qwen2_vl"),
    ],
)
def test_without_a_hub_the_name_tells(tmp_path: Path, name: str, family: str) -> None:
    assert ask(name, tmp_path) == (family, "")


def test_what_nobody_knows_is_told_on_one_line(tmp_path: Path) -> None:
    family, said = ask("somebody/unknown", tmp_path)
    assert family == "None"
    assert said.count("\n") == 1
    assert "not checked" in said
