"""A dataset by its name on the hub: a server on this machine speaks the hub's protocol."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

COMMIT, NAME = "a" * 40, "owner/name"
FILE = "data/train-00000-of-00001.parquet"


class Hub(BaseHTTPRequestHandler):
    """Answers what `datasets` asks about a repository of one parquet file, `content`."""

    content = b""
    asked: list[str]

    def log_message(self, *_):
        pass

    def _send(self, content, **headers):
        self.send_response(200)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def do_GET(self):
        path = self.path.split("?")[0]
        self.asked.append(path)
        entry = {"type": "file", "path": FILE, "size": len(self.content), "oid": "b" * 40}
        if path.endswith(FILE):
            self._send(self.content, X_Repo_Commit=COMMIT, ETag=f'"{"c" * 40}"')
        elif path.endswith("/data") and "/tree/" in path:
            self._send(json.dumps([entry]).encode())
        elif "/tree/" in path:
            folder = {"type": "directory", "path": "data", "oid": "d" * 40, "size": 0}
            self._send(json.dumps([folder]).encode())
        elif path.startswith(f"/api/datasets/{NAME}"):
            siblings = [{"rfilename": FILE}]
            info = {"id": NAME, "sha": COMMIT, "private": False, "siblings": siblings, "tags": []}
            self._send(json.dumps(info).encode())
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()

    do_HEAD = do_GET


@pytest.fixture
def prepare_from_hub(phantom, tmp_path):
    """Runs the preparation on the hub's dataset, with the server there or not."""
    Hub.content, Hub.asked = (phantom / FILE).read_bytes(), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def prepare(source, offline=False):
        environment = os.environ | {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": str(int(offline)),
        }
        command = ["--source", source, "--images", str(phantom), "--out", str(tmp_path / "out")]
        Hub.asked.clear()
        return subprocess.run(
            [sys.executable, "-m", "data_prep.thinkvg", *command, "--limit", "100"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    yield prepare
    server.shutdown()
    server.server_close()


def test_the_hubs_rows_are_read_and_read_again_without_it(prepare_from_hub, tmp_path):
    first = prepare_from_hub(f"hub:{NAME}@main")
    assert first.returncode == 0, first.stderr
    assert f"is commit {COMMIT}" in first.stderr
    assert any(path.endswith(FILE) for path in Hub.asked)
    audit = (tmp_path / "out" / "audit.json").read_text()
    assert json.loads(audit)["parameters"]["source"] == [f"hub:{NAME}@main (commit {COMMIT})"]
    assert json.loads(audit)["rows"]["train"] > 50

    again = prepare_from_hub(f"hub:{NAME}@main", offline=True)
    assert again.returncode == 0, again.stderr
    assert Hub.asked == []
    assert (tmp_path / "out" / "audit.json").read_text() == audit

    other = prepare_from_hub(f"hub:{NAME}@{'e' * 40}", offline=True)
    assert other.returncode == 2
    assert f"the cache holds commit {COMMIT}" in other.stderr.splitlines()[-1]


def test_a_dataset_that_is_not_there_is_named(prepare_from_hub):
    done = prepare_from_hub("hub:owner/other@main", offline=True)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert "--source hub:owner/other@main does not load" in last
    assert "hf download owner/other" in last
