"""The console is a program's own lines; what its engines write is in the log."""

import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

BEGIN = """
import os, subprocess, sys
from pathlib import Path
from recipe import console
console.begin(Path(sys.argv[1]))
"""
# An engine: Python's and C's ways to the descriptors, and a process of its own.
NOISE = """
print("noise of print")
print("noise of stderr", file=sys.stderr)
os.write(1, b"noise of C\\n")
subprocess.run([sys.executable, "-c", "print('noise of a child')"], check=True)
"""
SPEAKING_CHILD = """
child = "from recipe import console; console.say('a line of a child'); print('noise')"
subprocess.run([sys.executable, "-c", child], check=True)
"""


def start(folder: Path, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BEGIN + code, str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **variables},
    )


def test_what_engines_write_is_in_the_log_alone(tmp_path: Path) -> None:
    done = start(tmp_path, NOISE + "console.say('a line of its own')")
    assert done.stdout.splitlines() == [f"log: {tmp_path}/log.txt", "a line of its own"]
    assert done.stderr == ""
    log = (tmp_path / "log.txt").read_text()
    for source in ("print", "stderr", "C", "a child"):
        assert f"noise of {source}\n" in log
    assert "a line of its own\n" in log
    assert log.startswith("==== ")


def test_a_child_s_own_line_is_shown_before_what_the_program_says_next(tmp_path: Path) -> None:
    done = start(tmp_path, SPEAKING_CHILD + "console.say('after it')")
    assert done.stdout.splitlines()[1:] == ["a line of a child", "after it"]
    assert (tmp_path / "console.txt").read_text() == done.stdout


def test_a_child_s_line_is_shown_while_the_program_waits(tmp_path: Path) -> None:
    code = SPEAKING_CHILD + "import time; time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", BEGIN + code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("log: ")
        assert process.stdout.readline() == "a line of a child\n"
        process.kill()


def test_a_failure_is_one_line_and_the_log_s_name_the_last(tmp_path: Path) -> None:
    failing = """
child = "from recipe import console; console.error('rank 1: out of memory')"
for _ in range(2):
    subprocess.run([sys.executable, "-c", child], check=True)
console.error("two\\nprocesses ended")
os.write(2, b"last words of an engine\\n")
"""
    done = start(tmp_path, failing)
    assert done.stderr.splitlines() == [
        "error: rank 1: out of memory",
        f"log: {tmp_path}/log.txt",
    ]
    assert "error: two processes ended" in (tmp_path / "log.txt").read_text()


def test_both_files_keep_earlier_starts(tmp_path: Path) -> None:
    for number in (1, 2):
        done = start(tmp_path, f"console.say('start {number}')")
        assert done.stdout.splitlines()[1:] == [f"start {number}"]
    for name in ("log.txt", "console.txt"):
        text = (tmp_path / name).read_text()
        assert text.index("start 1") < text.index("start 2")
    assert (tmp_path / "log.txt").read_text().count("==== ") == 2


def test_all_shows_the_log(tmp_path: Path) -> None:
    done = start(tmp_path, NOISE + "console.say('a line of its own')", THINKVG_CONSOLE="all")
    assert done.stdout == (tmp_path / "log.txt").read_text()
    assert "noise of a child" in done.stdout
    assert done.stdout.count("a line of its own") == 1


def test_another_mode_is_refused(tmp_path: Path) -> None:
    done = start(tmp_path, "", THINKVG_CONSOLE="some")
    assert "InputError: THINKVG_CONSOLE=some: choose own or all" in done.stderr


def test_secrets_of_the_command_line_stay_out_of_the_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BEGIN, str(tmp_path), "+cluster.env.HF_TOKEN=abc123"]
    subprocess.run([*command, "server=http://me:abc123@host"], check=True, capture_output=True)
    log = (tmp_path / "log.txt").read_text()
    assert "abc123" not in log
    assert "HF_TOKEN=***" in log


def test_the_program_goes_on_where_nobody_reads_its_console(tmp_path: Path) -> None:
    code = "import time\nfor n in range(50): console.say(f'line {n}'); time.sleep(0.01)\n"
    with subprocess.Popen(
        [sys.executable, "-c", BEGIN + code, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=60) == 0
    assert "line 49" in (tmp_path / "console.txt").read_text()


BAR = """
import time
for item in console.progress(range(3), desc="answering", unit="question"):
    time.sleep(0.2)
"""


def test_a_progress_bar_is_a_few_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    done = start(tmp_path, BAR)
    assert done.stderr == ""
    assert [re.sub(r"\d\d:\d\d", "TIME", line) for line in done.stdout.splitlines()[1:]] == [
        "answering: question 0 of 3, TIME",
        "answering: question 3 of 3, TIME",
    ]


def test_a_progress_bar_moves_on_a_terminal(tmp_path: Path) -> None:
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 80))
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + NOISE + BAR, str(tmp_path)], stdout=end, stderr=end
    )
    os.close(end)
    seen = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # Linux: the other side is closed
            break
        if not part:
            break
        seen += part
    os.close(terminal)
    assert process.wait(timeout=60) == 0
    assert seen.count(b"\ranswering:") >= 3
    assert b"100%" in seen
    assert b"noise" not in seen


PROGRAM = """
import sys
from pathlib import Path
from recipe import console, program
from data_prep.program import InputError
def work(config):
    console.begin(Path(config.out))
    {}
program.run("evaluate", work)
"""


def run_program(folder: Path, body: str) -> subprocess.Popen[str]:
    code = PROGRAM.format(body)
    return subprocess.Popen(
        [sys.executable, "-c", code, f"out={folder}", "data.dir=x", "cluster=cpu", "model=tiny"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("body", "code", "line"),
    [
        ("raise ValueError('a fault\\nthat nobody foresaw')", 1, "error: ValueError: a fault"),
        (
            "raise ValueError('in Engine:\\n  no such strategy\\nkey: x')",
            1,
            "error: ValueError: in Engine: no such strategy",
        ),
        ("raise InputError('the judge is gone')", 2, "error: the judge is gone"),
    ],
)
def test_a_program_that_fails_names_fault_and_log(
    tmp_path: Path, body: str, code: int, line: str
) -> None:
    process = run_program(tmp_path, body)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert output == f"log: {tmp_path}/log.txt\n"
    assert errors.splitlines() == [line, f"log: {tmp_path}/log.txt"]
    assert ("Traceback" in (tmp_path / "log.txt").read_text()) == (code == 1)


def test_an_interrupted_program_says_so(tmp_path: Path) -> None:
    process = run_program(tmp_path, "import time; console.say('begun'); time.sleep(60)")
    assert process.stdout is not None
    while process.stdout.readline() != "begun\n":
        pass
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert output == "interrupted\n"
    assert errors == ""
