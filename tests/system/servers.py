"""Real servers for the system tests: vLLM's, and the head of a Ray cluster."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recipe.program import compose_config

START_LIMIT = 300.0
END_LIMIT = 60.0
RAY_ENVIRONMENT = {**os.environ, "RAY_AUTH_MODE": "disabled"}


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def vllm_server(model: Path, log: Path, images: int, *options: str) -> Iterator[str]:
    """Base URL of a real vLLM server, which ends with the block; a failure shows the log's end."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(model), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", *options]
    command += ["--limit-mm-per-prompt", json.dumps({"image": images, "video": 0})]
    # docs/evaluation.md: vLLM 0.28 on a CPU ends at a request with a seed that it computes in parts
    command += ["--no-enable-chunked-prefill"]
    env = dict(compose_config("evaluate", ["cluster=cpu", "data.dir=DIR"]).cluster.env)
    with (
        log.open("w") as out,
        subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **env}
        ) as server,
    ):
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}/v1"
        except BaseException:
            print(log.read_text(errors="replace")[-5000:])
            raise
        finally:
            server.terminate()


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            assert server.poll() is None, f"the server ended: {log}"
            assert time.monotonic() < deadline, f"the server does not answer: {log}"
            time.sleep(0.5)


@contextmanager
def ray_head(*options: str) -> Iterator[str]:
    """Address of a real Ray head without usage statistics; it ends with the block."""
    port = free_port()
    # Ray's sockets need a short path.
    folder = tempfile.mkdtemp(prefix="ray")
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    command += [f"--port={port}", f"--temp-dir={folder}", "--disable-usage-stats", *options]
    # the default, 52365, belongs to any other Ray on this machine
    command += [f"--dashboard-agent-listen-port={free_port()}"]
    head = subprocess.Popen(
        command,
        env=RAY_ENVIRONMENT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert head.stdout is not None
        for line in head.stdout:
            if "Ray runtime started" in line:
                break
        yield f"127.0.0.1:{port}"
    finally:
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(timeout=END_LIMIT)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
