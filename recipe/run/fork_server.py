"""A process that imports the engine's libraries once, and then forks the processes of a run.

Each process of a run on one machine imports torch, transformers, verl or vLLM for 5 to 9 s of
processor time: Ray's workers, and those that vLLM starts. Started by `recipe.run.forked_python`,
they are copies of this server instead, which share its imports and their memory.

``python -m recipe.run.fork_server FILE MODULE,... MODULE,...``: listens at the socket with the
number FILE. It ends with its copies when its standard input ends, since its owner was killed.
"""

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import setproctitle

from recipe.run import forked_python
from recipe.run.forked_python import ERRORS, LENGTH, MOST_FILES, STATE

VARIABLE = "THINKVG_FORKED_PYTHON"
"""Variable with the Python that starts as a copy, for processes that start others."""

WAITING = 128
"""Most processes that wait for their copies at one time."""


def start(early: Sequence[str], late: Sequence[str] = ()) -> str:
    """Start a server, which ends with this process; return a Python that starts as a copy of it.

    The server imports the `early` modules at once; one that fails is left to the copies. It imports
    the `late` ones with the variables of the first copy: at import, Ray's compiled part reads
    variables that only its workers have. Where copies cannot be, the Python is this one.
    """
    folder = Path(tempfile.mkdtemp(prefix="tvg-fork-"))
    address = str(folder / "socket")
    python = folder / "python"
    copy = shlex.join([sys.executable, "-IS", forked_python.__file__, address])
    python.write_text(f'#!/bin/sh\nexec {copy} "$@"\n', encoding="utf-8")
    python.chmod(0o700)
    if not is_possible(python):
        shutil.rmtree(folder)
        return sys.executable
    with socket.socket(socket.AF_UNIX) as listener, (folder / ERRORS).open("wb") as errors:
        # Those who ask while the server imports wait for it.
        listener.bind(address)
        listener.listen(WAITING)
        command = [sys.executable, "-m", "recipe.run.fork_server", str(listener.fileno())]
        server = subprocess.Popen(
            [*command, ",".join(early), ",".join(late)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C is for the process that started it
        )
    atexit.register(_stop, server, folder)
    return str(python)


def is_possible(program: Path) -> bool:
    """Return whether a file of the temporary folder runs, and Linux (5.3) tells a process's end."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return os.access(program, os.X_OK)


def _stop(server: subprocess.Popen[bytes], folder: Path) -> None:
    server.terminate()
    shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Request:
    """What a process that asks for a copy has, and its connection."""

    connection: socket.socket
    arguments: list[str]
    variables: dict[str, str]
    folder: str
    oom_score_adj: str
    files: dict[int, int]  # by the number that the process knows it by


@dataclass
class Copy:
    """A copy, and the connection to the process that stands for it."""

    pid: int
    end: int  # a file that becomes readable when the copy has ended
    connection: socket.socket

    def tell(self, number: int) -> None:
        """Send a number to what stands for the copy, if it was not killed."""
        with contextlib.suppress(OSError):
            self.connection.sendall(STATE.pack(number))

    def report_end(self) -> None:
        """Send the exit code of a copy that has ended."""
        _, status = os.waitpid(self.pid, 0)
        self.tell(os.waitstatus_to_exitcode(status))
        self.connection.close()
        os.close(self.end)

    def kill(self) -> None:
        """Kill a copy, since nobody waits for it."""
        os.kill(self.pid, signal.SIGKILL)


def serve(listener: socket.socket, late: Sequence[str]) -> Request | None:
    """Fork a copy for each request; return the request in a copy, None in the server at its end.

    The `late` modules are imported at the first request.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                copy: Copy | None = key.data
                if key.fileobj is sys.stdin:
                    kill_all(selector)
                    shutil.rmtree(Path(listener.getsockname()).parent, ignore_errors=True)
                    return None
                if copy is None:
                    request = accept(listener)
                    if request is not None and late:
                        os.environ.update(request.variables)
                        late = import_all(late)
                    if request is not None and not fork(request, selector):
                        return request
                elif key.fd == copy.end:
                    selector.unregister(copy.end)
                    with contextlib.suppress(KeyError):
                        selector.unregister(copy.connection)
                    copy.report_end()
                elif copy.connection.fileno() >= 0:
                    selector.unregister(copy.connection)
                    copy.kill()


def accept(listener: socket.socket) -> Request | None:
    """Return the next request; None if the process that sent it ended while it did."""
    connection, _ = listener.accept()
    files: list[int] = []
    try:
        length, files, _, _ = socket.recv_fds(connection, LENGTH.size, MOST_FILES)
        with connection.makefile("rb") as stream:
            parts = json.loads(stream.read(*LENGTH.unpack(length)))
        parts["files"] = dict(zip(parts["files"], files, strict=True))
        return Request(connection, **parts)
    except (OSError, ValueError, struct.error):
        connection.close()
        for file in files:
            os.close(file)
        return None


def fork(request: Request, selector: selectors.BaseSelector) -> int:
    """Fork a copy for a request; return its process id, and 0 in the copy."""
    pid = os.fork()
    if not pid:
        close_all(selector)
        request.connection.close()
        return 0
    for file in request.files.values():
        os.close(file)
    copy = Copy(pid, os.pidfd_open(pid), request.connection)
    copy.tell(pid)
    selector.register(copy.end, selectors.EVENT_READ, copy)
    selector.register(copy.connection, selectors.EVENT_READ, copy)
    return pid


def kill_all(selector: selectors.BaseSelector) -> None:
    for key in selector.get_map().values():
        if key.data is not None and key.fd == key.data.end:
            key.data.kill()


def close_all(selector: selectors.BaseSelector) -> None:
    """Close in a copy what belongs to the server, but for standard input."""
    for key in list(selector.get_map().values()):
        if isinstance(key.fileobj, int):
            os.close(key.fileobj)
        elif isinstance(key.fileobj, socket.socket):
            key.fileobj.close()


def become(request: Request) -> None:
    """Do in a copy what a new Python would do."""
    os.setsid()  # Ray ends the whole process group of a worker
    os.chdir(request.folder)
    take_files(request.files)
    os.environ.clear()
    os.environ.update(request.variables)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(request.oom_score_adj, encoding="ascii")
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()  # all copies have the same random numbers; Python seeds its own
    for stream in (sys.stdout, sys.stderr):
        # The server's streams are no terminal, which makes Python write them in blocks.
        cast("io.TextIOWrapper", stream).reconfigure(line_buffering=True)
    run(request.arguments)


def take_files(files: dict[int, int]) -> None:
    """Give received files the numbers by which the process that sent them knows them."""
    beyond = max(*files, *files.values()) + 1
    for number, file in files.items():  # first out of the way of each other
        os.dup2(file, beyond + number)
        os.close(file)
    for number in files:
        os.dup2(beyond + number, number, inheritable=True)
        os.close(beyond + number)


def run(arguments: Sequence[str]) -> None:
    """Run ``-c CODE``, ``-m MODULE`` or a file as the main module."""
    if arguments[0] == "-m":
        sys.argv = list(arguments[1:])
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    # It stays the main module: runpy would take it away when the code has run, before threads end.
    main = sys.modules["__main__"] = ModuleType("__main__")
    if arguments[0] == "-c":
        path, code = "<string>", arguments[1]
        sys.argv = ["-c", *arguments[2:]]
    else:
        path = main.__file__ = arguments[0]
        code = Path(path).read_text(encoding="utf-8")
        sys.argv = list(arguments)
        sys.path.insert(0, str(Path(path).resolve().parent))
    exec(compile(code, path, "exec"), vars(main))


def import_all(modules: Sequence[str]) -> Sequence[str]:
    """Import modules, as far as that is possible; return none."""
    for module in modules:
        with contextlib.suppress(Exception):  # the copy that needs it says what is wrong
            importlib.import_module(module)
    gc.freeze()  # copies share these objects: collections would write to their pages
    return ()


def main() -> None:
    _, file, early, late = sys.argv
    # It finds the room for a process's title by the variables, before a copy gets others.
    setproctitle.getproctitle()
    with socket.socket(fileno=int(file)) as listener:
        import_all(early.split(","))
        request = serve(listener, late.split(",") if late else ())
    if request is not None:
        become(request)


if __name__ == "__main__":
    main()
