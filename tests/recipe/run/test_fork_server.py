"""A Python that starts as a copy does what a Python does, with modules already imported."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from recipe.run import fork_server
from recipe.train.__main__ import ENGINE, LIBRARIES

WAIT_S = 120
SLEEP = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


@pytest.fixture(scope="module")
def python() -> Iterator[str]:
    """A Python whose copies have imported decimal at once and numpy at the first request."""
    path = fork_server.start(["decimal"], ["numpy"])
    yield path
    for server in servers():
        server.terminate()
        server.wait(WAIT_S)


def servers(pid: int | None = None) -> list[psutil.Process]:
    """The servers that a process (this one) has started and that run; at least one."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        alive = []
        for child in psutil.Process(pid).children():
            with contextlib.suppress(psutil.Error):  # it has ended
                if "recipe.run.fork_server" in child.cmdline():
                    alive.append(child)
        if alive:
            return alive
        time.sleep(0.02)
    raise AssertionError("there is no server")


def run(python: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [python, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, **options)  # type: ignore[call-overload, no-any-return]


def started(python: str) -> tuple[subprocess.Popen[str], psutil.Process]:
    """A copy that sleeps: the process that stands for it, and itself."""
    stand_in = subprocess.Popen([python, "-c", SLEEP], stdout=subprocess.PIPE, text=True)
    assert stand_in.stdout is not None
    return stand_in, psutil.Process(int(stand_in.stdout.readline()))


def test_a_copy_has_the_modules_and_what_its_process_was_given(python: str, tmp_path: Path) -> None:
    code = "import os, sys; print('numpy' in sys.modules, sys.argv, os.getcwd(), os.environ['OWN'])"
    code += "; print(sys.stdin.read(), file=sys.stderr); sys.exit(7)"
    environment = {**os.environ, "OWN": "a b"}
    done = run(python, "-c", code, "x", "y z", cwd=tmp_path, env=environment, input="in")
    assert done.stdout == f"True ['-c', 'x', 'y z'] {tmp_path} a b\n"
    assert done.stderr == "in\n"
    assert done.returncode == 7


def test_a_file_runs_as_the_main_module(python: str, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("VALUE = 3\n")
    script = tmp_path / "script.py"
    script.write_text("import beside\nif __name__ == '__main__': print(__file__, beside.VALUE)\n")
    assert run(python, str(script)).stdout == f"{script} 3\n"


def test_an_error_is_shown_as_pythons(python: str) -> None:
    done = run(python, "-c", "raise ValueError('wrong')")
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: wrong\n")


def test_what_a_copy_cannot_take_runs_in_a_plain_python(python: str) -> None:
    done = run(python, "-m", "json.tool", input="{}")
    assert (done.stdout, done.returncode) == ("{}\n", 0)


def test_a_signal_to_the_group_of_a_copy_leaves_others_alone(python: str) -> None:
    stand_in, copy = started(python)
    other, _ = started(python)
    os.killpg(os.getpgid(copy.pid), signal.SIGTERM)
    assert stand_in.wait(WAIT_S) == -signal.SIGTERM
    assert other.poll() is None
    other.kill()
    assert run(python, "-c", "import sys; print('numpy' in sys.modules)").stdout == "True\n"


def test_a_copy_can_name_itself(python: str) -> None:
    code = "import setproctitle, os; setproctitle.setproctitle('a title'); "
    code += "print(open(f'/proc/{os.getpid()}/cmdline').read().split(chr(0))[0])"
    assert run(python, "-c", code).stdout == "a title\n"


def test_copies_draw_different_random_numbers(python: str) -> None:
    code = "import random, numpy; print(random.random(), numpy.random.rand())"
    first, second = (run(python, "-c", code).stdout.split() for _ in range(2))
    assert first[0] != second[0]
    assert first[1] != second[1]


def test_open_files_keep_their_numbers(python: str) -> None:
    reader, writer = os.pipe()
    code = f"import os; os.write({writer}, b'here')"
    run(python, "-c", code, pass_fds=[writer])
    os.close(writer)
    assert os.read(reader, 10) == b"here"
    assert os.read(reader, 10) == b""  # nobody else holds it
    os.close(reader)


def test_a_copy_ends_when_what_stands_for_it_is_killed(python: str) -> None:
    stand_in, copy = started(python)
    stand_in.kill()
    copy.wait(WAIT_S)


def test_processes_that_are_killed_while_they_start_do_no_harm(python: str) -> None:
    for wait in [step * 0.005 for step in range(20)]:
        stand_in = subprocess.Popen([python, "-c", "pass"])
        time.sleep(wait)
        stand_in.kill()
        stand_in.wait(WAIT_S)
    assert run(python, "-c", "import sys; print('numpy' in sys.modules)").stdout == "True\n"


def test_a_copy_outlives_the_server(python: str) -> None:
    known = servers()
    python = fork_server.start(["decimal"])
    (server,) = [server for server in servers() if server not in known]
    stand_in, copy = started(python)
    server.kill()
    server.wait(WAIT_S)
    with pytest.raises(subprocess.TimeoutExpired):
        stand_in.wait(0.5)
    copy.kill()
    assert stand_in.wait(WAIT_S) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_stands_for_a_copy_ends_as_it_does(python: str, number: signal.Signals) -> None:
    stand_in, copy = started(python)
    copy.send_signal(number)
    assert stand_in.wait(WAIT_S) == -number


def test_a_signal_reaches_the_copy(python: str) -> None:
    stand_in, copy = started(python)
    stand_in.terminate()
    assert stand_in.wait(WAIT_S) == -signal.SIGTERM
    assert not copy.is_running()


SPAWN = """
import multiprocessing, sys
def work(queue): queue.put("numpy" in sys.modules)
if __name__ == "__main__":
    multiprocessing.set_executable(sys.argv[1])
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=work, args=(queue,))
    process.start()
    print(queue.get(timeout=20))
    process.join(20)
    process = context.Process(target=sys.exit, args=(5,))
    process.start()
    process.join(20)
    print(process.exitcode)
"""


def test_processes_of_multiprocessing_start_as_copies(python: str, tmp_path: Path) -> None:
    script = tmp_path / "spawn.py"
    script.write_text(SPAWN)
    done = run(sys.executable, str(script), python)
    assert done.stdout == "True\n5\n", done.stderr


def test_copies_of_the_engine_draw_their_own_ids() -> None:
    python = fork_server.start(LIBRARIES, ENGINE)
    code = "import os, ray; threads = os.listdir('/proc/self/task'); "
    code += "print(ray.ObjectID.from_random().hex(), len(threads))"
    (first, threads), (second, _) = (run(python, "-c", code).stdout.split() for _ in range(2))
    assert first != second
    assert (
        threads == "1"
    )  # a thread of the server would be missing in its copies, with what it holds


START = """
import sys, time
from recipe.run import fork_server
from recipe.train.__main__ import ENGINE, LIBRARIES
print(fork_server.start(["decimal"], ["numpy"]), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["exits", "is killed"])
def test_the_server_ends_with_the_process_that_started_it(end: str) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    owner = subprocess.Popen([sys.executable, "-c", START], text=True, **pipes)  # type: ignore[call-overload]
    python = owner.stdout.readline().strip()
    (server,) = servers(owner.pid)
    assert run(python, "-c", "import sys; print('numpy' in sys.modules)").stdout == "True\n"
    _, copy = started(python)
    owner.stdin.close() if end == "exits" else owner.kill()
    owner.wait(WAIT_S)
    deadline = time.monotonic() + WAIT_S
    while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if end == "exits":
        assert copy.is_running()
        copy.kill()
    else:
        copy.wait(WAIT_S)
        assert not Path(python).parent.exists()


@pytest.mark.parametrize(
    ("name", "replacement"),
    [("access", lambda *_: False), ("pidfd_open", lambda _: os.close(-1))],
)
def test_where_copies_cannot_be_it_is_a_plain_python(
    name: str, replacement: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, name, replacement)
    assert fork_server.start(["decimal"]) == sys.executable
