"""A Python that starts as a copy of a process that has imported everything.

``python -IS forked_python.py SOCKET ARGUMENTS`` does what ``python ARGUMENTS`` does, in a process
that the server at SOCKET forks (`recipe.run.fork_server`). This process stands for it: it passes
signals on, ends with its exit code, and if it is killed, so is the copy. Without a server, or for
arguments that a copy cannot take, it becomes a plain Python.
"""

import contextlib
import json
import os
import signal
import socket
import struct
import sys
import time
from types import FrameType

LENGTH = struct.Struct("!I")
"""Length of a message in bytes, before it."""
STATE = struct.Struct("!i")
"""The process id of the copy, then its exit code as `os.waitstatus_to_exitcode` has it."""
MOST_FILES = 64
ERRORS = "errors"
"""File beside the socket with the standard error of the server."""
NO_BYTECODE = "-B"
"""Option of Python that multiprocessing passes on; a copy writes bytecode as the server does."""
POLL_S = 0.2
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    """Ask for a copy, and end as it ends."""
    _, address, *arguments = sys.argv
    while arguments[:1] == [NO_BYTECODE]:
        del arguments[0]
    if not arguments or not (arguments[0] in ("-c", "-m") or arguments[0].endswith(".py")):
        start_plainly(arguments)
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(address)
            send_request(server, arguments)
            pid = receive(server)
        except OSError:
            pid = None
        if pid is None:
            start_plainly(arguments)
            return
        pass_signals_on(pid)
        code = receive(server)
        if code is None:
            wait_for(pid)
            raise SystemExit(f"error: the fork server ended before its copy{last_error(address)}")
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    raise SystemExit(code)


def start_plainly(arguments: list[str]) -> None:
    """Become a Python that imports everything itself."""
    os.execv(sys.executable, [sys.executable, *arguments])


def send_request(server: socket.socket, arguments: list[str]) -> None:
    """Send what a process has: arguments, variables, folder, open files."""
    files = open_files(server.fileno())
    request = {
        "arguments": arguments,
        "variables": dict(os.environ),
        "folder": os.getcwd(),
        "files": files,
        "oom_score_adj": read("/proc/self/oom_score_adj"),
    }
    message = json.dumps(request).encode()
    socket.send_fds(server, [LENGTH.pack(len(message))], files)
    server.sendall(message)


def open_files(besides: int) -> list[int]:
    """Return the open files that this process got from the one that started it."""
    files = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) != besides and os.get_inheritable(int(name)):
                files.append(int(name))
    return files[:MOST_FILES]


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


def last_error(address: str) -> str:
    """Return the last line of the server's standard error, if it is still there."""
    with contextlib.suppress(OSError):
        lines = read(os.path.join(os.path.dirname(address), ERRORS)).split("\n")
        return ": ".join(["", *[line for line in lines if line][-1:]])
    return ""


def wait_for(pid: int) -> None:
    """Wait until a process that is no child of this one has ended."""
    while os.path.exists(f"/proc/{pid}"):
        time.sleep(POLL_S)


def pass_signals_on(pid: int) -> None:
    """Send the copy what this process is sent."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)


def receive(server: socket.socket) -> int | None:
    """Return the next number, None if the server has ended."""
    data = b""
    while len(data) < STATE.size:
        try:
            part = server.recv(STATE.size - len(data))
        except ConnectionError:
            return None
        if not part:
            return None
        data += part
    return int(STATE.unpack(data)[0])


if __name__ == "__main__":
    main()
