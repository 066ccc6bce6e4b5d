"""A long temporary folder and low soft limits do not stop a program: real sockets, a real Ray."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from data_prep.program import InputError
from recipe.run import host

PREPARE = """
from recipe.program import compose_config, set_environment
config = compose_config("train", ["cluster=cpu", "model=tiny", "model.path=M", "data.dir=D"])
set_environment(config)
"""
SOCKETS = """
import os, tempfile
from multiprocessing.connection import Listener
import zmq
from vllm.utils.network_utils import get_open_zmq_ipc_path
Listener(family="AF_UNIX").close()
zmq.Context().socket(zmq.REP).bind(get_open_zmq_ipc_path())
print(os.path.realpath(tempfile.gettempdir()))
"""
RAY = """
import ray
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
print(ray.get(ray.remote(lambda: "answered").remote()))
"""


def run(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, **options
    )


@pytest.fixture
def long_folder(tmp_path: Path) -> Path:
    """A temporary folder with a path too long for any socket in it."""
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    return folder


@pytest.mark.timeout(180)
@pytest.mark.parametrize("variables", [["TMPDIR"], ["RAY_TMPDIR"], ["TMPDIR", "RAY_TMPDIR"]])
def test_ray_starts_with_a_long_temporary_folder(long_folder: Path, variables: list[str]) -> None:
    environment = {**os.environ, **dict.fromkeys(variables, str(long_folder))}
    done = run(PREPARE + RAY, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "answered\n"
    assert (long_folder / "ray").is_dir()


def test_sockets_of_others_are_made_there(long_folder: Path) -> None:
    done = run(PREPARE + SOCKETS, env={**os.environ, "TMPDIR": str(long_folder)})
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == f"{long_folder}\n"


def test_a_folder_that_is_short_enough_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/" + "x" * (host.LONGEST_PATH - 1))
    host.adapt()
    assert len(os.environ["TMPDIR"]) == host.LONGEST_PATH


def test_the_short_name_is_always_the_same(
    long_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    for _ in range(2):
        monkeypatch.setenv("TMPDIR", str(long_folder))
        host.adapt()
        names.append(os.environ["TMPDIR"])
    assert names[0] == names[1]
    assert len(names[0]) <= host.LONGEST_PATH


def test_names_of_folders_that_are_gone_are_removed(long_folder: Path) -> None:
    first = Path(host.short_path("TMPDIR", str(long_folder)))
    long_folder.rmdir()
    assert first.is_symlink()
    second = Path(host.short_path("TMPDIR", str(long_folder.with_name("y" * 100))))
    assert not first.is_symlink()
    assert second.is_dir()


def test_a_name_that_leads_elsewhere_is_not_followed(
    long_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(long_folder))
    host.adapt()
    link = Path(os.environ["TMPDIR"])
    link.unlink()
    link.symlink_to(tmp_path)
    monkeypatch.setenv("TMPDIR", str(long_folder))
    with pytest.raises(InputError, match=r"set TMPDIR to a folder with a shorter path"):
        host.adapt()
    link.unlink()


def test_without_a_link_the_length_is_told(
    long_folder: Path, cannot_run: Callable[[str], NoReturn]
) -> None:
    if os.getuid() != 0:
        cannot_run("a read-only /tmp needs root")
    read_only = 'mount --bind /tmp /tmp && mount -o remount,bind,ro /tmp && exec "$0" "$@"'
    command = ["unshare", "-m", "sh", "-c", read_only]
    program = [sys.executable, "-m", "recipe.preflight", "cluster=cpu", "model=tiny"]
    done = subprocess.run(
        [*command, *program, "data.dir=D", "model.path=M"],
        env={**os.environ, "TMPDIR": str(long_folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: TMPDIR={long_folder}: the path is ")


def test_soft_limits_are_raised() -> None:
    code = "import resource as r; print(r.getrlimit(r.RLIMIT_NOFILE), r.getrlimit(r.RLIMIT_NPROC))"
    limits = {resource.RLIMIT_NOFILE: (64, 2048), resource.RLIMIT_NPROC: (900, 5000)}

    def lower() -> None:
        for limit, value in limits.items():
            resource.setrlimit(limit, value)

    done = run(f"from recipe.run import host; host.adapt(); {code}", preexec_fn=lower)
    assert done.stdout == "(2048, 2048) (5000, 5000)\n", done.stderr


def test_open_files_are_raised_to_what_is_enough() -> None:
    code = "from recipe.run import host; import resource as r; "
    code += "print(r.getrlimit(r.RLIMIT_NOFILE)[0])"
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = host.OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, host.OPEN_FILES)
    done = run(code.replace("; import", "; host.adapt(); import"))
    assert int(done.stdout) >= most
