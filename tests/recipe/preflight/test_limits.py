"""Limits of the machine, with real ones: each is reported before a run, with how to raise it."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest

from recipe.preflight import machine
from recipe.preflight.machine import cache_warnings, gpu_warnings, limit_faults
from recipe.preflight.values import read_workload
from recipe.program import compose_config

GIVEN = ["cluster=cpu", "model=tiny", "model.path=M", "data.dir=D"]
LIST = """
import json, sys
from recipe.preflight.machine import limit_faults, limit_warnings
from recipe.program import compose_config
program, *overrides = sys.argv[1:]
config = compose_config(program, overrides)
print(json.dumps([list(each(config, program)) for each in (limit_faults, limit_warnings)]))
"""


def told(
    *overrides: str, program: str = "train", within: Sequence[str] = (), **options: Any
) -> Any:
    """Faults and warnings in a process of its own, started by the command `within`."""
    command = [*within, sys.executable, "-c", LIST, program, *GIVEN, *overrides]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, timeout=120, check=True, **options
    )
    return json.loads(done.stdout)


@pytest.fixture
def mounted(cannot_run: Callable[[str], NoReturn]) -> Callable[..., list[str]]:
    """A command that starts another one with a file system of its own mounted at a folder."""
    if os.getuid() != 0 or shutil.which("unshare") is None:
        cannot_run("mounting needs root and unshare")

    def command(folder: Path, options: str, fill: bool = False) -> list[str]:
        full = f"head -c 4M /dev/zero >{folder}/filler 2>/dev/null; " if fill else ""
        script = f'mount -t tmpfs -o {options} none {folder} && {{ {full}exec "$0" "$@"; }}'
        return ["unshare", "-m", "sh", "-c", script]

    return command


def test_this_machine_is_large_enough() -> None:
    for program in ("train", "sft", "evaluate"):
        config = compose_config(program, GIVEN)
        assert list(limit_faults(config, program)) == []


READ_ONLY, FULL = ("ro", False), ("size=1m", True)
DISKS = [(READ_ONLY, "Read-only file system"), (FULL, "No space left on device")]


@pytest.mark.parametrize(("disk", "reason"), DISKS, ids=["read-only", "full"])
@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR", "HOME"])
def test_a_folder_of_the_environment(
    tmp_path: Path, mounted: Any, variable: str, disk: tuple[str, bool], reason: str
) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    faults, _ = told(within=mounted(tmp_path, *disk), env={**environment, variable: str(tmp_path)})
    assert len(faults) == 1, faults
    assert faults[0].startswith(f"{variable}={tmp_path}: nothing can be written there ({reason})")
    assert f"set {variable} to another folder" in faults[0]


@pytest.mark.parametrize(("disk", "reason"), DISKS, ids=["read-only", "full"])
@pytest.mark.parametrize(
    "program", ["recipe.train", "recipe.sft", "recipe.evaluate", "phantom.demo"]
)
def test_a_run_s_folder_ends_the_program_with_a_line(
    tmp_path: Path, mounted: Any, program: str, disk: tuple[str, bool], reason: str
) -> None:
    key = {"recipe.evaluate": "out", "phantom.demo": "--out"}.get(program, "run_dir")
    given = [] if program == "phantom.demo" else GIVEN
    command = [sys.executable, "-m", program, *given, f"{key}={tmp_path}/run"]
    done = subprocess.run(
        [*mounted(tmp_path, *disk), *command], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert done.stderr.startswith(f"error: {key}={tmp_path}/run: nothing can be written there")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_model_is_not_trained_that_cannot_be_saved(prepared: Path, mounted: Any) -> None:
    out = prepared / "unmade"
    out.mkdir()
    command = [sys.executable, "-m", "phantom.tiny", "--data", str(prepared / "data")]
    command += ["--pictures", str(prepared / "phantom" / "pictures.parquet"), f"--out={out}/model"]
    done = subprocess.run([*mounted(out, "ro"), *command], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --out={out}/model: nothing can be written there")
    assert "pre-training" not in done.stderr


def test_open_files() -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    faults, _ = told(preexec_fn=few)
    assert len(faults) == 1
    assert faults[0].startswith("ulimit -n: 40 open files are allowed and this run takes about ")
    assert "ulimit -Hn 8192" in faults[0]


def test_fewer_open_files_than_ray_advises_are_a_warning() -> None:
    def some() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))

    faults, warnings = told("cluster=h100x8", preexec_fn=some)
    assert not any("ulimit -n" in fault for fault in faults)
    assert any("ulimit -n: 4096 open files" in warning for warning in warnings)


def test_processes_of_a_user(cannot_run: Callable[[str], NoReturn]) -> None:
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        cannot_run("becoming another user needs root and setpriv")
    reads_all = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    other = ["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups", *reads_all]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    faults, _ = told(within=["prlimit", "--nproc=100", *other], env=environment)
    assert len(faults) == 1, faults
    assert faults[0].startswith("ulimit -u: ")
    assert "more threads are allowed" in faults[0]
    assert told(within=["prlimit", "--nproc=20000", *other], env=environment)[0] == []


def test_processes_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CONTROL_GROUP", tmp_path)
    (tmp_path / "pids.current").write_text("40\n")
    config = compose_config("train", GIVEN)
    for most, problem in (("100\n", True), ("50000\n", False), ("max\n", False)):
        (tmp_path / "pids.max").write_text(most)
        assert any("--pids-limit" in fault for fault in limit_faults(config, "train")) == problem


def test_more_workers_take_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that is enough for one GPU is not for 64 of them, nor for a machine of 256 cores."""
    monkeypatch.setattr(machine, "CONTROL_GROUP", tmp_path)
    (tmp_path / "pids.current").write_text("0\n")
    (tmp_path / "pids.max").write_text("1000\n")
    small = compose_config("train", [*GIVEN, "cluster.ray.num_cpus=null"])
    large = compose_config("train", [*GIVEN, "cluster.gpus_per_node=64"])
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert list(limit_faults(small, "train")) == []
    assert any("pids.max" in fault for fault in limit_faults(large, "train"))
    monkeypatch.setattr(os, "cpu_count", lambda: 256)
    assert any("pids.max" in fault for fault in limit_faults(small, "train"))


def test_shared_memory(tmp_path: Path, mounted: Any) -> None:
    within = mounted(Path("/dev/shm"), "size=32m")
    faults, warnings = told(within=within)  # a bucket of 64 MiB, weights unknown
    assert len(faults) == 1
    assert "32 MiB are free, the weights on their way to vLLM take 64" in faults[0]
    assert "--shm-size" in faults[0]
    (tmp_path / "model.safetensors").write_bytes(bytes(1 << 20))
    faults, warnings = told(f"model.path={tmp_path}", within=within)
    assert faults == []
    assert any("/dev/shm: 32 MiB are free" in warning for warning in warnings)


def test_docker_s_shared_memory_is_too_little_for_several_gpus(mounted: Any) -> None:
    within = mounted(Path("/dev/shm"), "size=64m")
    for program in ("train", "sft", "evaluate"):
        faults, _ = told("cluster=h100x8", program=program, within=within)
        assert any("NCCL and vLLM take more than 64" in fault for fault in faults)
    assert told(program="sft", within=within)[0] == []


def test_little_temporary_space_is_a_warning(tmp_path: Path, mounted: Any) -> None:
    within = mounted(tmp_path, "size=100m")
    faults, warnings = told(within=within, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert faults == []
    assert any(warning.startswith(f"TMPDIR={tmp_path}: 100 MiB") for warning in warnings)


@pytest.mark.parametrize(("mebibytes", "said"), [("40960\n40960", "40.0 GiB"), ("81559", "")])
def test_a_smaller_gpu_than_configured_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mebibytes: str, said: str
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{mebibytes}\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = compose_config("train", ["data.dir=D"])
    lines = list(gpu_warnings(config, read_workload(config, "train")))
    assert len(lines) == bool(said)
    assert all(said in line and "choose another cluster=" in line for line in lines)


Mount = namedtuple("Mount", "mountpoint fstype")


@pytest.fixture
def network_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home on a network disk."""
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "user"))
    mounts = [Mount("/", "ext4"), Mount(str(tmp_path / "home"), "nfs4")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    return tmp_path / "home" / "user"


def test_caches_of_several_nodes_on_a_network_disk(
    network_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = compose_config("train", [*GIVEN, "cluster=h100x8", "cluster.nodes=2"])
    found = list(cache_warnings(nodes))
    assert len(found) == 1
    names = "TRITON_CACHE_DIR, VLLM_CACHE_ROOT, FLASHINFER_WORKSPACE_BASE, CUDA_CACHE_PATH: "
    assert found[0].startswith(names)
    assert "(nfs4)" in found[0]
    monkeypatch.setenv("TRITON_CACHE_DIR", "/tmp/cache")
    assert next(cache_warnings(nodes)).startswith("VLLM_CACHE_ROOT, ")
    alone = compose_config("train", [*GIVEN, "cluster=h100x8"])
    assert list(cache_warnings(alone)) == []


def test_warnings_are_in_the_plan(prepared: Path, mounted: Any) -> None:
    command = [sys.executable, "-m", "recipe.preflight", "--json", "cluster=cpu", "model=tiny"]
    command += ["experiment=demo_grpo", f"data.dir={prepared / 'data'}"]
    command += [f"model.path={prepared / 'model'}"]
    within = mounted(Path("/dev/shm"), "size=64m")
    done = subprocess.run([*within, *command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert "/dev/shm: 64 MiB are free" in json.loads(done.stdout)["warnings"][0]
