"""A SLURM of three nodes for the tests of this folder, and jobs on it."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
NODES = 3
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "unshare", "nsenter", "ip")
# Two cores share the work of three nodes: Ray's own memory and processes are kept small.
SITE = """
site_ray=(--object-store-memory=200000000)
export THINKVG_PYTHON={python} THINKVG_SCRATCH=/tmp THINKVG_LOGS={logs}
export THINKVG_PROBE_TIMEOUT=10 THINKVG_MARGIN=15
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder runs on SLURM."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("slurm")
            item.add_marker(pytest.mark.timeout(900))


def missing() -> str:
    """Why there can be no SLURM here; empty where there can."""
    if os.getuid() != 0:
        return "SLURM in namespaces needs root"
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacking:
        return f"no {', '.join(lacking)} here: tools/slurm.sh installs them"
    trial = ["unshare", "--net", "--pid", "--mount", "--mount-proc", "--fork"]
    trial += ["ip", "link", "add", "br0", "type", "bridge"]
    done = subprocess.run(trial, capture_output=True, text=True, timeout=30)
    return f"no namespaces to be had: {done.stderr.strip()}" if done.returncode else ""


class Slurm:
    """A running SLURM; see lab.py."""

    def __init__(self, folder: Path, shared: Path) -> None:
        self.folder = folder
        lab = [sys.executable, str(Path(__file__).with_name("lab.py")), str(folder), str(NODES)]
        self._process = subprocess.Popen(
            [*lab, str(ROOT), str(shared)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pids = self._reply()

    def _reply(self) -> dict[str, int]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"SLURM did not start; its logs are in {self.folder}"
        return dict(json.loads(line))

    def order(self, order: str, node: str) -> None:
        """``kill`` or ``start`` a node."""
        assert self._process.stdin is not None
        print(order, node, file=self._process.stdin, flush=True)
        self.pids = self._reply()

    def _entering(self, node: str) -> list[str]:
        return ["nsenter", "--all", f"--target={self.pids[node]}", f"--wd={ROOT}", "--"]

    def popen(self, node: str, *command: str) -> "subprocess.Popen[bytes]":
        """Start a command on a node."""
        return subprocess.Popen([*self._entering(node), *command])

    def run(self, *command: str, on: str = "controller", **variables: str) -> str:
        """Run a command on the controller or a node; its output."""
        environment = {**os.environ, "SLURM_CONF": f"{self.folder}/slurm.conf", **variables}
        done = subprocess.run(
            [*self._entering(on), *command],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def same_space(self, pid: int, node: str) -> bool:
        """Whether a process of this machine is one of the node."""
        try:
            return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(
                f"/proc/{self.pids[node]}/ns/pid"
            )
        except OSError:
            return False

    def processes(self, node: str) -> list[str]:
        """Command lines on a node, but for its first process and slurmd."""
        found = []
        for process in psutil.process_iter():
            try:
                if self.same_space(process.pid, node) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()) or process.name())
            except psutil.Error:
                continue
        own = ("bash -c while :", "sleep 3600", "slurmd")
        return [line for line in found if not line.startswith(own)]

    def close(self) -> None:
        """End SLURM and all that runs in it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


class Job:
    """A submitted job."""

    def __init__(self, slurm: Slurm, number: str, log: Path) -> None:
        self.slurm, self.number, self._log = slurm, number, log

    @property
    def log(self) -> str:
        """The job's log so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def show(self) -> dict[str, str]:
        """What SLURM says of the job."""
        text = self.slurm.run("scontrol", "show", "job", self.number)
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    @property
    def state(self) -> str:
        """The job's state."""
        return self.show()["JobState"]

    def wait(self, until: Callable[[], bool], what: str, timeout: float = 120) -> None:
        """Wait until something holds."""
        deadline = time.monotonic() + timeout
        while not until():
            assert time.monotonic() < deadline, f"{what}: not within {timeout} s\n{self.log}"
            time.sleep(0.3)

    def wait_for_log(self, text: str, timeout: float = 120) -> None:
        """Wait until the log holds `text`; fails at once where the job ends before."""

        def found() -> bool:
            ended = self.state in ("FAILED", "CANCELLED", "TIMEOUT", "COMPLETED")
            assert text in self.log or not ended, f"the job ended without {text!r}\n{self.log}"
            return text in self.log

        self.wait(found, f"{text!r} in the log", timeout)

    def wait_for_end(self, state: str, timeout: float = 120, alone: bool = True) -> None:
        """Wait until the job has ended, in `state`, and (`alone`) no process is left on a node."""
        ends = ("FAILED", "CANCELLED", "TIMEOUT", "COMPLETED", "NODE_FAIL", "OUT_OF_MEMORY")
        self.wait(lambda: self.state in ends, f"end of the job, as {state}", timeout)
        assert self.state == state, self.log
        nodes = self.slurm.pids.keys() - {"controller"}
        if alone:
            self.wait_for_silence(*nodes)

    def wait_for_silence(self, *nodes: str) -> None:
        """Wait until no process is left on `nodes`, 15 s at most."""
        began = time.monotonic()
        while left := {node: found for node in nodes if (found := self.slurm.processes(node))}:
            assert time.monotonic() - began < 15, left
            time.sleep(0.3)


@pytest.fixture(scope="session")
def slurm(
    tmp_path_factory: pytest.TempPathFactory, cannot_run: Callable[[str], NoReturn]
) -> Iterator[Slurm]:
    """A SLURM of three nodes with eight fake GPUs each."""
    reason = missing()
    if reason:
        cannot_run(f"NOTHING OF THE SLURM LAUNCHER IS TESTED: {reason}")
    cluster = Slurm(tmp_path_factory.mktemp("slurm"), tmp_path_factory.getbasetemp())
    try:
        yield cluster
    finally:
        cluster.close()


Submit = Callable[..., Job]


@pytest.fixture
def submit(slurm: Slurm, tmp_path: Path) -> Iterator[Submit]:
    """``submit(SCRIPT, *arguments, options=(…), **variables)``; jobs end with the test."""
    jobs: list[Job] = []
    deadline = time.monotonic() + 60
    while slurm.run("sinfo", "--noheader", "--format=%D %T").split() != [str(NODES), "idle"]:
        assert time.monotonic() < deadline, slurm.run("sinfo")
        time.sleep(0.3)

    def command(
        script: str, *arguments: str, options: tuple[str, ...] = (), **variables: str
    ) -> Job:
        site = tmp_path / "site.sh"
        site.write_text(SITE.format(python=sys.executable, logs=tmp_path / "logs"))
        log = tmp_path / f"job-{len(jobs)}.log"
        fixed = ["--parsable", f"--output={log}", "--gpus-per-node=2", "--nodes=2", "--time=15"]
        fixed += ["--signal=B:USR1@60"]
        text = slurm.run(
            *("sbatch", *fixed, *options, f"launch/slurm/{script}", *arguments),
            THINKVG_SITE=str(site),
            **variables,
        )
        jobs.append(Job(slurm, text.strip(), log))
        return jobs[-1]

    yield command
    for job in jobs:
        if job.state not in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"):
            slurm.run("scancel", job.number)
