"""Settings of every test process, and servers that stand in for a judge and for W&B."""

import gzip
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import hypothesis
import numpy as np
import pytest

from benchmarks.report import find_chromium
from phantom.draw.__main__ import main as phantom_main

# Before verl is imported anywhere: these machines have no accelerator.
os.environ.setdefault("VERL_PLATFORM", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")

# How long an example takes says nothing here: machines differ, and are shared.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


class JudgeServer:
    """`tests/fault_server.py` in a process of its own; `url` is its base URL."""

    def __init__(self, port: int) -> None:
        self.root = f"http://127.0.0.1:{port}"
        self.url = f"{self.root}/v1"

    def control(self, **control: Any) -> None:
        """Set what it does from now on, and forget what it saw."""
        self._send(json.dumps(control).encode())

    def seen(self) -> dict[str, Any]:
        """What it saw since."""
        return dict(json.loads(self._send(None)))

    def _send(self, body: bytes | None) -> bytes:
        with urllib.request.urlopen(f"{self.root}/control", body, timeout=30) as reply:
            return bytes(reply.read())


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small clean phantom set."""
    out = tmp_path_factory.mktemp("phantom")
    assert phantom_main(["--out", str(out), "--images", "400", "--workers", "1"]) == 0
    return out


@pytest.fixture(scope="session")
def judge_process() -> Iterator[JudgeServer]:
    """A running judge server."""
    script = Path(__file__).with_name("fault_server.py")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield JudgeServer(int(process.stdout.readline()))
        finally:
            process.kill()


@pytest.fixture
def judge_server(judge_process: JudgeServer) -> JudgeServer:
    """The judge server without faults, and without memory of other tests."""
    judge_process.control()
    return judge_process


@pytest.fixture(scope="session")
def cannot_run() -> Callable[[str], NoReturn]:
    """Skip a test for something that this machine lacks; where nothing may be skipped, fail."""

    def end(reason: str) -> NoReturn:
        if os.environ.get("THINKVG_SKIP_NOTHING"):
            pytest.fail(reason)
        pytest.skip(reason)

    return end


@pytest.fixture(scope="session")
def chromium(cannot_run: Callable[[str], NoReturn]) -> str:
    """The program of a browser."""
    found = find_chromium()
    if found is None:
        cannot_run("no Chromium here: apt-get install --no-install-recommends chromium")
    return found


@pytest.fixture(scope="session")
def is_colour() -> Callable[[np.ndarray, Sequence[int]], np.ndarray]:
    """Which pixels of a picture, (height, width, 3), are of about a colour."""

    def mask(pixels: np.ndarray, colour: Sequence[int]) -> np.ndarray:
        return np.abs(pixels - np.array(colour, dtype=np.int16)).max(axis=-1) < 60

    return mask


@pytest.fixture(scope="session")
def on_edges() -> Callable[[np.ndarray, Sequence[float], int], list[float]]:
    """For each edge of a box the share of its middle part with a marked pixel within `slack`."""

    def shares(mask: np.ndarray, box: Sequence[float], slack: int) -> list[float]:
        x1, y1, x2, y2 = (round(side) for side in box)
        inset_x, inset_y = (x2 - x1) // 5, (y2 - y1) // 5
        xs, ys = slice(x1 + inset_x, x2 - inset_x), slice(y1 + inset_y, y2 - inset_y)
        band = [slice(max(0, at - slack), at + slack + 1) for at in (y1, y2, x1, x2)]
        return [
            *(mask[rows, xs].any(axis=0).mean() for rows in band[:2]),
            *(mask[ys, columns].any(axis=1).mean() for columns in band[2:]),
        ]

    return shares


WANDB_ENTITY = "someone"
WANDB_HISTORY = "wandb-history.jsonl"
Lines = dict[int, str]


class WandbServer:
    """A stub of W&B's server: what it has of each run, its files line by line.

    It answers the public client (github.com/wandb/wandb: core/api/graphql, core/internal/
    filestream): GraphQL, the file stream and uploads. A chunk of a file is lines and the number of
    its first line; lines that are there already are replaced and counted. The client learns how
    many lines of history a run has when it announces the run, and by the query for a resume.
    """

    def __init__(self) -> None:
        self.address = ""
        self.runs: dict[str, dict[str, Lines]] = {}
        self.configs: dict[str, str] = {}
        self.uploads: dict[str, bytes] = {}
        self.operations: list[str] = []
        self.replaced = 0

    def history(self, run: str) -> list[dict[str, Any]]:
        """The history of a run, in the order of its lines."""
        lines = self.runs[run].get(WANDB_HISTORY, {})
        return [json.loads(lines[number]) for number in sorted(lines)]

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The answer to a query, in the words that the client asks for."""
        operation = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = operation[1] if operation else ""
        self.operations.append(name)
        answer = getattr(self, f"_{name}", None)
        return answer(variables) if answer else {}

    def file_stream(self, run: str, body: dict[str, Any]) -> None:
        """Put each chunk at its place."""
        for name, chunk in body.get("files", {}).items():
            lines = self.runs.setdefault(run, {}).setdefault(name, {})
            for number, line in enumerate(chunk["content"], chunk["offset"]):
                self.replaced += name == WANDB_HISTORY and number in lines
                lines[number] = line

    def _count(self, run: str) -> int:
        return len(self.runs.get(run, {}).get(WANDB_HISTORY, {}))

    def _Viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        nobody: dict[str, Any] = {"edges": []}
        viewer = {
            "id": "1",
            "entity": WANDB_ENTITY,
            "username": WANDB_ENTITY,
            "email": "",
            "flags": "{}",
        }
        return {"viewer": viewer | {"teams": nobody, "admin": False}}

    def _ServerFeaturesQuery(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _ServerInfo(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"cliVersionInfo": {}, "latestLocalVersionInfo": None}}

    def _UpsertBucket(self, asked: dict[str, Any]) -> dict[str, Any]:
        run = asked.get("name") or asked["id"]
        inserted = run not in self.runs
        self.runs.setdefault(run, {})
        if asked.get("config"):
            self.configs[run] = asked["config"]
        project = {"id": "1", "name": asked.get("project") or "", "entity": self._entity()}
        bucket = {
            **{"id": run, "name": run, "displayName": run, "description": None, "config": "{}"},
            **{"sweepName": None, "project": project, "historyLineCount": self._count(run)},
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _RunResumeStatus(self, asked: dict[str, Any]) -> dict[str, Any]:
        run = asked["name"]
        bucket = None
        if run in self.runs:
            tail = [json.dumps(self.history(run)[-1])] if self._count(run) else []
            bucket = {
                **{"id": run, "name": run, "displayName": run, "summaryMetrics": "{}"},
                **{"logLineCount": 0, "historyLineCount": self._count(run), "eventsLineCount": 0},
                **{"historyTail": json.dumps(tail), "eventsTail": "[]", "tags": [], "notes": None},
                **{"config": self.configs.get(run, "{}"), "wandbConfig": '{"t": {}}'},
            }
        model = {"id": "1", "name": asked["project"], "entity": self._entity(), "bucket": bucket}
        return {"model": model}

    def _ArtifactType(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"project": None}

    def _CreateArtifact(self, _: dict[str, Any]) -> dict[str, Any]:
        artifact = {"id": "1", "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def _CreateArtifactManifest(self, asked: dict[str, Any]) -> dict[str, Any]:
        url = f"{self.address}/storage/{asked['runName']}/manifest"
        file = {"id": "1", "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "1", "file": file}}}

    def _CreateArtifactFiles(self, asked: dict[str, Any]) -> dict[str, Any]:
        names = [file["name"] for file in asked["input"]["artifactFiles"]]
        nodes = [
            {
                **{"uploadUrl": f"{self.address}/storage/artifacts/{name}", "storagePath": name},
                **{"uploadHeaders": [], "uploadMultipartUrls": None, "artifact": {"id": "1"}},
            }
            for name in names
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def _CommitArtifact(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"commitArtifact": {"artifact": {"id": "1", "digest": ""}}}

    def _CreateRunFiles(self, asked: dict[str, Any]) -> dict[str, Any]:
        address = f"{self.address}/storage/{asked['run']}"
        files = [{"name": n, "uploadUrl": f"{address}/{n}"} for n in asked["files"]]
        return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": files}}

    def _entity(self) -> dict[str, str]:
        return {"id": "1", "name": WANDB_ENTITY}


def _handler(server: WandbServer, lock: threading.Lock) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _body(self) -> bytes:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            is_packed = self.headers.get("Content-Encoding") == "gzip"
            return gzip.decompress(body) if is_packed else body

        def _answer(self, content: dict[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            path, body = urlsplit(self.path).path, self._body()
            asked = json.loads(body or b"{}")
            with lock:
                if path == "/graphql":
                    reply = server.graphql(asked["query"], asked.get("variables") or {})
                    self._answer({"data": reply})
                elif path.endswith("/file_stream"):
                    server.file_stream(path.split("/")[-2], asked)
                    self._answer({})
                else:
                    self.send_error(404)

        def do_PUT(self) -> None:
            with lock:
                server.uploads[urlsplit(self.path).path.removeprefix("/storage/")] = self._body()
            self._answer({})

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@pytest.fixture
def wandb_server() -> Iterator[WandbServer]:
    """A server on a free port of this machine; `address` is its base URL."""
    server, lock = WandbServer(), threading.Lock()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(server, lock)) as listening:
        server.address = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()


@pytest.fixture
def wandb_environment(wandb_server: WandbServer, tmp_path: Path) -> dict[str, str]:
    """Variables of a process whose W&B client finds the stub and nothing of this process's own."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    stub = {"WANDB_BASE_URL": wandb_server.address, "WANDB_API_KEY": "x" * 40}
    return clean | stub | {"WANDB_MODE": "offline", "HOME": str(tmp_path)}


@pytest.fixture
def uploaded(
    wandb_server: WandbServer, wandb_environment: dict[str, str]
) -> Callable[[Path], list[dict[str, Any]]]:
    """Upload a run folder by `recipe.sync`; returns the history that the server then has."""

    def upload(run_dir: Path) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "recipe.sync", str(run_dir)]
        ended = subprocess.run(
            command, env=wandb_environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        return wandb_server.history((run_dir / "wandb_run_id").read_text().strip())

    return upload
